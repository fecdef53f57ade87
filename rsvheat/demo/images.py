# SPDX-License-Identifier: Apache-2.0
"""The images of a demo: those that come with the project, or folders of the same datasets."""

from dataclasses import dataclass
from pathlib import Path

from rsvheat.data.skip_report import DataError

_PACKAGE = Path(__file__).parents[1]
# Where wheels hold the images, and where a checkout does.
_SHIPPED = (Path(__file__).parent / "data", _PACKAGE.parent / "examples" / "data")
# Of the scenes in a folder of pairs, the one that is mapped: coast, hills and town.
_SCENE = "046"


@dataclass(frozen=True)
class DemoImages:
    """Paths of a demo's images.

    Attributes:
        folder: Folder of all images.
        classes: Folder that holds a folder of labeled images for each class.
        test_classes: Folder of the same form, with the images to score on; None holds out a part of
            ``classes``.
        pairs: Folder of pairs by modality, ``optical`` and ``sar``.
        scene: Files by modality of a scene that is not trained on.
        land_cover: Folder of aerial images with a class for each pixel: ``train`` and ``test``,
            each with ``images`` and ``masks``; a tile in ``test`` is mapped.
    """

    folder: Path
    classes: Path
    test_classes: Path | None
    pairs: dict[str, Path]
    scene: dict[str, Path]
    land_cover: Path

    @property
    def tile(self) -> dict[str, Path]:
        """Files of the tile of land cover that is mapped: ``image`` and ``mask``."""
        image = min((self.land_cover / "test/images").iterdir())
        return {"image": image, "mask": self.land_cover / "test/masks" / f"{image.stem}.png"}

    @property
    def held_out(self) -> str | None:
        """Name of the scene, where it lies among the pairs."""
        inside = self.scene["optical"].parent == self.pairs["optical"]
        return self.scene["optical"].stem if inside else None


def shipped_images() -> DemoImages:
    """Return the images that come with the project.

    Raises:
        DataError: If this installation has none.
    """
    folder = next((path for path in _SHIPPED if (path / "eurosat").is_dir()), None)
    if folder is None:
        raise DataError(
            "this installation of rsvheat came without the demo's images: name a folder that "
            "holds eurosat_rgb, s1s2_volkov and dubai by --data"
        )
    both = ("optical", "sar")
    return DemoImages(
        folder,
        folder / "eurosat/train",
        folder / "eurosat/test",
        {name: folder / "s1s2/train" / name for name in both},
        {name: folder / "s1s2/test" / name / f"{_SCENE}.jpg" for name in both},
        folder / "dubai",
    )


def find_images(folder: Path) -> DemoImages:
    """Return the images of the datasets in a folder.

    Args:
        folder: Folder with ``eurosat_rgb``, which has a folder for each class, and with
            ``s1s2_volkov/opt`` and ``sar``, which have files of the same names. Scene 046 is held
            out, or else the last one. Land cover is that of ``dubai`` in the folder, or else the
            project's.

    Raises:
        DataError: If one of them is missing, or there is a single pair.
    """
    pairs = {"optical": folder / "s1s2_volkov/opt", "sar": folder / "s1s2_volkov/sar"}
    for path in (folder / "eurosat_rgb", *pairs.values()):
        if not path.is_dir():
            raise DataError(
                f"there is no folder {path}: the demo's data is a folder with eurosat_rgb, which "
                "has a folder for each class, and s1s2_volkov/opt and sar"
            )
    files = {
        name: {path.stem: path for path in sorted(pairs[name].iterdir()) if path.is_file()}
        for name in pairs
    }
    both = [stem for stem in files["optical"] if stem in files["sar"]]
    if len(both) < 2:
        raise DataError(
            f"{folder / 's1s2_volkov'} needs two files or more that opt and sar both have, one to "
            f"map and others to train on; it has {len(both)}"
        )
    scene = _SCENE if _SCENE in both else both[-1]
    return DemoImages(
        folder,
        folder / "eurosat_rgb",
        None,
        pairs,
        {name: files[name][scene] for name in pairs},
        folder / "dubai" if (folder / "dubai").is_dir() else shipped_images().land_cover,
    )


def full_folder() -> Path:
    """Return the folder of the whole datasets beside the working folder or the checkout.

    Raises:
        DataError: If there is none.
    """
    tried = list(
        dict.fromkeys(p.resolve() / "shared/data" for p in (Path(".."), _PACKAGE.parents[1]))
    )
    for path in tried:
        if path.is_dir():
            return path
    raise DataError(
        f"--full needs the whole datasets; there is no {' and no '.join(map(str, tried))}: name "
        "their folder by --data"
    )
