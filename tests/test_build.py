# SPDX-License-Identifier: Apache-2.0
"""What is built, what is loaded, and what the user hears when that is less than expected."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rsvheat
from rsvheat import _library

ROOT = Path(__file__).parents[1]
PACKAGE = Path(_library.__file__).parent

# Each makes the operators fail to load in another way; %s is a directory for its files.
NO_OPERATORS = {
    "refused": """
import torch
def refuse(path):
    raise OSError("no such symbol")
torch.ops.load_library = refuse
""",
    "absent": """
import shutil, sys
shutil.copytree({package!r}, {scratch!r} + "/rsvheat", ignore=shutil.ignore_patterns("*.so"))
sys.meta_path = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path.insert(0, {scratch!r})
""",
    "broken": """
import shutil, sys
shutil.copytree({package!r}, {scratch!r} + "/rsvheat", ignore=shutil.ignore_patterns("*.so"))
sys.meta_path = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path.insert(0, {scratch!r})
open({scratch!r} + "/rsvheat/librsvheat_ops.so", "wb").write(b"not a library")
""",
}
REASONS = {
    "refused": "OSError: no such symbol",
    "absent": "librsvheat_ops.so is not installed",
    "broken": "OSError: ",
}

# Imports the package and prints its account of itself and the warnings that it gave.
IMPORT = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import rsvheat
    info = rsvheat.build_info()  # loads the libraries
warned = [str(w.message) for w in caught if "rsvheat" in str(w.message).lower()]
print(json.dumps({"info": info, "warned": warned}))
"""


def _python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RSVHEAT_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=inherited | environment,
    )


def _import_after(preparation: str, **environment: str) -> tuple[_library.BuildInfo, list[str]]:
    result = _python(preparation + IMPORT, **environment)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    return answer["info"], answer["warned"]


@pytest.mark.parametrize("failure", NO_OPERATORS)
def test_importing_survives_operators_that_do_not_load(failure: str, tmp_path: Path) -> None:
    preparation = NO_OPERATORS[failure].format(package=str(PACKAGE), scratch=str(tmp_path))
    info, warned = _import_after(preparation)
    assert info["native"] is False
    assert REASONS[failure] in (info["native_error"] or "")
    assert info["cuda"] is False
    assert info["cuda_error"]
    assert len(warned) == 1
    assert REASONS[failure] in warned[0]
    assert "build_info" in warned[0]


@pytest.mark.parametrize("failure", NO_OPERATORS)
def test_required_operators_that_do_not_load_are_an_error(failure: str, tmp_path: Path) -> None:
    preparation = NO_OPERATORS[failure].format(package=str(PACKAGE), scratch=str(tmp_path))
    result = _python(preparation + IMPORT, RSVHEAT_REQUIRE_NATIVE="1")
    assert result.returncode == 1
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: rsvheat could not load")
    assert REASONS[failure] in last_line
    assert "RSVHEAT_REQUIRE_NATIVE" in last_line


needs_native = pytest.mark.skipif(not _library.native_available(), reason="nothing was built")


@needs_native
@pytest.mark.parametrize("capability", ["generic", "avx2", "avx512"])
def test_environment_chooses_the_cpu_capability(capability: str) -> None:
    if capability not in rsvheat.build_info()["cpu_capabilities"]:
        pytest.skip(f"this build or this CPU has no {capability} kernels")
    info, warned = _import_after("", RSVHEAT_CPU_CAPABILITY=capability)
    assert info["cpu_capability"] == capability
    assert warned == []


@needs_native
def test_unknown_cpu_capability_is_reported_once_and_ignored() -> None:
    default, _ = _import_after("")
    info, warned = _import_after("", RSVHEAT_CPU_CAPABILITY="sse9")
    assert info["cpu_capability"] == default["cpu_capability"]
    assert len(warned) == 1
    assert "RSVHEAT_CPU_CAPABILITY" in warned[0]
    assert "sse9" in warned[0]


@needs_native
def test_cuda_kernels_are_left_alone_where_torch_has_no_cuda() -> None:
    info, warned = _import_after("import torch; torch.version.cuda = None\n")
    assert info["native"] is True
    assert info["cuda"] is False
    assert info["cuda_error"] == "torch is built without CUDA"
    assert warned == []


@needs_native
@pytest.mark.parametrize("gpus", [0, 1])
def test_cuda_kernels_that_do_not_load_are_reported_where_there_is_a_gpu(gpus: int) -> None:
    if _library._find("librsvheat_cuda.so") is None:
        pytest.skip("built without CUDA")
    info, warned = _import_after(f"""
import torch
torch.version.cuda = "13.0"
torch.cuda.device_count = lambda: {gpus}
load = torch.ops.load_library
def load_but_cuda(path):
    if "cuda" in path.name:
        raise OSError("libcufft.so.99: cannot open shared object file")
    load(path)
torch.ops.load_library = load_but_cuda
""")
    assert info["native"] is True
    assert info["cuda"] is False
    assert "libcufft.so.99" in (info["cuda_error"] or "")
    assert len(warned) == gpus
    assert all("libcufft.so.99" in warning for warning in warned)


def test_build_info_has_its_declared_keys_and_is_plain_data() -> None:
    info = rsvheat.build_info()
    assert list(info) == list(_library.BuildInfo.__annotations__)
    assert json.loads(json.dumps(info)) == info
    assert info["version"] == rsvheat.__version__


@needs_native
def test_build_info_counts_plans() -> None:
    import torch

    from rsvheat import _native

    _native.clear_plan_caches()
    assert rsvheat.build_info()["plan_cache"] == {"plans": 0, "bytes": 0}
    rsvheat.ops.dct2d(torch.ones(1, 61, 1, 1), "nhwc")
    cache = rsvheat.build_info()["plan_cache"]
    assert cache["plans"] > 0
    assert cache["bytes"] > 0


