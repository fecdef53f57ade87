# SPDX-License-Identifier: Apache-2.0
"""DIOR-R: the images of DIOR with oriented boxes."""

from rsvheat.data.datasets.dior import DIOR
from rsvheat.data.datasets.finding import DataInfo


class DIORR(DIOR):
    """Reads DIOR-R in the official split of DIOR.

    The layout is that of ``DIOR``, with boxes in ``Annotations/Oriented Bounding Boxes``.

    The data is from the DIOR project of Northwestern Polytechnical University, CC-BY-NC-4.0.

    Args:
        root: Folder of the data set.
        train_on: ``"train"``, or ``"trainval"`` for both parts; then nothing is validated on.
        modality: Modality of the images, the name of the network's stem.

    Raises:
        ValueError: If an argument is not as above.
    """

    oriented = True
    info = DataInfo(
        "DIOR-R", "the DIOR project of Northwestern Polytechnical University", "CC-BY-NC-4.0"
    )
    annotations = (
        "Annotations/Oriented Bounding Boxes",
        "Annotations/Oriented_Bounding_Boxes",
        "Annotations",
    )
