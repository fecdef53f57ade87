# SPDX-License-Identifier: Apache-2.0
"""Build the sdist and the wheels of a release in ``dist/``.

    python tools/build_wheels.py [--variants cpu cuda pure] [--pythons /usr/bin/python3.12 ...]

``dist/`` gets the sdist, and a folder for each variant: ``cpu`` and ``cuda`` with a manylinux wheel
for each interpreter, ``pure`` with one wheel without compiled kernels. All wheels are built from
the unpacked sdist, outside of the source tree. The operators do not depend on Python, so each
variant has one build folder for all interpreters, in which only the pybind11 module is compiled
again; nothing is compiled twice by a second run.

torch comes from the interpreter that runs this script, as do CMake, Ninja and auditwheel. No wheel
holds libraries of torch or of CUDA: those that torch has loaded are used.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/wheels"
DIST = ROOT / "dist"

MINORS = range(10, 15)  # of CPython 3
SIZES = {"cpu": 12e6, "cuda": 60e6, "pure": 12e6}  # bytes that a wheel may have

# Found at run time in the packages that torch depends on.
EXCLUDED = ("libtorch*.so", "libc10*.so", "libcudart.so.*", "libcufft.so.*")

# Prints why an interpreter cannot be used, or nothing.
PROBE = """
import os, sys, sysconfig
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    print("it is not CPython with its lock")
elif not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("it has no Python.h")
"""


def find_interpreters() -> list[Path]:
    """Return the path of one usable interpreter for each version of CPython that is installed."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    found = []
    for minor in MINORS:
        name = f"python3.{minor}"
        candidates = [
            *filter(None, [shutil.which(name)]),
            *sorted(pyenv.glob(f"versions/3.{minor}.*/bin/{name}")),
            *sorted(home.glob(f".local/share/uv/python/cpython-3.{minor}.*/bin/{name}")),
            *Path("/opt/python").glob(f"cp3{minor}-cp3{minor}/bin/{name}"),  # manylinux images
        ]
        reasons = {}
        for path in map(Path, candidates):
            run = subprocess.run([path, "-c", PROBE], capture_output=True, text=True)
            reason = run.stdout.strip() if run.returncode == 0 else "it does not run"
            if not reason:
                found.append(path)
                break
            reasons[path] = reason
        else:
            why = "; ".join(f"{path}: {reason}" for path, reason in reasons.items())
            print(f"{name}: left out ({why or 'not installed'})", flush=True)
    return found


def build_sdist() -> Path:
    """Build the sdist in ``dist/``, and return its path."""
    for old in DIST.glob("*.tar.gz"):
        old.unlink()
    program = f"from scikit_build_core.build import build_sdist; build_sdist({str(DIST)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    (path,) = DIST.glob("*.tar.gz")
    return path


def unpack(sdist: Path, target: Path) -> None:
    """Make a folder equal to an sdist; files that are so already keep their time of change."""
    kept = set()
    with tarfile.open(sdist) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            path = target / member.name.partition("/")[2]
            kept.add(path)
            new = content.read()
            if not path.is_file() or path.read_bytes() != new:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(new)
                path.chmod(member.mode)
    for path in target.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def install_tools(interpreter: Path) -> Path:
    """Install what builds need, except torch, in a folder for all interpreters, and return it.

    From another folder, scikit-build-core would remove all compiled objects: it takes that for a
    new isolated environment.
    """
    import pybind11
    import scikit_build_core

    folder = WORK / "tools"
    requirements = (
        f"scikit-build-core=={scikit_build_core.__version__}",
        f"pybind11=={pybind11.__version__}",
    )
    pip = (sys.executable, "-m", "pip", "--python", interpreter)
    command = [*pip, "install", "-q", "--upgrade", "--target", folder, *requirements]
    subprocess.run(command, check=True)
    return folder


def build_environment(interpreter: Path, tools: Path) -> Path:
    """Return the interpreter of a virtual environment that has the tools."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    run = subprocess.run([interpreter, "-c", program], check=True, capture_output=True, text=True)
    version = run.stdout.strip()
    folder = WORK / f"python{version}"
    if not (folder / "bin/python").exists():
        subprocess.run([interpreter, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / f"lib/python{version}/site-packages"
    (packages / "tools.pth").write_text(f"{tools}\n")
    return folder / "bin/python"


def build_wheel(source: Path, variant: str, python: Path) -> Path:
    """Build a wheel of the variant for an interpreter, and return its path in ``dist/``."""
    raw = WORK / f"{variant}-raw"
    shutil.rmtree(raw, ignore_errors=True)
    programs = sysconfig.get_path("scripts")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSVHEAT_", "CMAKE_"))}
    environment = kept | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "CMAKE_ARGS": f"-DRSVHEAT_TORCH_PYTHON={sys.executable} -DRSVHEAT_ALL_GPUS=ON",
        "RSVHEAT_NATIVE": "OFF" if variant == "pure" else "ON",
        "RSVHEAT_CUDA": "ON" if variant == "cuda" else "OFF",
        "RSVHEAT_DEMO_IMAGES": "OFF",
    }
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    command = [*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(raw)]
    build = f"build-dir={WORK / variant}"
    # CMake finds each Python anew; objects stay.
    (WORK / variant / "CMakeCache.txt").unlink(missing_ok=True)
    subprocess.run([*command, "-C", build, str(source)], check=True, env=environment)
    (wheel,) = raw.glob("*.whl")
    out = DIST / variant
    out.mkdir(parents=True, exist_ok=True)
    if variant == "pure":
        return shutil.copy2(wheel, out / wheel.name)
    before = set(out.iterdir())
    excluded = [word for name in EXCLUDED for word in ("--exclude", name)]
    repair = [sys.executable, "-m", "auditwheel", "repair", "--strip", *excluded]
    subprocess.run([*repair, "-w", str(out), str(wheel)], check=True, env=environment)
    (repaired,) = set(out.iterdir()) - before
    return repaired


def main() -> None:
    """Build what the command line asks for; exit with 1 if a wheel is too large."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--variants", nargs="+", choices=SIZES, default=list(SIZES), help="default: all"
    )
    parser.add_argument(
        "--pythons", nargs="+", type=Path, help="interpreters; default: CPython 3.10 to 3.14"
    )
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    sdist = build_sdist()
    print(f"{sdist.relative_to(ROOT)}: {sdist.stat().st_size / 1e6:.1f} MB", flush=True)
    unpack(sdist, WORK / "source")

    interpreters = arguments.pythons or find_interpreters()
    if not interpreters:
        raise SystemExit("there is no usable CPython; --pythons names some")
    # The oldest one's, which needs packages that later ones have in their standard library.
    tools = install_tools(interpreters[0])
    environments = [build_environment(path, tools) for path in interpreters]
    large = []
    for variant in arguments.variants:
        shutil.rmtree(DIST / variant, ignore_errors=True)
        for python in environments[:1] if variant == "pure" else environments:
            wheel = build_wheel(WORK / "source", variant, python)
            size = wheel.stat().st_size
            print(f"{wheel.relative_to(ROOT)}: {size / 1e6:.1f} MB", flush=True)
            if size > SIZES[variant]:
                large.append(f"{wheel.name} ({variant}) has {size / 1e6:.1f} MB")
    if large:
        raise SystemExit("larger than allowed: " + ", ".join(large))


if __name__ == "__main__":
    main()
