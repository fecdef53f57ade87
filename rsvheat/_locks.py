# SPDX-License-Identifier: Apache-2.0
"""Locks of files and folders that one process at a time may write."""

import json
import os
import socket
import warnings
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FOLDER_LOCK = ".lock"

# Descriptors of held locks. A forked process, such as one that reads data, closes its copies: it
# would otherwise keep the locks of a parent that was killed.
_descriptors: set[int] = set()


class InUseError(OSError):
    """Another process writes to the same file or folder."""


class NoLocksError(OSError):
    """The file system or the platform has no locks."""


class Lock:
    """Lock of a file or folder, held by at most one user of it on all hosts that see its folder.

    The kernel releases the locks of a process that ends, however it ends, so that a lock file of a
    dead process does not block. The lock file says who holds it. It is not removed before it is
    locked by this process.

    ``filelock``, which comes with torch, is not used: its older versions empty the lock file when
    they only try to lock it, which erases who holds it.

    Args:
        target: File or folder to be written. The lock file of a folder lies in it, that of a file
            beside it.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._release: weakref.finalize[[Path, int, int], Lock] | None = None

    def acquire(self) -> None:
        """Take the lock, unless this object holds it.

        Without locks on the file system a warning says so, and nothing is locked.

        Raises:
            InUseError: If another process, or another object of this process, holds the lock.
            OSError: If the lock file cannot be created.
        """
        if self.held:
            return
        path = _lock_file(self.target)
        try:
            descriptor = try_lock(path)
        except NoLocksError as error:
            warnings.warn(
                f"{path.parent} takes no locks ({error}): make sure that no other process writes "
                f"to {self.target}",
                stacklevel=3,
            )
            return
        if descriptor is None:
            raise InUseError(f"{self.target} is being written by {_holder(path)}")
        self._release = weakref.finalize(self, _unlock, path, descriptor, os.getpid())
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(about).encode() + b"\n")

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._release is not None and self._release.alive

    def release(self) -> None:
        """Release the lock if this object holds it."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> "Lock":
        """Take the lock."""
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self.release()


def _lock_file(target: Path) -> Path:
    if target.is_dir():
        return target / _FOLDER_LOCK
    return target.with_name(f".{target.name}.lock")


def try_lock(path: Path) -> int | None:
    """Lock a file, which is created if it does not exist.

    Args:
        path: Path of the lock file.

    Returns:
        Descriptor of the locked file, for ``unlock``; None if the lock is held.

    Raises:
        NoLocksError: If the file system has no locks.
        OSError: If the file cannot be opened.
    """
    if fcntl is None:
        raise NoLocksError("Python has no fcntl here")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise NoLocksError(error.strerror or str(error)) from error
        # Whoever held the lock before may have removed the file since it was opened here.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                _descriptors.add(descriptor)
                return descriptor
        os.close(descriptor)


def unlock(descriptor: int) -> None:
    """Release a lock.

    Args:
        descriptor: Result of ``try_lock``.
    """
    if descriptor in _descriptors:
        _descriptors.remove(descriptor)
        os.close(descriptor)


def _unlock(path: Path, descriptor: int, pid: int) -> None:
    if os.getpid() != pid:
        return
    # Before the lock is released: after that, the file may be another process's.
    path.unlink(missing_ok=True)
    unlock(descriptor)


def _holder(path: Path) -> str:
    """Return a description of the process that holds a lock."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    # The process has just locked the file, or has just removed it.
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _close_in_child() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
