# SPDX-License-Identifier: Apache-2.0
"""Loading of the compiled libraries, and the description of them.

Importing this module loads them once. A library that does not load never stops the import: the
reason is kept for ``build_info``, and the operators run in pure torch.
"""

import importlib
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import TypedDict

import torch

_OPS_LIBRARY = "librsvheat_ops.so"
_CUDA_LIBRARY = "librsvheat_cuda.so"


class BuildInfo(TypedDict):
    """Result of ``build_info``."""

    version: str
    """Version of the installed package."""
    torch: str
    """Version of torch in use."""
    native: bool
    """Whether the CPU operators run compiled kernels."""
    native_error: str | None
    """Why not, or None."""
    cuda: bool
    """Whether the CUDA operators are loaded."""
    cuda_error: str | None
    """Why not, or None."""
    cpu_capability: str | None
    """Instruction set of the CPU kernels in use: generic, avx2 or avx512."""
    cpu_capabilities: list[str]
    """Those that this build and this CPU have; ``RSVHEAT_CPU_CAPABILITY`` chooses one."""
    plan_cache: dict[str, int]
    """Number of cached CPU transform plans (``plans``) and their size (``bytes``)."""
    cuda_plan_cache: dict[str, int] | None
    """Number of cached cuFFT plans (``plans``) and its bound (``capacity``); None without CUDA."""
    compiler: str | None
    """Compiler of the libraries."""
    compiler_flags: str | None
    """Its flags for the whole build; kernels of an instruction set add their own."""
    cuda_archs: list[str]
    """GPU architectures that the CUDA library was compiled for."""
    built_with_torch: str | None
    """Version of torch whose headers were used; any torch >= 2.11 runs the result."""


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _find(library: str) -> Path | None:
    # An editable install keeps Python files and libraries in two directories, both of __path__.
    for directory in sys.modules[__package__].__path__:
        path = Path(directory, library)
        if path.exists():
            return path
    return None


def _load_ops(library: str) -> str | None:
    """Load a library of operators into torch; return why that failed, or None."""
    path = _find(library)
    if path is None:
        return f"{library} is not installed: the package was built without it"
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever is wrong with the file, importing goes on
        return _describe(error)
    return None


def _load_cuda() -> str | None:
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if _native_error is not None:
        return "it needs the CPU operators, which are not loaded"
    error = _load_ops(_CUDA_LIBRARY)
    # Without a GPU they are not needed. device_count, unlike is_available, does not start CUDA.
    if error is not None and _find(_CUDA_LIBRARY) is not None and torch.cuda.device_count() > 0:
        _warn(f"rsvheat could not load its CUDA kernels: {error}")
    return error


def _load_native_module() -> ModuleType | None:
    try:
        native = importlib.import_module(f"{__package__}._native")
    except ImportError as error:
        # If the operators did not load, the reason is the same, and a warning has said so.
        if _native_error is None:
            _warn(f"rsvheat._native could not be loaded: {_describe(error)}")
        return None
    problem = native.cpu_capability_warning()
    if problem is not None:
        _warn(problem)
    return native


def _warn(message: str) -> None:
    # The frame that imports the package is out of reach behind importlib's, whatever the level.
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _check_required() -> None:
    if _native_error is None:
        return
    message = f"rsvheat could not load its compiled operators: {_native_error}"
    if os.environ.get("RSVHEAT_REQUIRE_NATIVE") == "1":
        raise ImportError(f"{message} (RSVHEAT_REQUIRE_NATIVE=1 makes this an error)")
    _warn(f"{message}. They run in pure torch, slower; rsvheat.build_info() has details.")


_native_error = _load_ops(_OPS_LIBRARY)
_check_required()
_cuda_error = _load_cuda()
_native = _load_native_module()


def native_available() -> bool:
    """Return whether the compiled operators are registered, with kernels for the CPU."""
    return _native_error is None


def cuda_available() -> bool:
    """Return whether their CUDA kernels are registered too."""
    return _cuda_error is None


def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return importlib.metadata.version("rsvheat")
    except importlib.metadata.PackageNotFoundError:
        return "0+not-installed"  # imported from a source tree


def build_info() -> BuildInfo:
    """Return the versions, libraries and kernels in use.

    Returns:
        A new dictionary with the keys of ``BuildInfo``; only strings, numbers, booleans, None,
        lists and dictionaries, so it can be printed, compared and written as JSON.
    """
    info = BuildInfo(
        version=package_version(),
        torch=str(torch.__version__),
        native=native_available(),
        native_error=_native_error,
        cuda=cuda_available(),
        cuda_error=_cuda_error,
        cpu_capability=None,
        cpu_capabilities=[],
        plan_cache={"plans": 0, "bytes": 0},
        cuda_plan_cache=None,
        compiler=None,
        compiler_flags=None,
        cuda_archs=[],
        built_with_torch=None,
    )
    if _native is not None:
        build = _native.build_info()
        plans, size = _native.plan_cache_info()
        cuda_plans = _native.cuda_plan_cache_info()
        info["cpu_capability"] = _native.cpu_capability()
        info["cpu_capabilities"] = _native.available_cpu_capabilities()
        info["plan_cache"] = {"plans": plans, "bytes": size}
        if cuda_plans is not None:
            info["cuda_plan_cache"] = {"plans": cuda_plans[0], "capacity": cuda_plans[1]}
        info["compiler"] = build["compiler"]
        info["compiler_flags"] = build["compiler_flags"]
        info["cuda_archs"] = build["cuda_archs"].split()
        info["built_with_torch"] = build["torch"]
    return info
