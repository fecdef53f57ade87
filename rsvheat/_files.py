# SPDX-License-Identifier: Apache-2.0
"""Writes files whole or not at all."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsvheat._locks import Lock, NoLocksError, try_lock, unlock

_PREFIX = ".unfinished-"
# In a temporary folder; locked as long as the process that fills the folder lives.
_LIVING = ".living"


@contextmanager
def replacing(folder: Path, resumed: str | None = None) -> Iterator[Path]:
    """Give a temporary folder whose files replace those of ``folder`` when the block succeeds.

    An exception in the block leaves ``folder`` as it was. The temporary folder is beside its
    files, so they are renamed, not copied; each is complete, and on the disk in case the machine
    goes down, before the first is renamed. A file replaces a symbolic link of its name, and leaves
    the file that the link points to as it is.

    Args:
        folder: Folder of the files; created if it does not exist.
        resumed: Name of a file. A temporary folder that holds it, and that no process fills any
            more, is given again; an interruption or an OSError in the block leaves it there for
            the next time. None always gives a new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _living_folder(folder, resumed) as temporary:
        yield temporary
        files = sorted(file for file in temporary.iterdir() if file.name != _LIVING)
        for file in files:
            with file.open("rb") as content:
                os.fsync(content.fileno())
        for file in files:
            os.replace(file, folder / file.name)


@contextmanager
def _living_folder(folder: Path, resumed: str | None = None) -> Iterator[Path]:
    """Give a temporary folder that ``remove_unfinished`` leaves to its process."""
    temporary, living = (None, None) if resumed is None else _take_over(folder, resumed)
    while temporary is None:
        new = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        try:
            living = try_lock(new / _LIVING)
        except NoLocksError:
            temporary = new
        except FileNotFoundError:
            # Another process took the folder, not locked yet, for that of a dead one.
            continue
        if living is not None:
            temporary = new
    kept = False
    try:
        yield temporary
    except BaseException as error:
        # Whoever goes on after other errors meets them again.
        interrupted = isinstance(error, OSError) or not isinstance(error, Exception)
        kept = interrupted and resumed is not None and (temporary / resumed).exists()
        raise
    finally:
        if not kept:
            shutil.rmtree(temporary, ignore_errors=True)
        if living is not None:
            unlock(living)


def _take_over(folder: Path, name: str) -> tuple[Path | None, int | None]:
    """Return the locked temporary folder of a process that is gone, and the lock; None for none."""
    for unfinished in sorted(folder.glob(f"{_PREFIX}*")):
        if (unfinished / name).exists():
            with suppress(NoLocksError, OSError):
                living = try_lock(unfinished / _LIVING)
                if living is not None:
                    return unfinished, living
    return None, None


@contextmanager
def complete_file(path: str | os.PathLike[str], resumed: str | None = None) -> Iterator[Path]:
    """Give a path of the same name elsewhere, whose file replaces ``path`` on success.

    Args:
        path: Path of the file; its folder is created if it does not exist.
        resumed: Name of a file beside the temporary one, see ``replacing``.
    """
    path = Path(path)
    with replacing(path.parent, resumed) as temporary:
        yield temporary / path.name


@contextmanager
def output_file(path: str | os.PathLike[str], resumed: str | None = None) -> Iterator[Path]:
    """Give a path like ``complete_file``, and keep other processes from writing the file.

    Args:
        path: Path of the file; its folder is created if it does not exist.
        resumed: Name of a file beside the temporary one, see ``replacing``.

    Raises:
        InUseError: If another process writes the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path), complete_file(path, resumed) as temporary:
        yield temporary


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove temporary folders of ``replacing`` that killed processes left.

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
