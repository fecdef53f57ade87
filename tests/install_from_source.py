# SPDX-License-Identifier: Apache-2.0
"""Installs the package from source with build isolation, as README says, and runs an operator.

Run by ``make test-install``, on a machine that reaches a package index. Each variant hides some
build tools from the installer, as if the machine did not have them. The files that git tracks are
copied first, so that a file missing from the repository is found, and so that the build folder of
the working tree stays as it is.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]

CMAKE = ("cmake", "cmake3", "ninja", "ninja-build")
NVCC = ("nvcc",)

# Prints what was installed, after a call of an operator with its gradient.
PROGRAM = """
import rsvheat, torch
x = torch.randn(2, 8, 6, 4, requires_grad=True)
rsvheat.ops.heat_conduction(x, 0.5).square().sum().backward()
assert torch.isfinite(x.grad).all() and x.grad.any()
info = rsvheat.build_info()
assert info["native"], info["native_error"]
print(rsvheat.__file__, ",".join(info["cuda_archs"]) or "cpu", sep="|")
"""


@dataclass(frozen=True)
class Variant:
    """One way to install the package.

    Attributes:
        requirement: Arguments of ``pip install``.
        hidden: Programs that the installer does not find.
        cuda: Whether CUDA kernels are expected where the machine has nvcc.
        environment: Variables set for the installer.
    """

    requirement: tuple[str, ...] = (".",)
    hidden: tuple[str, ...] = ()
    cuda: bool = True
    environment: dict[str, str] = field(default_factory=dict)


VARIANTS = {
    "readme": Variant((".[train,geo,explain,export]",)),
    "no-cmake": Variant(hidden=CMAKE),
    "cuda-off": Variant(cuda=False, environment={"RSVHEAT_CUDA": "OFF"}),
    "no-nvcc": Variant(hidden=NVCC, cuda=False),
    "no-cmake-no-nvcc": Variant(hidden=CMAKE + NVCC, cuda=False),
    "editable": Variant(("-e", "."), hidden=NVCC, cuda=False),
}


def copy_tracked_files(target: Path) -> None:
    """Copy what git tracks, as it is in the working tree."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def path_without(programs: tuple[str, ...], scratch: Path) -> str:
    """Return PATH with folders of links in place of those that have one of the programs."""
    folders = []
    for number, folder in enumerate(map(Path, os.environ["PATH"].split(os.pathsep))):
        if any((folder / program).exists() for program in programs):
            links = scratch / f"{number}"
            links.mkdir(parents=True)
            for program in folder.iterdir():
                if program.name not in programs:
                    (links / program.name).symlink_to(program)
            folder = links
        folders.append(str(folder))
    return os.pathsep.join(folders)


def environment_of(variant: Variant, scratch: Path) -> dict[str, str]:
    """Return the variables of a process that installs or runs the variant."""
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "CMAKE_EXECUTABLE", "CMAKE_MAKE_PROGRAM")
    if "nvcc" in variant.hidden:
        unset += ("CUDACXX", "CUDA_HOME", "CUDA_PATH")
    kept = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith("RSVHEAT_")}
    return kept | variant.environment | {"PATH": path_without(variant.hidden, scratch)}


def install(name: str, folder: Path) -> None:
    """Install one variant in a new virtual environment, run an operator, remove the environment."""
    variant = VARIANTS[name]
    here = folder / name
    shutil.rmtree(here, ignore_errors=True)
    source = here / "source"
    copy_tracked_files(source)
    environment = environment_of(variant, here / "path")
    python = here / "venv" / "bin" / "python"
    # Debian keeps ensurepip in a package of its own; without it, this interpreter's pip helps out.
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    venv.create(here / "venv", with_pip=has_ensurepip)
    pip = [str(python), "-m", "pip"]
    if not has_ensurepip:
        pip = [sys.executable, "-m", "pip", "--python", str(python)]

    began = time.monotonic()
    subprocess.run(
        [*pip, "install", "-q", *variant.requirement], cwd=source, env=environment, check=True
    )
    took = time.monotonic() - began

    # Not from the folder of the source, whose package Python would import first.
    ran = subprocess.run(
        [str(python), "-W", "error", "-c", PROGRAM],
        cwd=here,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    file, archs = ran.stdout.strip().split("|")
    expected = source if "-e" in variant.requirement else here / "venv"
    if not Path(file).is_relative_to(expected):
        raise SystemExit(f"{name}: imported {file}, expected a file of {expected}")
    has_nvcc = shutil.which("nvcc", path=environment["PATH"]) is not None
    if (archs != "cpu") != (variant.cuda and has_nvcc):
        raise SystemExit(f"{name}: built for {archs}; nvcc is {'' if has_nvcc else 'not '}there")
    print(f"{name}: installed in {took:.0f} s, built for {archs}", flush=True)
    shutil.rmtree(here)


def main() -> None:
    """Install the variants named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variants", nargs="*", choices=[[], *VARIANTS], help="default: all")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the environments")
    arguments = parser.parse_args()
    cmake = shutil.which("cmake")
    version = "none"
    if cmake is not None:
        run = subprocess.run([cmake, "--version"], check=True, capture_output=True, text=True)
        version = run.stdout.splitlines()[0]
    print(f"python {sys.version.split()[0]}, system's CMake: {version}", flush=True)
    for name in arguments.variants or VARIANTS:
        install(name, arguments.folder.resolve())


if __name__ == "__main__":
    main()
