# SPDX-License-Identifier: Apache-2.0
"""Miniature trees of data sets with a class for each image."""

import os
from collections.abc import Sequence
from pathlib import Path

from rsvheat.data.miniature.painter import Painter, write_picture
from rsvheat.data.miniature.tree import Miniature
from rsvheat.data.synthetic import COVERS

_AID = """
    Airport BareLand BaseballField Beach Bridge Center Church Commercial DenseResidential Desert
    Farmland Forest Industrial Meadow MediumResidential Mountain Park Parking Playground Pond
    Port RailwayStation Resort River School SparseResidential Square Stadium StorageTanks
    Viaduct
"""
_RESISC45 = """
    airplane airport baseball_diamond basketball_court beach bridge chaparral church
    circular_farmland cloud commercial_area dense_residential desert forest freeway golf_course
    ground_track_field harbor industrial_area intersection island lake meadow medium_residential
    mobile_home_park mountain overpass palace parking_lot railway railway_station
    rectangular_farmland river roundabout runway sea_ice ship snowberg sparse_residential
    stadium storage_tank tennis_court terrace thermal_power_station wetland
"""
AID, RESISC45 = (tuple(names.split()) for names in (_AID, _RESISC45))


def write_aid(
    folder: str | os.PathLike[str],
    size: int = 64,
    seed: int = 0,
    *,
    per_class: int = 4,
    other_spelling: bool = False,
) -> Miniature:
    """Write AID: a folder for each of 30 classes, with no official split.

    Traps: folders in capitals and files in lower case; ``Bareland`` and ``Baseballfield`` in some
    copies; numbers without leading zeros.

    Args:
        folder: Folder that gets ``AID``; made if need be.
        size: Side of an image in pixels (600 in the original).
        seed: Seed of the scenes.
        per_class: Number of images of each class.
        other_spelling: Whether to use the other copies' folder names.
    """
    root = Path(folder, "AID")
    other = {"BareLand": "Bareland", "BaseballField": "Baseballfield"}
    keys = []
    for name in AID:
        where = other.get(name, name) if other_spelling else name
        keys += [f"{where}/{name.lower()}_{n + 1}.jpg" for n in range(per_class)]
    _write_scene_classes(root, keys, len(AID), per_class, size, seed)
    traps = {"spelling": root / "Bareland"} if other_spelling else {}
    return Miniature(root, AID, {"all": tuple(keys)}, traps=traps)


def write_resisc45(
    folder: str | os.PathLike[str], size: int = 64, seed: int = 0, *, per_class: int = 4
) -> Miniature:
    """Write NWPU-RESISC45: a folder for each of 45 classes, with no official split.

    Traps: one class whose name begins another's: ``railway`` and ``railway_station``.

    Args:
        folder: Folder that gets ``NWPU-RESISC45``; made if need be.
        size: Side of an image in pixels (256 in the original).
        seed: Seed of the scenes.
        per_class: Number of images of each class, up to 700.
    """
    root = Path(folder, "NWPU-RESISC45")
    keys = [f"{name}/{name}_{n + 1:03}.jpg" for name in RESISC45 for n in range(per_class)]
    _write_scene_classes(root, keys, len(RESISC45), per_class, size, seed)
    return Miniature(
        root, RESISC45, {"all": tuple(keys)}, traps={"prefix": root / "railway_station"}
    )


def _write_scene_classes(
    root: Path, keys: Sequence[str], classes: int, per_class: int, size: int, seed: int
) -> None:
    """Write JPEG files whose class shows as cover, and as the color of a square."""
    for index, key in enumerate(keys):
        label = index // per_class
        scene = Painter(size, (seed, index), classes, COVERS[label % len(COVERS)])
        scene.add(label, 3, size // 4)
        write_picture(root / key, scene.picture(3))
