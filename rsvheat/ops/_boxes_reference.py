# SPDX-License-Identifier: Apache-2.0
"""Reference implementation of the operators on rotated boxes, in pure torch.

Each function has the signature of its public function in ``rsvheat.ops``, whose docstring
applies here. The intersection over union follows csrc/core/boxes_math.inl operation by operation,
so both give the same bits; the derivation is in that file.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rsvheat.ops import _boxes_checks, _checks

# Degrees to radians, and the coefficients of sin(x) / x and cos(x) in x^2, each as high + low.
_RADIANS = ("0x1.1df46a2529d39p-6", "0x1.5c1d8becdd291p-62")
_SINE = (
    ("0x1.0000000000000p+0", "0x0.0p+0"),
    ("-0x1.5555555555555p-3", "-0x1.5555555555555p-57"),
    ("0x1.1111111111111p-7", "0x1.1111111111111p-63"),
    ("-0x1.a01a01a01a01ap-13", "-0x1.a01a01a01a01ap-73"),
    ("0x1.71de3a556c734p-19", "-0x1.c154f8ddc6c00p-73"),
    ("-0x1.ae64567f544e4p-26", "0x1.c062e06d1f209p-80"),
    ("0x1.6124613a86d09p-33", "0x1.f28e0cc748ebep-87"),
    ("-0x1.ae7f3e733b81fp-41", "0x0.0p+0"),
    ("0x1.952c77030ad4ap-49", "0x0.0p+0"),
    ("-0x1.2f49b46814157p-57", "0x0.0p+0"),
    ("0x1.71b8ef6dcf572p-66", "0x0.0p+0"),
    ("-0x1.761b41316381ap-75", "0x0.0p+0"),
    ("0x1.3f3ccdd165fa9p-84", "0x0.0p+0"),
)
_COSINE = (
    ("0x1.0000000000000p+0", "0x0.0p+0"),
    ("-0x1.0000000000000p-1", "0x0.0p+0"),
    ("0x1.5555555555555p-5", "0x1.5555555555555p-59"),
    ("-0x1.6c16c16c16c17p-10", "0x1.f49f49f49f49fp-65"),
    ("0x1.a01a01a01a01ap-16", "0x1.a01a01a01a01ap-76"),
    ("-0x1.27e4fb7789f5cp-22", "-0x1.cbbc05b4fa99ap-76"),
    ("0x1.1eed8eff8d898p-29", "-0x1.2aec959e14c06p-83"),
    ("-0x1.93974a8c07c9dp-37", "0x0.0p+0"),
    ("0x1.ae7f3e733b81fp-45", "0x0.0p+0"),
    ("-0x1.6827863b97d97p-53", "0x0.0p+0"),
    ("0x1.e542ba4020225p-62", "0x0.0p+0"),
    ("-0x1.0ce396db7f853p-70", "0x0.0p+0"),
    ("0x1.f2cf01972f578p-80", "0x0.0p+0"),
    ("-0x1.88e85fc6a4e5ap-89", "0x0.0p+0"),
)
# Coefficients from this one on need no low part: their terms are below 1e-13 of the first.
_PLAIN_TERMS = 7

_LARGEST = 1e150
_SMALLEST = 1e-150
_PARALLEL = 1e-100
_MOST_PAIRS = 1 << 20


class _Exact(NamedTuple):
    """A number as the unevaluated sum of two float64."""

    high: Tensor
    low: Tensor


class _Boxes(NamedTuple):
    """Prepared boxes, float64: y upward, angle in [-45, 45) degrees, invalid ones NaN in x, y."""

    x: Tensor
    y: Tensor
    half_w: Tensor
    half_h: Tensor
    cos: _Exact
    sin: _Exact
    extent_x: Tensor
    extent_y: Tensor

    def row(self) -> "_Boxes":
        """Return fields of shape (1, N)."""
        return self._each(lambda values: values[None])

    def column(self, rows: slice) -> "_Boxes":
        """Return the fields of some boxes, of shape (N, 1)."""
        return self._each(lambda values: values[rows, None])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "_Boxes":
        cos, sin = (_Exact(change(v.high), change(v.low)) for v in (self.cos, self.sin))
        x, y, half_w, half_h = (change(v) for v in self[:4])
        return _Boxes(x, y, half_w, half_h, cos, sin, change(self.extent_x), change(self.extent_y))


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
    """Reference of ``rsvheat.ops.box_iou_rotated``."""
    boxes1, boxes2 = _boxes_checks.pair(boxes1, boxes2, aligned)
    first, second = prepare(boxes1), prepare(boxes2)
    if aligned:
        iou = _iou(first, second)
    else:
        second = second.row()
        rows = max(1, _MOST_PAIRS // max(boxes2.shape[0], 1))
        starts = range(0, boxes1.shape[0], rows)
        parts = [_iou(first.column(slice(i, i + rows)), second) for i in starts]
        empty = boxes1.new_zeros((0, boxes2.shape[0]), dtype=torch.float64)
        iou = torch.cat(parts) if parts else empty
    return iou.to(boxes1.device, boxes1.dtype)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Reference of ``rsvheat.ops.nms_rotated``."""
    return suppress(*_boxes_checks.suppression(boxes, scores, None, iou_threshold))


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """Reference of ``rsvheat.ops.batched_nms_rotated``."""
    if labels is None:
        raise TypeError("labels must be a torch.Tensor, got NoneType")
    return suppress(*_boxes_checks.suppression(boxes, scores, labels, iou_threshold))


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    """Select boxes; the arguments are as ``_boxes_checks.suppression`` returns them."""
    rest = torch.sort(scores, stable=True, descending=True).indices
    kept = []
    while rest.numel() > 0:
        first, rest = rest[:1], rest[1:]
        kept.append(first)
        iou = box_iou_rotated(boxes[first], boxes[rest])[0]
        stays = ~(iou.to(_checks.precise_device(iou.device)).double() > iou_threshold)
        stays = stays.to(rest.device)
        if labels is not None:
            stays = stays | (labels[rest] != labels[first])
        rest = rest[stays]
    return torch.cat(kept) if kept else rest


