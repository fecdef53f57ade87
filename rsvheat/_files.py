# SPDX-License-Identifier: Apache-2.0
"""Writes files whole or not at all."""

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
    goes down, before the first is renamed. A file replaces a symbolic link of its name, and leaves
    the file that the link points to as it is.

    Args:
        folder: Folder of the files; created if it does not exist.
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
        path: Path of the file; its folder is created if it does not exist.
    """
    path = Path(path)
    with replacing(path.parent) as temporary:
        yield temporary / path.name


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove temporary folders of :func:`replacing` that killed processes left.

    Args:
        folder: Folder that holds them.
        name: Name of a file that a temporary folder must hold to be removed; "" for any.
    """
    for unfinished in folder.glob(f"{_PREFIX}*"):
        if (unfinished / name).exists():
            shutil.rmtree(unfinished, ignore_errors=True)
