# SPDX-License-Identifier: Apache-2.0
"""Show the operators at work: build, accuracy, speed, and a picture of heat spreading.

python examples/demo_operators.py [--out runs/demo] [--repeats 20]
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import rsvheat
from rsvheat.ops import reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGE = Path(__file__).parent / "data" / "sentinel2_harbour.png"
CREDIT = "Sentinel-2, 10 m a pixel. Contains modified Copernicus Sentinel data 2020."
TOLERANCE = 2e-6  # relative L2 error in float32
SHAPES = ((8, 56, 56, 128), (8, 14, 14, 512), (1, 200, 200, 128))
DIFFUSIVITIES = (0, 0.5, 2, 8, 32)  # pixel**2
# Radius of the low band as a fraction of the spectrum's diagonal, and its angles in degrees.
SECTORS = ((0.15, (0, 90)), (0.6, (0, 18)))


class DemoError(Exception):
    """Ends the demo with one line."""


def main() -> int:
    """Run the steps and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the figure")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each operator")
    arguments = parser.parse_args()
    try:
        _prepare(arguments.out)
        print("[1/4] Build")
        show_build()
        print("\n[2/4] Operators in float32 against pure torch in float64")
        check_operators()
        print(f"\n[3/4] Forward times of heat_conduction on {torch.get_num_threads()} threads")
        show_times(max(1, arguments.repeats))
        print("\n[4/4] Heat spreading on a satellite image")
        print(f"  wrote {draw(arguments.out)}")
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare(out: Path) -> None:
    """Find out now, not after the work, what would keep the figure from being written."""
    try:
        import matplotlib
    except ImportError:
        raise DemoError("the figure needs matplotlib: pip install 'rsvheat[explain]'") from None
    matplotlib.use("Agg")  # no display needed
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"the folder {out} cannot be made: {error.strerror}") from None
    if not os.access(out, os.W_OK):
        raise DemoError(f"the folder {out} cannot be written to")


def show_build() -> None:
    """Print what is built and loaded."""
    info = rsvheat.build_info()
    print(f"  rsvheat {info['version']}, torch {info['torch']}")
    if info["native"]:
        print(f"  CPU kernels: {info['cpu_capability']}, compiled by {info['compiler']}")
    else:
        print(f"  CPU kernels: none, pure torch runs instead ({info['native_error']})")
    print(f"  CUDA kernels: {'loaded' if info['cuda'] else info['cuda_error']}")


def check_operators() -> None:
    """Compare every operator, and the gradients of heat conduction, with its float64 twin."""
    torch.manual_seed(0)
    features, k = torch.randn(2, 56, 40, 32), 2 * torch.rand(56, 40, 32)
    images, others = torch.randn(2, 2, 3, 224, 200)
    ops = rsvheat.ops
    checks: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]] = {
        "dct2d": (ops.dct2d, reference.dct2d, (images,)),
        "idct2d": (ops.idct2d, reference.idct2d, (images,)),
        "heat_conduction": (ops.heat_conduction, reference.heat_conduction, (features, k)),
        "its gradients": (
            _gradients(ops.heat_conduction),
            _gradients(reference.heat_conduction),
            (features, k),
        ),
        "frequency_split": (
            lambda x: torch.stack(ops.frequency_split(x, [0.2, 0.5])),
            lambda x: torch.stack(reference.frequency_split(x, [0.2, 0.5])),
            (images,),
        ),
        "spectral_l1_loss": (ops.spectral_l1_loss, reference.spectral_l1_loss, (images, others)),
    }
    for name, (operator, twin, inputs) in checks.items():
        exact = twin(*(t.double() for t in inputs))
        error = float((operator(*inputs) - exact).norm() / exact.norm())
        print(f"  {name:<17} relative error {error:.1e}")
        if not error <= TOLERANCE:
            raise DemoError(f"{name} is wrong: relative error {error:.1e} > {TOLERANCE:.1e}")


def _gradients(operator: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def gradients(x: Tensor, k: Tensor) -> Tensor:
        leaves = x.detach().requires_grad_(), k.detach().requires_grad_()
        loss = operator(*leaves).square().sum()
        return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, leaves)])

    return gradients


def show_times(repeats: int) -> None:
    """Time heat conduction beside its twin and beside one streaming pass over the data."""
    print(f"  {'(B, H, W, C)':<18} {'rsvheat':>10} {'pure torch':>12} {'one pass':>10}")
    for shape in SHAPES:
        x, k = torch.randn(shape), 2 * torch.rand(shape[1:])
        y = torch.empty_like(x)
        calls: list[Callable[[], Tensor]] = [
            lambda x=x, k=k: rsvheat.ops.heat_conduction(x, k),
            lambda x=x, k=k: reference.heat_conduction(x, k),
            lambda x=x, k=k, y=y: torch.mul(x, k, out=y),
        ]
        ours, twin, floor = (_milliseconds(call, repeats) for call in calls)
        print(f"  {shape!s:<18} {ours:>7.2f} ms {twin:>9.2f} ms {floor:>7.2f} ms")
    print("  The full comparison: python benchmarks/run.py")