def roi_align_rotated(
    features: Tensor,
    boxes: Tensor,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
) -> Tensor:
    """Reference of ``rsvheat.ops.roi_align_rotated``."""
    return align(
        *_boxes_checks.regions(features, boxes, output_size, spatial_scale, sampling_ratio)
    )


def align(
    features: Tensor, boxes: Tensor, size: tuple[int, int], scale: float, sampling_ratio: int
) -> Tensor:
    """Resample features; the arguments are as ``_boxes_checks.regions`` returns them."""
    y = _align(features, boxes, size, scale, sampling_ratio)
    if _boxes_checks.is_channels_last(features):
        # torch.vmap cannot call contiguous(memory_format=torch.channels_last).
        return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return y.contiguous()


def _align(
    features: Tensor, boxes: Tensor, size: tuple[int, int], scale: float, sampling_ratio: int
) -> Tensor:
    batch, channels, height, width = features.shape
    sums = torch.float64 if features.dtype == torch.float64 else torch.float32
    pixels = features.permute(0, 2, 3, 1).reshape(batch * height * width, channels).to(sums)

    def of_equal_samples(rois: Tensor, samples: tuple[int, int]) -> Tensor:
        index, weight = _points(rois, size, samples, scale, (batch, height, width))
        weight = weight.to(features.device, sums)
        y = pixels.new_zeros((rois.shape[0], *size, channels))
        # Point by point: all at once, (K, bins, points, 4, C), would be large.
        for i in range(index.shape[-1]):
            y = y + pixels[index[..., i].to(features.device)] * weight[..., i, None]
        return y.movedim(-1, 1).to(features.dtype)

    if sampling_ratio > 0 or boxes.shape[0] == 0:
        ratio = max(sampling_ratio, 1)
        return of_equal_samples(boxes, (ratio, ratio))
    if _checks.is_fake(boxes):
        raise ValueError(
            "sampling_ratio must be positive where the reference implementation is traced: the "
            "number of points in a bin would depend on the values of the boxes"
        )
    rows, columns = (
        _samples(boxes[:, side] * scale / bins) for side, bins in zip((4, 3), size, strict=True)
    )
    y = features.new_zeros((boxes.shape[0], channels, *size))
    for samples in sorted(set(zip(rows, columns, strict=True))):
        same = [i for i, pair in enumerate(zip(rows, columns, strict=True)) if pair == samples]
        chosen = torch.tensor(same, device=boxes.device)
        part = of_equal_samples(boxes[chosen], samples)
        y = y.index_copy(0, chosen.to(y.device), part)
    return y


def _samples(bin_size: Tensor) -> list[int]:
    whole = bin_size.ceil().clamp(0, 1 << 20).nan_to_num(0)
    return [int(n) for n in whole.tolist()]


