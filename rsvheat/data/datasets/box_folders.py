# SPDX-License-Identifier: Apache-2.0
"""Folders of images with boxes in one of the usual formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from rsvheat.data.boxes import ImageBoxes
from rsvheat.data.datasets.box_finding import (
    Annotated,
    ClassNames,
    annotate,
    annotate_coco,
    box_splits,
    files_by_stem,
)
from rsvheat.data.datasets.finding import find_files, hold_out, listing
from rsvheat.data.datasets.reader import DatasetReader, Scan, Split
from rsvheat.data.formats import (
    read_coco,
    read_dota,
    read_fair1m,
    read_geo,
    read_nwpu,
    read_voc,
    read_yolo,
    read_yolo_names,
)
from rsvheat.data.normalize import Sensor
from rsvheat.data.readers import open_image
from rsvheat.data.skip_report import DataError, SampleError
from rsvheat.data.sources import Unmatched, check_modalities
from rsvheat.data.splits import random_split

BoxFormat: TypeAlias = Literal["coco", "voc", "yolo", "dota", "fair1m", "nwpu", "geo"]

_SUFFIXES = {
    "voc": (".xml",),
    "fair1m": (".xml",),
    "yolo": (".txt",),
    "dota": (".txt",),
    "nwpu": (".txt",),
    "geo": (".gpkg", ".geojson", ".json"),
}


class BoxFolders(DatasetReader):
    """Reads images, in a folder for each modality, and boxes in one of the usual formats.

    ``annotations`` is a folder of files with the names of the images, or one file of all images for
    ``"coco"`` and ``"geo"``. Images that such a folder has no file for are reported and left out,
    except with ``"yolo"``, where they have no boxes. Images without boxes are trained on.

    Classes are those found in the training data, in alphabetical order, or those given. For
    ``"yolo"`` names are from ``classes.txt`` or ``data.yaml`` in or above the folder.

    Args:
        images: Folder by modality. Files of the same name show the same ground.
        annotations: Folder or file of the boxes.
        box_format: ``"coco"`` JSON, ``"voc"`` XML (horizontal or rotated), ``"yolo"`` text (boxes
            or corners), ``"dota"`` text, ``"fair1m"`` XML, ``"nwpu"`` text, or ``"geo"``:
            GeoPackage or GeoJSON over georeferenced images.
        oriented: Whether boxes are oriented, or horizontal.
        classes: Class names by label. ``"nwpu"`` needs them.
        val_images: Folder by modality of images for validation, instead of ``val_fraction``.
        val_annotations: Folder or file of their boxes; ``annotations`` by default.
        test_images: Folder by modality of images for testing.
        test_annotations: Folder or file of their boxes; ``annotations`` by default.
        missing: Treatment of samples that lack a modality: ``"skip"`` reports them and leaves them
            out, ``"keep"`` uses those that have at least one.
        class_field: Attribute of ``"geo"`` files that holds the class name.
        val_fraction: Fraction of the groups that is held out for validation.
        val_groups: Names of the groups that are held out, instead of a random choice.
        group: Regular expression whose groups match, in a sample's key, the name of its group: the
            scene of neighboring crops, for example. None makes each image a group.

    Raises:
        ValueError: If an argument is not as above.
    """

    def __init__(
        self,
        images: Mapping[str, str],
        annotations: str,
        box_format: BoxFormat,
        *,
        oriented: bool = False,
        classes: Sequence[str] | None = None,
        val_images: Mapping[str, str] | None = None,
        val_annotations: str | None = None,
        test_images: Mapping[str, str] | None = None,
        test_annotations: str | None = None,
        missing: Unmatched = "skip",
        class_field: str = "class",
        val_fraction: float = 0.2,
        val_groups: Sequence[str] | None = None,
        group: str | None = None,
    ) -> None:
        check_modalities(images)
        if box_format not in get_args(BoxFormat):
            raise ValueError(f"box_format must be one of {get_args(BoxFormat)}, got {box_format!r}")
        if missing not in get_args(Unmatched):
            raise ValueError(f'missing must be "skip" or "keep", got {missing!r}')
        if classes is not None and len(set(classes)) != len(classes):
            raise ValueError(f"classes must differ, got {list(classes)}")
        if box_format == "nwpu" and not classes:
            raise ValueError("nwpu files have class numbers: give classes")
        random_split(1, {"val": val_fraction})  # checks it
        given = {
            "train": (images, annotations),
            "val": (val_images, val_annotations),
            "test": (test_images, test_annotations),
        }
        self._parts: dict[str, tuple[Mapping[str, str], str]] = {}
        for name, (some, theirs) in given.items():
            if some is None:
                if theirs is not None:
                    raise ValueError(f"{name}_annotations needs {name}_images")
                continue
            if set(some) - set(images):
                raise ValueError(f"{name}_images has modalities that images has not")
            self._parts[name] = (some, theirs or annotations)
        self.modalities, self.box_format, self.oriented = tuple(images), box_format, oriented
        self.classes = None if classes is None else tuple(classes)
        self._missing, self._class_field = missing, class_field
        self._val_fraction, self._val_groups, self._group = val_fraction, val_groups, group

    def splits(self, scan: Scan) -> Mapping[str, Split]:
        """See ``DatasetReader.splits``."""
        found, order = {}, self.classes
        for name, (images, annotations) in self._parts.items():
            found[name], there = self._find(images, annotations, scan)
            order = order or there
        classes = order or tuple(sorted({n for s in found["train"] for n in s.boxes.names}))
        if not classes:
            raise DataError(f"no box is in {self._parts['train'][1]}: give classes")
        names = ClassNames(classes)
        splits = box_splits(found, names, self.oriented, scan)
        if "val" not in splits:
            held_out = (self._val_fraction, self._val_groups, self._group)
            splits |= hold_out(splits["train"].source, *held_out, scan)
        return splits

    def _find(
        self, images: Mapping[str, str], annotations: str, scan: Scan
    ) -> tuple[list[Annotated], tuple[str, ...] | None]:
        """Return the samples of a part, and the classes that its files name in an order."""
        optional = tuple(images) if self._missing == "keep" and len(images) > 1 else ()
        files = dict(find_files(images, scan, optional=optional))
        path = Path(annotations)
        if self.box_format == "coco":
            return self._of_coco(files, path, scan)
        if self.box_format == "geo" and path.is_file():
            boxes = read_geo(path, class_field=self._class_field)
            annotated = annotate(
                files,
                dict.fromkeys(files, annotations),
                lambda _, image: boxes.on_image(next(iter(image.values()))),
                scan,
            )
            return annotated, None
        if not path.is_dir():
            raise DataError(f"{path}, for the boxes, is {listing(path)}; expected a folder")
        texts = files_by_stem(path, *_SUFFIXES[self.box_format])
        names: tuple[str, ...] | None = None
        if self.box_format == "yolo":
            names = self.classes or read_yolo_names(path, path.parent, path.parent.parent)
            if names is None:
                raise DataError(
                    f"{path} and the folders above it hold no classes.txt and no data.yaml, and "
                    "class names were not given: give classes"
                )
            texts = {key: text for key, text in texts.items() if key != "classes"}
        elif not texts:
            raise DataError(
                f"{path} holds no file that ends in {', '.join(_SUFFIXES[self.box_format])}; found "
                f"{listing(path)}"
            )

        def read(text: str, image: Mapping[str, str]) -> ImageBoxes:
            return self._read(text, next(iter(image.values())), names or ())

        return annotate(files, texts, read, scan, without=self.box_format == "yolo"), names

    def _read(self, path: str, image: str, names: tuple[str, ...]) -> ImageBoxes:
        if self.box_format == "yolo":
            with open_image(image) as reader:
                size = reader.height, reader.width
            return read_yolo(path, names, size)
        if self.box_format == "geo":
            try:
                return read_geo(path, class_field=self._class_field).on_image(image)
            except DataError as error:
                if isinstance(error, SampleError):
                    raise
                raise SampleError("label", str(error)) from None
        if self.box_format == "nwpu":
            return read_nwpu(path, self.classes or ())
        readers = {"voc": read_voc, "dota": read_dota, "fair1m": read_fair1m}
        return readers[self.box_format](path)

    def _of_coco(
        self, files: Mapping[str, Mapping[str, str]], path: Path, scan: Scan
    ) -> tuple[list[Annotated], tuple[str, ...]]:
        if not path.is_file():
            raise DataError(f"{path}, for the boxes, is {listing(path)}; expected a JSON file")
        content = read_coco(path, oriented=self.oriented)
        return annotate_coco(files, path, content, scan), content.classes

    def sensors(self) -> dict[str, Sensor]:
        """Return three bands for each modality, and one for ``"sar"``."""
        return {name: Sensor(1) if name == "sar" else Sensor(3) for name in self.modalities}
