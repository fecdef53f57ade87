# SPDX-License-Identifier: Apache-2.0
"""Miniature trees in the official layouts of public data sets, for tests and first runs.

Folders, file names, bands, types, colors, codes and splits are those of the real ones; scenes are
synthetic and small. Each tree carries what readers stumble over: off-palette colors, labels that
mean nothing, odd sizes, files without a counterpart, splits that leak. Tables are written down here
anew and not taken from the readers, so that a tree can show a reader to be wrong.
"""

from rsvheat.data.miniature.box_trees import (
    DIOR,
    NWPU_VHR10,
    SAR_AIRCRAFT,
    write_dior,
    write_hrsid,
    write_nwpu_vhr10,
    write_sar_aircraft,
    write_ssdd,
)
from rsvheat.data.miniature.change import write_levir_cd
from rsvheat.data.miniature.masks import (
    AIR_POLSAR_SEG,
    ISAID,
    LOVEDA,
    POTSDAM,
    WHU_OPT_SAR,
    write_air_polsar_seg,
    write_isaid,
    write_loveda,
    write_potsdam,
    write_whu_opt_sar,
)
from rsvheat.data.miniature.oriented_trees import DOTA, FAIR1M, write_dota, write_fair1m
from rsvheat.data.miniature.scene_classes import AID, RESISC45, write_aid, write_resisc45
from rsvheat.data.miniature.tree import DrawnBox, Miniature

__all__ = [
    "AID",
    "AIR_POLSAR_SEG",
    "DIOR",
    "DOTA",
    "FAIR1M",
    "ISAID",
    "LOVEDA",
    "NWPU_VHR10",
    "POTSDAM",
    "RESISC45",
    "SAR_AIRCRAFT",
    "WHU_OPT_SAR",
    "DrawnBox",
    "Miniature",
    "write_aid",
    "write_air_polsar_seg",
    "write_dior",
    "write_dota",
    "write_fair1m",
    "write_hrsid",
    "write_isaid",
    "write_levir_cd",
    "write_loveda",
    "write_nwpu_vhr10",
    "write_potsdam",
    "write_resisc45",
    "write_sar_aircraft",
    "write_ssdd",
    "write_whu_opt_sar",
]