def _points(
    boxes: Tensor,
    size: tuple[int, int],
    samples: tuple[int, int],
    scale: float,
    shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Return the pixels that each bin's points lie between and their weights.

    Args:
        boxes: Boxes, (K, 6), float64.
        size: Bins, (height, width).
        samples: Points of a bin, (rows, columns).
        scale: Pixels per unit.
        shape: Number of images, height and width of the features.

    Returns:
        Indices into the pixels of all images, and weights; (K, *size, 4 * points).
    """
    batch, height, width = shape
    image, x, y, w, h, angle = boxes.unbind(1)
    valid = (boxes[:, 1:5].abs() <= _LARGEST).all(1) & (w >= 0) & (h >= 0) & angle.isfinite()
    valid = valid & (image >= 0) & (image < batch) & (image == image.floor())
    angle = torch.where(valid, angle, 0.0).fmod(360.0)
    turns = (angle / 90 + 0.5).floor()
    radians = (angle - turns * 90) * 0.017453292519943295
    quadrant = turns.remainder(4)
    cos, sin = radians.cos(), radians.sin()
    for turn in (1, 2, 3):
        at = quadrant >= turn
        cos, sin = torch.where(at, -sin, cos), torch.where(at, cos, sin)

    def count(n: int) -> Tensor:
        return torch.arange(n, dtype=torch.float64, device=boxes.device)

    def along(length: Tensor, bins: int, points: int) -> Tensor:
        """Return positions along an axis from the center, (K, bins, points)."""
        cell = (length * scale / bins)[:, None, None]
        start = (-0.5 * length * scale)[:, None, None]
        position: Tensor = (
            start + count(bins)[:, None] * cell + (count(points) + 0.5) * cell / points
        )
        return position

    # (K, bins_y, 1, points_y, 1) and (K, 1, bins_x, 1, points_x)
    along_y = along(h, size[0], samples[0])[:, :, None, :, None]
    along_x = along(w, size[1], samples[1])[:, None, :, None, :]
    center_x, center_y, cos, sin = (
        v[:, None, None, None, None] for v in (x * scale - 0.5, y * scale - 0.5, cos, sin)
    )
    at_x = center_x + along_x * cos + along_y * sin
    at_y = center_y - along_x * sin + along_y * cos
    inside = (at_y >= -1) & (at_y <= height) & (at_x >= -1) & (at_x <= width)
    corners = []
    for at, most in ((at_y, height - 1), (at_x, width - 1)):
        at = torch.where(inside, at, 0.0).clamp(0, most)
        low = at.floor()
        corners.append((low.long(), (low + 1).clamp(max=most).long(), at - low))
    (low_y, high_y, part_y), (low_x, high_x, part_x) = corners
    share = inside.double() / max(samples[0] * samples[1], 1)
    share = torch.where(valid[:, None, None, None, None], share, torch.nan)
    first = torch.where(valid, image, 0.0).long()[:, None, None, None, None] * height
    index = torch.stack(
        [(first + row) * width + column for row in (low_y, high_y) for column in (low_x, high_x)],
        -1,
    )
    weight = torch.stack(
        [a * b * share for a in (1 - part_y, part_y) for b in (1 - part_x, part_x)], -1
    )
    flat = (*index.shape[:3], index.shape[3] * index.shape[4] * 4)
    return index.reshape(flat), weight.reshape(flat)


def prepare(boxes: Tensor) -> _Boxes:
    """Bring boxes (N, 5) to the form that pairs are computed from."""
    exact = boxes.to(_checks.precise_device(boxes.device), torch.float64)
    x, y, w, h, angle = exact.unbind(1)
    valid = (x.abs() <= _LARGEST) & (y.abs() <= _LARGEST) & angle.isfinite()
    for side in (w, h):
        valid = valid & (side <= _LARGEST) & ((side >= _SMALLEST) | (side == 0))
    # What an invalid box holds must not reach the arithmetic: its gradient would be NaN or not, as
    # it comes.
    angle = torch.where(valid, angle, 0.0).fmod(360.0)
    turns = (angle * (1 / 90)).round()
    angle = angle - turns * 90
    beyond, below = angle >= 45, angle < -45
    angle = angle - 90 * (beyond.double() - below.double())
    turns = turns + beyond.double() - below.double()
    swap = (turns * 0.5).round() * 2 != turns
    half_w, half_h = torch.where(swap, h, w) * 0.5, torch.where(swap, w, h) * 0.5
    x, y = torch.where(valid, x, torch.nan), torch.where(valid, -y, torch.nan)
    sin, cos = _sine_and_cosine(angle)
    return _Boxes(
        x,
        y,
        half_w,
        half_h,
        cos,
        sin,
        half_w * cos.high + half_h * sin.high.abs(),
        half_w * sin.high.abs() + half_h * cos.high,
    )


# The low parts are corrections of rounding errors, constants to a derivative.
def _product(a: Tensor, b: Tensor) -> _Exact:
    product = a * b
    x, y, p = a.detach(), b.detach(), product.detach()
    x_high, y_high = _upper_half(x), _upper_half(y)
    x_low, y_low = x - x_high, y - y_high
    error = x_high * y_high - p
    error = ((error + x_high * y_low) + x_low * y_high) + x_low * y_low
    return _Exact(product, error)


def _upper_half(a: Tensor) -> Tensor:
    scaled = a * 134217729.0  # 2^27 + 1
    return scaled - (scaled - a)


def _sum(a: Tensor, b: Tensor) -> _Exact:
    total = a + b
    x, y, t = a.detach(), b.detach(), total.detach()
    other = t - x
    return _Exact(total, (x - (t - other)) + (y - other))


def _renormalized(high: Tensor, low: Tensor) -> _Exact:
    total = high + low
    return _Exact(total, low.detach() - (total.detach() - high.detach()))


def _multiply(a: _Exact, b: _Exact) -> _Exact:
    p = _product(a.high, b.high)
    return _renormalized(p.high, p.low + (a.high * b.low + a.low * b.high).detach())


def _constant(text: tuple[str, str], like: Tensor) -> _Exact:
    high, low = (like.new_full((), float.fromhex(part)) for part in text)
    return _Exact(high, low)


def _series(x_squared: _Exact, coefficients: tuple[tuple[str, str], ...]) -> _Exact:
    plain = torch.full_like(x_squared.high, float.fromhex(coefficients[-1][0]))
    for high, _ in reversed(coefficients[_PLAIN_TERMS:-1]):
        plain = plain * x_squared.high + float.fromhex(high)
    total = _Exact(plain, torch.zeros_like(plain))
    for text in reversed(coefficients[:_PLAIN_TERMS]):
        c = _constant(text, plain)
        total = _multiply(total, x_squared)
        s = _sum(total.high, c.high.expand_as(plain))
        total = _renormalized(s.high, s.low + (total.low + c.low))
    return total


def _sine_and_cosine(degrees: Tensor) -> tuple[_Exact, _Exact]:
    """Return sine and cosine of angles in [-45, 45] degrees to about 1e-28."""
    radians = _multiply(_Exact(degrees, torch.zeros_like(degrees)), _constant(_RADIANS, degrees))
    squared = _multiply(radians, radians)
    return _multiply(_series(squared, _SINE), radians), _series(squared, _COSINE)


def _dot(a: _Exact, b: _Exact, c: _Exact, d: _Exact) -> Tensor:
    """Return a * b + c * d."""
    p, q = _product(a.high, b.high), _product(c.high, d.high)
    total = _sum(p.high, q.high)
    low = (a.high * b.low + a.low * b.high) + (c.high * d.low + c.low * d.high)
    return total.high + (total.low + (p.low + q.low) + low.detach())


def _negative(a: _Exact) -> _Exact:
    return _Exact(-a.high, -a.low)


def _iou(p: _Boxes, q: _Boxes) -> Tensor:
    area_p, area_q = p.half_w * p.half_h, q.half_w * q.half_h
    dx, dy = _sum(p.x, -q.x), _sum(p.y, -q.y)
    c = _dot(p.cos, q.cos, p.sin, q.sin)
    s = _dot(p.sin, q.cos, _negative(p.cos), q.sin)

    # The box with the longer side is the frame, that of the pair's order decides between equals.
    p_is_frame = _comes_first(p, q)
    a, b = torch.where(p_is_frame, p.half_w, q.half_w), torch.where(p_is_frame, p.half_h, q.half_h)
    w, h = torch.where(p_is_frame, q.half_w, p.half_w), torch.where(p_is_frame, q.half_h, p.half_h)
    cos, sin = (
        _Exact(
            torch.where(p_is_frame, of_p.high, of_q.high),
            torch.where(p_is_frame, of_p.low, of_q.low),
        )
        for of_p, of_q in ((p.cos, q.cos), (p.sin, q.sin))
    )
    sign = torch.where(p_is_frame, -1.0, 1.0).double()
    s = s * sign
    dx, dy = (_Exact(d.high * sign, d.low * sign) for d in (dx, dy))
    x = _dot(dx, cos, dy, sin)
    y = _dot(dy, cos, _negative(dx), sin)
    y = torch.where(s < 0, -y, y)
    s = torch.where(s < 0, -s, s)
    quarter = _quarter_of_intersection(x, y, w, h, c, s, a, b)

    apart = ((p.x - q.x).abs() > p.extent_x + q.extent_x) | (
        (p.y - q.y).abs() > p.extent_y + q.extent_y
    )
    apart = apart | (x.abs() >= a + (w * c + h * s)) | (y.abs() >= b + (w * s + h * c))
    x_other, y_other = x * c + y * s, y * c - x * s
    apart = apart | (x_other.abs() >= w + (a * c + b * s)) | (y_other.abs() >= h + (a * s + b * c))

    limit = torch.where(area_p < area_q, area_p, area_q)
    quarter = torch.where(apart | (quarter < 0), 0.0, torch.where(quarter < limit, quarter, limit))
    union = (area_p + area_q) - quarter
    iou = torch.where(union > 0, quarter / torch.where(union > 0, union, 1.0), 0.0)
    # At the maximum, that of equal boxes, the one-sided slopes differ; 0 is between them.
    iou = torch.where(iou < 1, iou, iou.detach())
    valid = (p.x == p.x) & (q.x == q.x)
    return torch.where(valid, iou, torch.nan)


def _comes_first(p: _Boxes, q: _Boxes) -> Tensor:
    keys = [
        (
            torch.where(p.half_w > p.half_h, p.half_w, p.half_h),
            torch.where(q.half_w > q.half_h, q.half_w, q.half_h),
        ),
        (p.half_w, q.half_w),
        (p.half_h, q.half_h),
        (p.sin.high, q.sin.high),
        (p.sin.low, q.sin.low),
        (p.x, q.x),
        (p.y, q.y),
    ]
    first = torch.zeros_like(keys[0][0] > keys[0][1])
    for of_p, of_q in reversed(keys):
        first = (of_p > of_q) | ((of_p == of_q) & first)
    return first


def _quarter_of_intersection(
    x: Tensor, y: Tensor, w: Tensor, h: Tensor, c: Tensor, s: Tensor, a: Tensor, b: Tensor
) -> Tensor:
    uc, us, vc, vs = w * c, w * s, h * c, h * s
    leans, turned = c > _PARALLEL, s > _PARALLEL
    rise = torch.where(leans, s / torch.where(leans, c, 1.0), 0.0)
    fall = torch.where(turned, c / torch.where(turned, s, 1.0), 0.0)
    x_left, x_right = x - (uc + vs), x + (uc + vs)
    x_top, x_bottom = x + (uc - vs), x - (uc - vs)
    y_left, y_right = y + (vc - us), y - (vc - us)
    y_top, y_bottom = y + (us + vc), y - (us + vc)

    def within(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        value = torch.where(value < high, value, high)
        return torch.where(value > low, value, low)

    cut_left, cut_right, cut_top, cut_bottom = (
        within(value, -a, a) for value in (x_left, x_right, x_top, x_bottom)
    )

    def integral(width: Tensor, low: Tensor, high: Tensor) -> Tensor:
        bottom, top = within(-b, low, high), within(b, low, high)
        length = high - low
        total = (top - bottom) * (0.5 * (top + bottom)) + b * ((high - top) - (bottom - low))
        flat = within(0.5 * (low + high), -b, b)
        rising = length > 0
        return width * torch.where(rising, total / torch.where(rising, length, 1.0), flat)

    upper_rise = integral(
        cut_top - cut_left, y_left + (cut_left - x_left) * rise, y_top - (x_top - cut_top) * rise
    )
    upper_fall = integral(
        cut_right - cut_top,
        y_right + (x_right - cut_right) * fall,
        y_top - (cut_top - x_top) * fall,
    )
    lower_fall = integral(
        cut_bottom - cut_left,
        y_bottom + (x_bottom - cut_bottom) * fall,
        y_left - (cut_left - x_left) * fall,
    )
    lower_rise = integral(
        cut_right - cut_bottom,
        y_bottom + (cut_bottom - x_bottom) * rise,
        y_right - (x_right - cut_right) * rise,
    )
    return 0.25 * ((upper_rise - lower_rise) + (upper_fall - lower_fall))
