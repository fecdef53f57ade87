# SPDX-License-Identifier: Apache-2.0
"""Tabulate the machine code of CUDA kernels: registers, shared memory, instructions, accesses.

python tools/kernel_table.py PATH... [--architecture sm_90] [--cuobjdump PATH] > table.csv

A path is a library or a cubin. Needs c++filt and, of the CUDA toolkit or of the packages
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm, cuobjdump and nvdisasm; no GPU. Instructions are
those in the code, each counted once: of a loop they are those of its body. What the compiler could
not keep in registers would show as stack or as local accesses (LDL, STL).
"""

import argparse
import csv
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields


@dataclass
class Kernel:
    """A kernel's machine code for one architecture."""

    name: str
    architecture: str
    registers: int
    stack: int
    shared: int
    instructions: int
    arithmetic: int
    """Multiplications, additions and their fusions in float32 or float64."""
    global_loads: int
    wide_loads: int
    """Of them, those of 16 bytes a lane."""
    global_stores: int
    wide_stores: int
    local: int
    """Accesses to what did not fit in registers."""


_RESOURCES = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.M)
_ARITHMETIC = ("FFMA", "FADD", "FMUL", "DFMA", "DADD", "DMUL")


def run(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sections(text: str, begin: str) -> Iterator[tuple[str, str]]:
    """Yield what follows each line that begins with a word, and the lines up to the next one."""
    parts = re.split(rf"^\s*{begin}\s*(.*)$", text, flags=re.M)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def kernels(path: str, architecture: str, cuobjdump: str) -> list[Kernel]:
    """Return the kernels of a file for one architecture.

    Args:
        path: Library or cubin.
        architecture: As cuobjdump names it, sm_90.
        cuobjdump: Path of the program.
    """
    usage = run(cuobjdump, "--dump-resource-usage", "-arch", architecture, path)
    resources = {name: tuple(map(int, rest)) for name, *rest in _RESOURCES.findall(usage)}
    code = run(cuobjdump, "--dump-sass", "-arch", architecture, path)
    found = []
    for name, body in sections(code, r"Function :"):
        counts = Counter(_INSTRUCTION.findall(body))
        # What pads the code to whole lines of the cache is no part of it.
        counts.pop("NOP", None)

        def total(*beginnings: str, having: str = "", counts: Counter[str] = counts) -> int:
            return sum(
                n for op, n in counts.items() if op.split(".")[0] in beginnings and having in op
            )

        registers, stack, shared = resources[name]
        found.append(
            Kernel(
                name, architecture, registers, stack, shared, counts.total(), total(*_ARITHMETIC),
                total("LDG"), total("LDG", having=".128"), total("STG"),
                total("STG", having=".128"), total("LDL", "STL"),
            )
        )  # fmt: skip
    names = run("c++filt", *(kernel.name for kernel in found)).splitlines() if found else []
    for kernel, name in zip(found, names, strict=True):
        kernel.name = short(name)
    return found


def short(name: str) -> str:
    """Return a kernel's demangled name without namespaces and arguments."""
    name = re.sub(r"\(anonymous namespace\)::|rsvheat::|cuda::|^void ", "", name)
    name = re.sub(r"\((?:NormStep|int|bool)\)", "", name)
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--cuobjdump", default="cuobjdump")
    arguments = parser.parse_args(argv)
    try:
        rows = [
            kernel
            for path in arguments.paths
            for kernel in kernels(path, arguments.architecture, arguments.cuobjdump)
        ]
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        print(f"error: {detail}", file=sys.stderr)
        return 2
    writer = csv.DictWriter(
        sys.stdout, [field.name for field in fields(Kernel)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
