# SPDX-License-Identifier: Apache-2.0
"""Complete OpenMMLab models on ``rsvheat_base``: copy one, or inherit from it.

Each file is a config of its own with model, optimizer and schedule; what it lacks is a dataset
(dataloaders and evaluators) and ``num_classes``. The other variants need other ``in_channels``: 32,
96, 96, 128 and 192, doubling at each stage, for nano, tiny, small, base and large.

- for mmsegmentation: ``upernet``
- for mmdetection: ``faster_rcnn``, ``retinanet``
- for mmrotate: ``rotated_retinanet``, ``oriented_rcnn``
"""

from pathlib import Path


def config_path(name: str) -> str:
    """Return the path of a config, for ``mmengine.Config.fromfile``, ``_base_`` or a copy.

    Args:
        name: One of the names above.

    Raises:
        ValueError: If there is no such config.
    """
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    if name not in names:
        raise ValueError(f"no config is named {name!r}; there are {', '.join(names)}")
    return str(folder / f"{name}.py")
