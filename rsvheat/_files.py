# SPDX-License-Identifier: Apache-2.0
"""Writes files whole or not at all."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsvheat._locks import Lock, NoLocksError, try_lock, unlock

_PREFIX = ".unfinished-"
# In a temporary folder; locked as long as the process that fills the folder lives.
_LIVING = ".living"


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
    with _living_folder(folder) as temporary:
        yield temporary
        files = sorted(file for file in temporary.iterdir() if file.name != _LIVING)
        for file in files:
            with file.open("rb") as content:
                os.fsync(content.fileno())
        for file in files:
            os.replace(file, folder / file.name)


@contextmanager
def _living_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that :func:`remove_unfinished` leaves to its process."""
    living: int | None = None
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        try:
            living = try_lock(temporary / _LIVING)
        except NoLocksError:
            break
        except FileNotFoundError:
            # Another process took the folder, not locked yet, for that of a dead one.
            continue
        if living is not None:
            break
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if living is not None:
            unlock(living)


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path of the same name elsewhere, whose file replaces ``path`` on success.

    Args:
        path: Path of the file; its folder is created if it does not exist.
    """
    path = Path(path)
    with replacing(path.parent) as temporary:
        yield temporary / path.name


@contextmanager
def output_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path like :func:`complete_file`, and keep other processes from writing the file.

    Args:
        path: Path of the file; its folder is created if it does not exist.

    Raises:
        InUseError: If another process writes the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path), complete_file(path) as temporary:
        yield temporary


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove temporary folders of :func:`replacing` that killed processes left.

    Those of living processes stay. Without locks on the file system all stay, as nothing tells
    them apart.

    Args:
        folder: Folder that holds them.
        name: Name of a file that a temporary folder must hold to be removed; "" for any.
    """
    for unfinished in folder.glob(f"{_PREFIX}*"):
        if not (unfinished / name).exists():
            continue
        try:
            dead = try_lock(unfinished / _LIVING)
        except NoLocksError as error:
            warnings.warn(
                f"{folder} takes no locks ({error}): remove {unfinished} if no process that writes "
                "it is left",
                stacklevel=2,
            )
            continue
        except OSError:
            # Its process has just removed it, or it is another user's.
            continue
        if dead is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
            unlock(dead)
