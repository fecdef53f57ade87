# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".unfinished-"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder whose files replace those of ``folder`` when the block succeeds.

    An exception in the block leaves ``folder`` as it was. The temporary folder is beside its
    files, so they are renamed, not copied; each is complete, and on the disk in case the machine
    goes down, before the first is renamed.

    Args:
        folder: Where the files go; made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as temporary:
        yield Path(temporary)
        files = sorted(Path(temporary).iterdir())
        for file in files:
            with file.open("rb") as content:
                os.fsync(content.fileno())
        for file in files:
            os.replace(file, folder / file.name)


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path of the same name elsewhere, whose file replaces ``path`` on success.

    Args:
        path: The file; its folder is made if need be.
    """
    path = Path(path)
    with replacing(path.parent) as temporary:
        yield temporary / path.name


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove what killed processes left of :func:`replacing` in a folder.

    Args:
        folder: The folder.
        name: Only where there is a file of that name.
    """
    for unfinished in folder.glob(f"{_PREFIX}*"):
        if (unfinished / name).exists():
            shutil.rmtree(unfinished, ignore_errors=True)
