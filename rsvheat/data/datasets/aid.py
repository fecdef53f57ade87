# SPDX-License-Identifier: Apache-2.0
"""AID: scenes of 30 classes."""

from rsvheat.data.datasets.finding import DataInfo
from rsvheat.data.datasets.scene_classes import SceneClasses

INFO = DataInfo("AID", "its authors (Wuhan University)", "research")
_CLASSES = """
    Airport BareLand BaseballField Beach Bridge Center Church Commercial DenseResidential
    Desert Farmland Forest Industrial Meadow MediumResidential Mountain Park Parking
    Playground Pond Port RailwayStation Resort River School SparseResidential Square Stadium
    StorageTanks Viaduct
"""
CLASSES = tuple(_CLASSES.split())


class AID(SceneClasses):
    """Reads AID by the papers' protocol.

    Folders may be spelled as in other copies: ``Bareland``.

    Args:
        root: Folder of the data set, whose folders are the classes.
        train_fraction: Fraction of each class that is for training: 0.5 or 0.2 in the papers. The
            seed of the data module makes the choice.
        val_fraction: Fraction of each class that is held out of the training part for validation.
        label_fraction: Fraction of each class's training images that is used, at least one image.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    info, names, folder = INFO, CLASSES, "AID"