# ---- The build itself ---------------------------------------------------------------------------


def _without_nvcc() -> dict[str, str]:
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("CUDACXX", "CUDA_HOME", "CUDA_PATH") and not k.startswith("RSVHEAT_")
    }
    directories = [str(Path(sys.executable).parent), *os.environ["PATH"].split(os.pathsep)]
    return environment | {
        "PATH": os.pathsep.join(d for d in directories if not Path(d, "nvcc").exists())
    }


def _configure(
    build: Path, *options: str, source: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    pybind11 = pytest.importorskip("pybind11")
    cmake = shutil.which("cmake", path=_without_nvcc()["PATH"])
    if cmake is None:
        pytest.skip("cmake is not installed")
    return subprocess.run(
        [
            cmake,
            *("-S", str(source), "-B", str(build)),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *options,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=_without_nvcc() | environment,
    )


@pytest.mark.source_tree
def test_without_nvcc_auto_builds_for_the_cpu_and_says_so(tmp_path: Path) -> None:
    result = _configure(tmp_path, "-DRSVHEAT_CUDA=AUTO")
    assert result.returncode == 0, result.stderr
    assert "building for the CPU only (no nvcc" in result.stdout


@pytest.mark.source_tree
def test_off_builds_for_the_cpu_and_says_so(tmp_path: Path) -> None:
    result = _configure(tmp_path, "-DRSVHEAT_CUDA=OFF")
    assert result.returncode == 0, result.stderr
    assert "building for the CPU only (RSVHEAT_CUDA=OFF)" in result.stdout


@pytest.mark.source_tree
def test_cuda_that_is_asked_for_and_absent_is_an_error_that_names_off(tmp_path: Path) -> None:
    result = _configure(tmp_path, "-DRSVHEAT_CUDA=ON")
    assert result.returncode != 0
    assert "no nvcc" in result.stderr
    assert "RSVHEAT_CUDA=OFF" in result.stderr


@pytest.mark.source_tree
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("echo no cudafe++ >&2; exit 3", "does not run (3): no cudafe++"),
        ("echo Cuda compilation tools, release 11.8, V11.8.89", "is of CUDA 11.8; the kernels"),
    ],
)
def test_nvcc_that_cannot_build_is_named(tmp_path: Path, program: str, message: str) -> None:
    nvcc = tmp_path / "bin of it" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\n{program}\n")
    nvcc.chmod(0o755)
    result = _configure(tmp_path / "build", CUDACXX=str(nvcc))
    assert result.returncode != 0
    told = " ".join(result.stderr.split())
    assert f"{nvcc} {message}" in told
    assert "RSVHEAT_CUDA=OFF builds for the CPU only" in told
    # Asked for no CUDA, it is not called.
    assert _configure(tmp_path / "off", "-DRSVHEAT_CUDA=OFF", CUDACXX=str(nvcc)).returncode == 0


@pytest.mark.source_tree
def test_unknown_value_of_rsvheat_cuda_is_an_error(tmp_path: Path) -> None:
    result = _configure(tmp_path, "-DRSVHEAT_CUDA=MAYBE")
    assert result.returncode != 0
    assert "it must be AUTO, ON or OFF" in result.stderr


@pytest.mark.source_tree
def test_native_off_builds_a_wheel_for_any_platform(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        env=_without_nvcc() | {"RSVHEAT_NATIVE": "OFF"},
    )
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    assert (tmp_path / "unpacked/rsvheat/ops/__init__.py").exists()
    # What `rsvheat demo` runs on, from any folder, and whose it is.
    images = tmp_path / "unpacked/rsvheat/demo/data"
    assert (images / "ATTRIBUTION.md").exists()
    assert len(list(images.glob("s1s2/train/*/*.jpg"))) == 144
    assert len(list(images.glob("eurosat/*/*/*.jpg"))) == 800
    assert len(list(images.glob("dubai/*/*/*"))) == 2 * (177 + 1)
    assert list(tmp_path.rglob("*.so")) == []


@pytest.mark.source_tree
def test_an_sdist_has_all_that_a_build_needs(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    program = f"from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    # CMake looks for every source of the libraries.
    result = _configure(tmp_path / "build", "-DRSVHEAT_CUDA=OFF", source=source)
    assert result.returncode == 0, result.stderr
    command = ["pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), str(sdist)]
    result = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=_without_nvcc() | {"RSVHEAT_NATIVE": "OFF", "RSVHEAT_DEMO_IMAGES": "OFF"},
    )
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    expected = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    assert expected <= set(names)
    assert [name for name in names if name.endswith((".jpg", ".png", ".so"))] == []
    assert wheel.stat().st_size < 12e6


@pytest.mark.source_tree
def test_generic_kernels_compile_for_arm(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no cross compiler: Debian, Ubuntu: apt install g++-aarch64-linux-gnu")
    result = _configure(
        tmp_path,
        "-GNinja",
        f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake/aarch64.cmake'}",
        "-DRSVHEAT_NATIVE=OFF",
        "-DRSVHEAT_WERROR=ON",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O0",  # a third of the time
    )
    assert result.returncode == 0, result.stderr
    cmake = shutil.which("cmake", path=_without_nvcc()["PATH"])
    assert cmake is not None
    result = subprocess.run(
        [cmake, "--build", str(tmp_path)], capture_output=True, text=True, env=_without_nvcc()
    )
    assert result.returncode == 0, result.stdout
    header = (tmp_path / "librsvheat_core.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
