# SPDX-License-Identifier: Apache-2.0
"""What identifies a measurement: the machine and the software."""

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

import rsvheat


def describe(device: str, threads: int, command: str, packages: Sequence[str]) -> dict[str, str]:
    """Return the header of a table: machine, versions of ``packages``, date, load, command."""
    info = rsvheat.build_info()
    name = device_name(device)
    if device == "cpu":
        count = f"{threads} thread{'s' if threads > 1 else ''}"
        name += f" ({info['cpu_capability']}, {count}{_caches()})"
    versions = [f"Python {platform.python_version()}"]
    for package in ("rsvheat", "torch", *packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue  # its rows say that they are skipped
    versions.append(f"{info['compiler']} {info['compiler_flags']}")
    return {
        "kind": device,
        "device": name,
        "versions": ", ".join(versions),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "load before": f"{os.getloadavg()[0]:.1f} (times need a machine that is otherwise idle)",
        "command": command,
    }


def machine_slug(device: str, threads: int) -> str:
    """Return what the names of a machine's result files begin with."""
    name = device_name(device)
    if device == "cpu":
        name += f" {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def device_name(device: str) -> str:
    """Return the name of the CPU or GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return models[0] if models else platform.machine()


def _caches() -> str:
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            caches.append(f", L{level} {size}")
    return "".join(caches)
