# SPDX-License-Identifier: Apache-2.0
"""nms_rotated and batched_nms_rotated against brute force."""

import subprocess
import sys

import pytest
import torch
from rotated_boxes import families, random_boxes, uniform
from torch import Tensor
from utils import HALVES

from rsvheat import ops


def brute_force(
    boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None
) -> list[int]:
    """Return the indices that stay, by a matrix of all pairs and the definition."""
    suppressing = (ops.box_iou_rotated(boxes, boxes).double() > threshold).cpu()
    if labels is not None:
        suppressing &= (labels[:, None] == labels).cpu()
    order = sorted(range(len(scores)), key=lambda i: -scores[i].item())  # stable
    kept: list[int] = []
    for i in order:
        if not suppressing[i, kept].any():
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("count", "extent"), [(500, 60.0), (900, 600.0), (400, 3000.0)])
def test_matches_brute_force(
    count: int, extent: float, threshold: float, kernel: torch.device
) -> None:
    dtype = torch.float32 if count % 200 else torch.float64
    boxes = random_boxes(count, extent).to(kernel, dtype)
    # Scores of few values: ties are in the order of the boxes.
    scores = torch.randint(0, 20, (count,)).to(kernel, dtype)
    labels = torch.randint(-3, 3, (count,)).to(kernel)
    kept = ops.nms_rotated(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.device.type == kernel.type
    assert kept.tolist() == brute_force(boxes, scores, threshold)
    kept = ops.batched_nms_rotated(boxes, scores, labels, threshold)
    assert kept.tolist() == brute_force(boxes, scores, threshold, labels)


def test_matches_brute_force_on_hard_boxes(implementation: str, device: torch.device) -> None:
    count = 20 if implementation == "native" else 1
    pairs = [torch.cat(pair) for name, pair in families(count).items() if name != "tiny"]
    boxes = torch.cat(pairs).to(device)
    scores = uniform(len(boxes)).to(device)
    labels = torch.randint(0, 4, (len(boxes),)).to(device)
    for threshold in (0.0, 0.3, 0.7):
        kept = ops.nms_rotated(boxes, scores, threshold).tolist()
        assert kept == brute_force(boxes, scores, threshold)
        kept = ops.batched_nms_rotated(boxes, scores, labels, threshold).tolist()
        assert kept == brute_force(boxes, scores, threshold, labels)


def test_boxes_of_all_sizes_far_from_the_origin(native: torch.device) -> None:
    boxes = random_boxes(1000, 2000.0)
    boxes[:, 2:4] *= 2.0 ** torch.randint(-6, 6, (1000, 1))
    boxes += torch.tensor([5e5, 5e6, 0, 0, 0])
    boxes, scores = boxes.to(native), uniform(1000).to(native)
    for dtype in (torch.float32, torch.float64):
        kept = ops.nms_rotated(boxes.to(dtype), scores, 0.2).tolist()
        assert kept == brute_force(boxes.to(dtype), scores, 0.2)


def test_does_not_depend_on_threads(kernel: torch.device) -> None:
    boxes, scores = random_boxes(5000, 900.0).to(kernel), uniform(5000).to(kernel)
    torch.set_num_threads(1)
    expected = ops.nms_rotated(boxes, scores, 0.1)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(ops.nms_rotated(boxes, scores, 0.1), expected)


def test_equal_boxes_leave_the_best(implementation: str, device: torch.device) -> None:
    boxes = random_boxes(1).float().to(device).expand(30, 5)
    scores = torch.zeros(30, device=device)
    assert ops.nms_rotated(boxes, scores, 0.5).tolist() == [0]
    scores[17] = 1
    assert ops.nms_rotated(boxes, scores, 0.5).tolist() == [17]
    # The ratio has to exceed the threshold.
    assert ops.nms_rotated(boxes, scores, 1.0).tolist()[:3] == [17, 0, 1]


def test_boxes_whose_bounds_overlap_but_not_themselves_stay(
    implementation: str, device: torch.device
) -> None:
    # mmcv 1133: parallel boxes along a diagonal.
    steps = torch.arange(12, device=device, dtype=torch.float32)
    boxes = torch.stack((6 * steps, 6 * steps, 0 * steps + 100, 0 * steps + 5, 0 * steps + 45), 1)
    assert len(ops.nms_rotated(boxes, -steps, 0.0)) == 12


def test_classes_far_apart_in_number_lose_no_precision(
    implementation: str, device: torch.device
) -> None:
    boxes = random_boxes(30, 20.0).float().to(device)
    boxes[:, :2] += 1e6
    scores = uniform(30).to(device)
    labels = (torch.arange(30) % 3 - 1).to(device) * (1 << 60)
    kept = ops.batched_nms_rotated(boxes, scores, labels, 0.3)
    assert kept.tolist() == brute_force(boxes, scores, 0.3, labels)
    for label in labels.unique():
        chosen = (labels == label).nonzero()[:, 0]
        alone = chosen[ops.nms_rotated(boxes[chosen], scores[chosen], 0.3)]
        assert alone.tolist() == [i for i in kept.tolist() if labels[i] == label]
    for dtype in (torch.int32, torch.uint8):
        few = (labels.sign() + 1).to(dtype)
        assert torch.equal(ops.batched_nms_rotated(boxes, scores, few, 0.3), kept)


def test_no_boxes_and_one(implementation: str, device: torch.device) -> None:
    for count in (0, 1):
        boxes, scores = random_boxes(count).to(device), uniform(count).to(device)
        assert ops.nms_rotated(boxes, scores, 0.5).tolist() == list(range(count))
        labels = torch.zeros(count, dtype=torch.long, device=device)
        assert ops.batched_nms_rotated(boxes, scores, labels, 0.5).tolist() == list(range(count))


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_types(half: torch.dtype, implementation: str, device: torch.device) -> None:
    boxes, scores = random_boxes(60).to(device, half), uniform(60).to(device, half)
    kept = ops.nms_rotated(boxes, scores, 0.2)
    assert kept.tolist() == brute_force(boxes.float(), scores, 0.2)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(ops.nms_rotated(boxes, scores, 0.2), kept)


def test_needs_no_gradient(device: torch.device) -> None:
    boxes, scores = random_boxes(20).to(device), uniform(20).to(device)
    kept = ops.nms_rotated(boxes.requires_grad_(), scores.requires_grad_(), 0.2)
    assert not kept.requires_grad


def test_takes_little_memory(native: torch.device) -> None:
    if native.type == "cuda":
        boxes, scores = random_boxes(100_000, 4000.0).float().cuda(), uniform(100_000).cuda()
        ops.nms_rotated(boxes[:10], scores[:10], 0.1)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ops.nms_rotated(boxes, scores, 0.1)
        assert torch.cuda.max_memory_allocated() - before < 200 << 20
        return
    # In a process of its own, whose peak is that of this call.
    code = (
        "import resource, torch; from rsvheat import ops; torch.manual_seed(0); n = 100_000; "
        "b = torch.rand(n, 5) * torch.tensor([4000.0, 4000, 60, 60, 360]); s = torch.rand(n); "
        "ops.nms_rotated(b[:9], s[:9], 0.1); "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); "
        "print(len(ops.nms_rotated(b, s, 0.1)), (peak() - before) / 1024)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, mebibytes = run.stdout.split()
    assert 5_000 < int(kept) < 50_000
    assert float(mebibytes) < 200


def test_opcheck(native: torch.device) -> None:
    for dtype in (torch.float32, torch.float64):
        boxes, order = random_boxes(6).to(native, dtype), torch.randperm(6).to(native)
        for labels in (torch.zeros(0), torch.arange(6) % 2):
            torch.library.opcheck(
                torch.ops.rsvheat.nms_rotated, (boxes, order, labels.long().to(native), 0.3)
            )


def test_compiles_as_one_graph(native: torch.device) -> None:
    torch._dynamo.reset()
    torch._dynamo.config.capture_dynamic_output_shape_ops = True
    compiled = torch.compile(ops.batched_nms_rotated, fullgraph=True, backend="aot_eager")
    try:
        boxes, scores = random_boxes(40).to(native), uniform(40).to(native)
        labels = torch.arange(40, device=native) % 3
        expected = ops.batched_nms_rotated(boxes, scores, labels, 0.2)
        assert torch.equal(compiled(boxes, scores, labels, 0.2), expected)
    finally:
        torch._dynamo.config.capture_dynamic_output_shape_ops = False


def test_errors_name_the_argument(implementation: str) -> None:
    boxes, scores, labels = random_boxes(4), uniform(4), torch.arange(4)
    nan = boxes.clone()
    nan[2, 1] = torch.nan
    negative = boxes.clone()
    negative[3, 2] = -1
    for arguments, error, message in (
        ((boxes, scores[:3], 0.5), ValueError, r"scores must have one value a box, shape \(4,\)"),
        ((boxes, labels, 0.5), TypeError, "scores must be float32"),
        ((boxes[:, :4], scores, 0.5), ValueError, r"boxes must have shape \(N, 5\)"),
        ((boxes, scores, 1.5), ValueError, r"iou_threshold must be within \[0, 1\], got 1.5"),
        ((boxes, scores, float("nan")), ValueError, "iou_threshold must be within"),
        ((boxes, scores, "0.5"), TypeError, "iou_threshold must be a number, got str"),
        ((boxes, scores.log() * torch.nan, 0.5), ValueError, r"scores must not be NaN.*scores\[0"),
        ((nan, scores, 0.5), ValueError, r"boxes must be finite with sides >= 0, but boxes\[2\]"),
        ((negative, scores, 0.5), ValueError, r"boxes must be finite.*boxes\[3\]"),
        ((boxes, scores.to("meta"), 0.5), ValueError, "scores must be on boxes's device"),
    ):
        with pytest.raises(error, match=message):
            ops.nms_rotated(*arguments)
    for bad, error, message in (
        (scores, TypeError, "labels must be integers, got torch.float64"),
        (None, TypeError, "labels must be a torch.Tensor, got NoneType"),
        (labels[:2], ValueError, "labels must have one value a box"),
        ([0, 1, 2, 3], TypeError, "labels must be a torch.Tensor, got list"),
    ):
        with pytest.raises(error, match=message):
            ops.batched_nms_rotated(boxes, scores, bad, 0.5)


def test_the_native_op_checks_for_itself() -> None:
    op, boxes, order = torch.ops.rsvheat.nms_rotated, random_boxes(4), torch.arange(4)
    none = torch.zeros(0, dtype=torch.long)
    bad = boxes.clone()
    bad[2, 0] = torch.inf
    for arguments, message in (
        ((boxes, order[:3], none, 0.5), "order must be"),
        ((boxes, order + 1, none, 0.5), "order must be a permutation"),
        ((boxes, order // 2, none, 0.5), "order must be a permutation"),
        ((boxes, order, order[:2], 0.5), "labels must be"),
        ((boxes, order, order.int(), 0.5), "labels must be of dtype Long"),
        ((bad, order, none, 0.5), r"boxes must be finite with sides >= 0, but boxes\[2\]"),
    ):
        with pytest.raises(RuntimeError, match=message):
            op(*arguments)