def _milliseconds(call: Callable[[], Tensor], repeats: int) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return 1e3 * min(seconds)


def draw(out: Path) -> Path:
    """Draw the figure and return its path."""
    from matplotlib import pyplot as plt

    image = torch.from_numpy(plt.imread(IMAGE)[..., :3].copy())
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 10})
    figure, axes = plt.subplots(4, 5, figsize=(14, 11.6), layout="constrained")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    _draw_diffusion(axes[:3], image)
    _draw_bands(axes[3], image)
    figure.suptitle("Heat conduction by the discrete cosine transform", fontsize=15)
    figure.supxlabel(CREDIT, fontsize=8, color="0.4")

    path = out / "heat.png"
    unfinished = out / ".heat.png.part"  # so that heat.png is never half a picture
    try:
        figure.savefig(unfinished, format="png", dpi=110)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise DemoError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        plt.close(figure)
    return path


def _draw_diffusion(axes: Any, image: Tensor) -> None:
    """Draw the image, its spectrum and a point of heat, one column for each diffusivity."""
    from matplotlib.colors import LogNorm

    point = torch.zeros(1, 64, 64, 1)
    point[0, 28, 12] = 1
    for column, k in enumerate(DIFFUSIVITIES):
        picture = rsvheat.ops.heat_conduction(image[None], float(k))[0]
        axes[0, column].imshow(picture.clamp(0, 1))
        blur = rf"k = {k:g} pixel², blur $\sigma$ = {math.sqrt(2 * k):g} px"
        axes[0, column].set_title(blur if k else "k = 0: as it was")

        spectrum = axes[1, column].imshow(
            _spectrum(picture), cmap="magma", norm=LogNorm(1e-4, 1e1), interpolation="antialiased"
        )

        heat = rsvheat.ops.heat_conduction(point, float(k))[0, ..., 0]
        temperature = axes[2, column].imshow(
            heat.clamp(min=1e-4), cmap="inferno", norm=LogNorm(1e-4, 1)
        )
        axes[2, column].set_title(f"peak {heat.max():.2g}, total {heat.sum():.3f}")
    axes[0, 0].set_ylabel("image")
    axes[1, 0].set_ylabel("its DCT spectrum")
    axes[2, 0].set_ylabel("heat from a point,\nno flow across the edges")
    for axis in axes[1]:
        _label_frequencies(axis)
    axes[1, 0].figure.colorbar(spectrum, ax=axes[1], label="|coefficient|", pad=0.01)
    axes[2, 0].figure.colorbar(temperature, ax=axes[2], label="temperature", pad=0.01)


def _draw_bands(axes: Any, image: Tensor) -> None:
    """Draw the low and the high band of two sectors of the spectrum."""
    from matplotlib.colors import LogNorm

    height, width = image.shape[:2]
    radius = torch.tensor([sector[0] for sector in SECTORS], dtype=torch.float64)
    angles = torch.tensor([sector[1] for sector in SECTORS], dtype=torch.float64)
    images = image.permute(2, 0, 1).expand(len(SECTORS), 3, height, width)
    low, high = rsvheat.ops.frequency_split(images, radius, angles)
    kept = reference.sector_mask(radius, angles, height, width)

    axes[0].imshow(_spectrum(image), cmap="magma", norm=LogNorm(1e-4, 1e1))
    for mask, name, color in zip(kept, "AB", ("cyan", "lime"), strict=True):
        axes[0].contour(mask, [0.5], colors=color, linewidths=1.5)
        row, column = mask.nonzero().double().mean(0)
        axes[0].text(column, row, name, color=color, weight="bold", ha="center", va="center")
    axes[0].set(title="two low bands, A and B", ylabel="frequency_split")
    _label_frequencies(axes[0])
    for index, name in enumerate("AB"):
        axes[1 + 2 * index].imshow(low[index].permute(1, 2, 0).clamp(0, 1))
        axes[1 + 2 * index].set_title(f"low band {name}")
        # The high band has no mean: it is shown around mid-grey.
        axes[2 + 2 * index].imshow((high[index].permute(1, 2, 0) + 0.5).clamp(0, 1))
        axes[2 + 2 * index].set_title(f"high band {name}: the rest")


def _spectrum(image: Tensor) -> Tensor:
    """Return the magnitudes of the DCT coefficients of the mean of the colours, never zero."""
    return rsvheat.ops.dct2d(image.mean(-1)[None, None])[0, 0].abs().clamp(min=1e-4)


def _label_frequencies(axis: "Axes") -> None:
    height, width = axis.images[0].get_size()
    axis.set_xticks([0, width / 2, width - 1], ["0", "ω", "π"])
    axis.set_yticks([0, height / 2, height - 1], ["0", "ω", "π"])
    axis.tick_params(length=0)


if __name__ == "__main__":
    sys.exit(main())
