# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for objects that training scripts save beside weights: their data, none of their code.

torch reads plain weights only. Configurations of yacs and argparse and the log buffers of mmengine
become dictionaries, NumPy's numbers numbers, and its arrays ``Array``. NumPy's own unpickling
is not called: it trusts the bytes that it is given.
"""

import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Inert:
    """Stands in for a class whose objects are read as dictionaries."""

    def __new__(cls, *args: Any) -> Any:
        """Return an empty dictionary, which the unpickler gives the object's attributes."""
        # Of the types that torch's unpickler fills, the one that also takes attributes.
        return OrderedDict()


class DType:
    """Stands in for ``numpy.dtype``.

    Args:
        code: Kind and bytes of an element, such as ``"f8"``.
        *flags: Not used.
    """

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufc]\d{1,2}|\?", code):
            raise ValueError(f"arrays of NumPy's type {code!r} are not read")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take over the byte order."""
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


def _type(dtype: Any) -> np.dtype[Any]:
    # NumPy's own where a program has allowed it.
    found = dtype.type if isinstance(dtype, DType) else np.dtype(dtype)
    if found.hasobject:
        raise ValueError("arrays of Python objects are not read")
    return found


def _raw(values: Any) -> bytes:
    return values if isinstance(values, bytes) else str(values).encode("latin-1")


def scalar(dtype: Any, raw: Any) -> Any:
    """Return a number of NumPy from its bytes.

    Args:
        dtype: Type of the number.
        raw: Bytes of the number.
    """
    return np.frombuffer(_raw(raw), _type(dtype), count=1)[0]


class Array:
    """Values of a NumPy array, for ``numpy.asarray``.

    Attributes:
        values: The array.
    """

    values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take over the values."""
        shape, dtype, fortran, raw = state[-4:]
        values = np.frombuffer(_raw(raw), _type(dtype))
        self.values = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """Return the values."""
        return np.array(self.values, dtype=dtype)


def _reconstruct(*_: Any) -> Array:
    return Array()


def _nothing(*_: Any) -> None:
    """Stand in for ``getattr``, by which log buffers name their methods."""


def inert_types() -> list[Any]:
    """Return the stand-ins as ``torch.serialization.safe_globals`` takes them.

    Types that the program itself has allowed are left out: they come as they are.
    """
    allowed = {
        entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
        for entry in torch.serialization.get_safe_globals()
    }
    return [(stand_in, name) for stand_in, name in _INERT if name not in allowed]


_INERT: list[tuple[Any, str]] = [
    (Inert, "yacs.config.CfgNode"),
    (Inert, "argparse.Namespace"),
    (Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_nothing, "builtins.getattr"),
    (DType, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    # By its own name, where the program has allowed NumPy's arrays but not their parts.
    (Array, f"{__name__}.Array"),
    # NumPy 2, NumPy 1
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("_core", "core")),
]
