# SPDX-License-Identifier: Apache-2.0
"""LoveDA: land cover of rural and urban areas."""

from collections.abc import Mapping, Sequence

from rsvheat.data.datasets.finding import (
    MASK,
    DataInfo,
    Found,
    find_files,
    find_folder,
    layout_error,
    make_mask_source,
)
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.masks import MaskCodes
from rsvheat.data.normalize import Sensor
from rsvheat.data.sources import check_modalities

INFO = DataInfo("LoveDA", "its authors (RSIDEA, Wuhan University)", "CC-BY-NC-SA-4.0")
CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
DOMAINS = ("Rural", "Urban")


class LoveDA(DatasetReader):
    """Reads LoveDA: ``Train`` and ``Val``; the labels of its test set are not public.

    Folders ``img_dir/train`` and ``ann_dir/train``, as mmsegmentation has them, are read too.

    Args:
        root: Folder of the data set, with ``Train/Rural/images_png`` and so on.
        domains: Domains to read, of ``"Rural"`` and ``"Urban"``.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self, root: str, *, domains: Sequence[str] = DOMAINS, modality: str = "optical"
    ) -> None:
        if not domains or set(domains) - set(DOMAINS):
            raise ValueError(f"domains must be some of {', '.join(DOMAINS)}, got {list(domains)}")
        check_modalities([modality])
        self.root, self.modality, self._domains = root, modality, tuple(domains)
        values = {name: number for number, name in enumerate(CLASSES, 1)}
        self.codes = MaskCodes(values=values, ignored=[0])

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        splits = {}
        for split in ("Train", "Val"):
            found: list[Found] = []
            for domain in self._domains:
                where = (f"{split}/{domain}", f"{split}/{split}/{domain}")
                found += self._find(
                    f"{domain}/",
                    [f"{path}/images_png" for path in where],
                    [f"{path}/masks_png" for path in where],
                    scan,
                )
            if not found and set(self._domains) == set(DOMAINS):
                found = self._find("", [f"img_dir/{split}"], [f"ann_dir/{split}"], scan)
            if found:
                source = make_mask_source(found, self.codes, scan)
                splits[split.lower()] = Split(source)
        if not splits:
            wanted = ", ".join(f"Train/{domain}/images_png" for domain in self._domains)
            raise layout_error(INFO, self.root, f"{wanted} and masks_png beside it")
        return splits

    def _find(
        self, prefix: str, images: Sequence[str], masks: Sequence[str], scan: Scan
    ) -> list[Found]:
        image, mask = find_folder(self.root, *images), find_folder(self.root, *masks)
        if image is None or mask is None:
            return []
        found = find_files({self.modality: str(image), MASK: str(mask)}, scan)
        return [(prefix + key, paths) for key, paths in found]

    def sensors(self) -> dict[str, Sensor]:
        """See ``DatasetReader.sensors``."""
        return {self.modality: Sensor(3)}
