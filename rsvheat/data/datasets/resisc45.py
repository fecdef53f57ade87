# SPDX-License-Identifier: Apache-2.0
"""NWPU-RESISC45: scenes of 45 classes."""

from rsvheat.data.datasets.finding import DataInfo
from rsvheat.data.datasets.scene_classes import SceneClasses

INFO = DataInfo(
    "NWPU-RESISC45", "its authors (Northwestern Polytechnical University)", "CC-BY-NC-4.0"
)
_CLASSES = """
    airplane airport baseball_diamond basketball_court beach bridge chaparral church
    circular_farmland cloud commercial_area dense_residential desert forest freeway
    golf_course ground_track_field harbor industrial_area intersection island lake meadow
    medium_residential mobile_home_park mountain overpass palace parking_lot railway
    railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg
    sparse_residential stadium storage_tank tennis_court terrace thermal_power_station wetland
"""
CLASSES = tuple(_CLASSES.split())


class RESISC45(SceneClasses):
    """Reads NWPU-RESISC45 by the papers' protocol.

    TorchGeo's split (``TorchGeoClasses``) is another one; figures of the two differ.

    Args:
        root: Folder of the data set, whose folders are the classes.
        train_fraction: Fraction of each class that is for training: 0.1 or 0.2 in the papers. The
            seed of the data module makes the choice.
        val_fraction: Fraction of each class that is held out of the training part for validation.
        label_fraction: Fraction of each class's training images that is used, at least one image.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    info, names, folder = INFO, CLASSES, "NWPU-RESISC45"
