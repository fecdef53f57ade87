# SPDX-License-Identifier: Apache-2.0
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    # pyproject.toml makes errors of the package's warnings; a pure-Python build is tested too.
    warnings.filterwarnings("default", "rsvheat could not load its compiled operators")
    from rsvheat import _library
    from rsvheat.ops import _backend

# With --import-mode=importlib nothing else lets a test say `from utils import ...`.
sys.path.insert(0, str(Path(__file__).parent))

# Minutes each. Where processes share the files, these come first, so that all end together.
LONGEST = (
    "test_demo.py",
    "test_docs.py",
    "test_notebooks.py",
    "test_cli.py",
    "test_distributed.py",
    "test_predict.py",
    "test_extras.py",
)

CAPABILITIES = ("generic", "avx2", "avx512")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def _unavailable(reason: str) -> None:
    if os.environ.get("RSVHEAT_FAIL_WITHOUT_CUDA") == "1":
        pytest.fail(f"{reason}, and RSVHEAT_FAIL_WITHOUT_CUDA=1")
    pytest.skip(reason)


def _require_native(device: str) -> None:
    if not _library.native_available():
        pytest.skip("the native library is not loaded")
    if device == "cuda" and not _library.cuda_available():
        _unavailable("the CUDA kernels are not loaded")


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        _unavailable("torch finds no CUDA device")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Seed every test alike, keep TF32 off, and put back what tests change."""
    state = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    torch.set_num_threads(threads)
    torch.random.set_rng_state(state)


@pytest.fixture
def one_thread() -> None:
    """For many small calls. No result depends on the number of threads: test_determinism.py."""
    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device, for claims that hold for native kernels and reference implementations."""
    return _device(request.param)


@pytest.fixture(params=["native", "twin"])
def implementation(
    request: pytest.FixtureRequest, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The native ops, then the same public functions with the native ops switched off."""
    if request.param == "native":
        _require_native(device.type)
    else:
        monkeypatch.delenv("RSVHEAT_REQUIRE_NATIVE", raising=False)
        monkeypatch.setattr(_backend, "NATIVE_DEVICES", frozenset())
        monkeypatch.setattr(_backend, "_warned", {"cpu", "cuda", "meta"})
    return request.param


@pytest.fixture
def native(device: torch.device) -> torch.device:
    """Every device that has native ops."""
    _require_native(device.type)
    return device


@pytest.fixture
def gpu() -> torch.device:
    """A CUDA device with native ops, for tests that are marked cuda."""
    device = _device("cuda")
    _require_native("cuda")
    return device


@pytest.fixture(
    params=[*(f"cpu-{name}" for name in CAPABILITIES), pytest.param("cuda", marks=pytest.mark.cuda)]
)
def kernel(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of every set of kernels: each CPU capability, forced, and CUDA."""
    name, _, capability = request.param.partition("-")
    device = _device(name)
    _require_native(name)
    if name == "cuda":
        yield device
        return
    from rsvheat import _native

    if capability not in _native.available_cpu_capabilities():
        pytest.skip(f"this build or this CPU has no {capability} kernels")
    before = _native.cpu_capability()
    _native.set_cpu_capability(capability)
    yield device
    _native.set_cpu_capability(before)
