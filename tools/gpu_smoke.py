# SPDX-License-Identifier: Apache-2.0
"""Compare every operator with its reference implementation in float64, on memory full of NaNs.

python tools/gpu_smoke.py [--device cuda]; exit status 1 if a result is off.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import rsvheat
from rsvheat import ops

LIMITS = {torch.float32: 4e-6, torch.float64: 1e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# Square tiles, with accesses of 16 bytes and without, register tiles, matrix tiles, passes over
# lines, in chunks of channels and not, cuFFT (csrc/core/cuda/transform.h).
SIZES = (
    (7, 7, 96), (8, 8, 64), (14, 14, 64), (16, 16, 72), (28, 28, 64), (32, 32, 24), (56, 56, 40),
    (64, 64, 48), (64, 64, 33), (37, 53, 40), (32, 48, 64), (100, 100, 33), (112, 112, 16),
    (128, 128, 32), (200, 200, 16), (256, 256, 8), (256, 256, 64), (1, 300, 8), (311, 5, 8),
    (512, 384, 4),
)  # fmt: skip
QUICK = SIZES[:1] + SIZES[9:10]
Case = tuple[str, Callable[..., object], tuple[Tensor, ...], tuple[torch.dtype, ...]]


def cases(device: str, sizes: tuple[tuple[int, int, int], ...]) -> Iterator[Case]:
    """Yield name, function, float64 operands and dtypes of each comparison."""
    everything, wide = tuple(LIMITS), (torch.float32, torch.float64)
    for size in sizes:
        x = torch.randn(2, *size, dtype=torch.float64, device=device)
        k = torch.rand(*size, dtype=torch.float64, device=device)
        yield f"heat_conduction {size}", ops.heat_conduction, (x, k), everything
        yield f"dct2d {size}", lambda x: ops.idct2d(ops.dct2d(x, "nhwc"), "nhwc"), (x,), wide
    # Rows of whole 16-byte accesses, of long ones, of single elements.
    for size in ((9, 7, 128), (5, 6, 1024), (7, 5, 37)):
        x, other = torch.randn(2, 2, *size, dtype=torch.float64, device=device)
        weight, bias = torch.randn(2, size[2], dtype=torch.float64, device=device)
        yield f"gated_layer_norm {size}", ops.gated_layer_norm, (x, other, weight, bias), everything
        yield f"add_layer_norm {size}", ops.add_layer_norm, (other, x, weight, bias), everything
        embed = torch.randn(*size, dtype=torch.float64, device=device)
        taps = torch.randn(size[2], 1, 3, 3, dtype=torch.float64, device=device)
        operands = (x, embed, weight, bias, taps, bias)
        yield f"spatial_correction {size}", ops.spatial_correction_conv, operands, everything
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64, device=device)
    yield "frequency_split", lambda x: ops.frequency_split(x, 0.3, (10, 60)), (images,), everything
    yield "spectral_l1_loss", ops.spectral_l1_loss, (images, images.flip(0)), everything
    boxes = torch.rand(300, 5, dtype=torch.float64, device=device)
    boxes = (boxes * torch.tensor([60.0, 60, 30, 30, 360], device=device)).float().double()
    yield "box_iou_rotated", ops.box_iou_rotated, (boxes[:40], boxes), wide
    image = torch.arange(300, device=device)[:, None] % 2
    regions = torch.cat((image, 4 * boxes[:, :4], boxes[:, 4:]), 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.randn(2, 40, 50, 60, dtype=torch.float64, device=device)

        def align(x: Tensor) -> Tensor:
            return ops.roi_align_rotated(x, regions[:64], 7, 0.25, 2)

        features = features.contiguous(memory_format=layout)
        yield f"roi_align_rotated {layout}", align, (features,), everything


def poison(device: str) -> None:
    """Fill memory that is free with NaNs, so that what a kernel forgets to write shows."""
    junk = [torch.full((1 << 22,), torch.nan, device=device) for _ in range(8)]
    del junk


def results(function: Callable[..., object], operands: tuple[Tensor, ...]) -> list[Tensor]:
    """Return outputs, and gradients of the sum of their squares."""
    leaves = [x.detach().clone().requires_grad_() for x in operands]
    outputs = function(*leaves)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    total = sum(y.double().square().sum() for y in outputs)
    return [*(y.detach() for y in outputs), *torch.autograd.grad(total, leaves)]


def suppression(device: str) -> bool:
    """Return whether suppression keeps the same boxes as its reference implementation."""
    boxes = torch.rand(500, 5, device=device) * torch.tensor([400.0, 400, 60, 60, 360]).to(device)
    scores, labels = torch.rand(500, device=device), torch.arange(500, device=device) % 3
    kept = ops.batched_nms_rotated(boxes, scores, labels, 0.1)
    with ops.use_reference():
        return torch.equal(kept, ops.batched_nms_rotated(boxes, scores, labels, 0.1))


def main() -> int:
    """Run all comparisons and print those that are off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="two sizes, to try the script")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(rsvheat.build_info())
    wrong = count = 0
    for name, function, operands, dtypes in cases(
        arguments.device, QUICK if arguments.quick else SIZES
    ):
        for dtype in dtypes:
            typed = tuple(x.to(dtype) for x in operands)
            with ops.use_reference():
                expected = results(function, tuple(x.double() for x in typed))
            poison(arguments.device)
            found = results(function, typed)
            error = max(
                float((a.double() - b).norm() / b.norm().clamp(min=1e-30))
                for a, b in zip(found, expected, strict=True)
            )
            count += 1
            # Gradients of squares pass two operators, each of which rounds.
            if not error <= 4 * LIMITS[dtype]:
                wrong += 1
                print(f"WRONG {name} {dtype}: relative error {error:.2g}", flush=True)
    if not suppression(arguments.device):
        wrong += 1
        print("WRONG batched_nms_rotated: other boxes are kept")
    print(f"{wrong} of {count + 1} comparisons are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
