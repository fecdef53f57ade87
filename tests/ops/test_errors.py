# SPDX-License-Identifier: Apache-2.0
"""Every wrong argument raises an error that names it, what came and what is expected."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from utils import diffusivity, random, sum_dtype

from rsvheat import ops

NHWC = random((2, 4, 5, 3))
K = diffusivity((4, 5, 3))
GAIN = ops.heat_filter(K, 4, 5)
NAN, INF = math.nan, math.inf
SPARSE = torch.eye(5).to_sparse()

# name: (call, exception, words of the message in order)
CASES: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {}


def case(name: str, call: Callable[[], object], error: type[Exception], *words: str) -> None:
    assert name not in CASES
    CASES[name] = (call, error, words)


UNARY: dict[str, tuple[str, Callable[[object], object]]] = {
    "dct2d": ("x", ops.dct2d),
    "idct2d": ("x", lambda x: ops.idct2d(x, "nhwc")),
    "heat_conduction": ("x", lambda x: ops.heat_conduction(x, 0.5)),
    "apply_heat_filter": ("x", lambda x: ops.apply_heat_filter(x, GAIN)),
    "frequency_split": ("x", lambda x: ops.frequency_split(x, 0.5)),
    "spectral_l1_loss": ("pred", lambda x: ops.spectral_l1_loss(x, x)),
    "multi_domain_loss": ("pred", lambda x: ops.multi_domain_loss(x, x)),
}
for op, (arg, call) in UNARY.items():
    nhwc = op in ("idct2d", "heat_conduction", "apply_heat_filter")
    axes = "(B, H, W, C)" if nhwc else "(B, C, H, W)"

    def shaped(height: int, width: int, nhwc: bool = nhwc) -> torch.Tensor:
        return torch.empty((1, height, width, 1) if nhwc else (1, 1, height, width))

    def bind(x: object, call: Callable[[object], object] = call) -> Callable[[], object]:
        return lambda: call(x)

    case(f"{op}: list", bind([1.0]), TypeError, f"{arg} must be a torch.Tensor", "got list")
    case(f"{op}: None", bind(None), TypeError, f"{arg} must be a torch.Tensor", "got NoneType")
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2):
        case(
            f"{op}: {dtype}",
            bind(torch.zeros((1, 2, 2, 1), dtype=dtype)),
            TypeError, f"{arg} must be float32, float64, bfloat16 or float16", f"got {dtype}",
        )  # fmt: skip
    for shape in ((4, 5), (4, 5, 3), (1, 2, 4, 5, 3), ()):
        case(
            f"{op}: {len(shape)}-D",
            bind(torch.zeros(shape)),
            ValueError, f"{arg} must have 4 dimensions {axes}",
            f"got {len(shape)} in shape {shape}",
        )  # fmt: skip
    case(f"{op}: H 0", bind(shaped(0, 5)), ValueError, arg, "height of 1 to 4096", "got 0")
    case(f"{op}: W 0", bind(shaped(5, 0)), ValueError, arg, "width of 1 to 4096", "got 0")
    case(f"{op}: H 4097", bind(shaped(4097, 1)), ValueError, arg, "height", "4096", "got 4097")
    case(f"{op}: W 5000", bind(shaped(1, 5000)), ValueError, arg, "width", "4096", "got 5000")
    case(
        f"{op}: sparse",
        bind(torch.zeros(1, 2, 2, 1).to_sparse()),
        TypeError, f"{arg} must be a dense (strided) tensor", "got torch.sparse_coo",
    )  # fmt: skip

for op in (ops.dct2d, ops.idct2d):
    for layout in ("NCHW", "hwc", "", None, 3, ["nchw"]):
        case(
            f"{op.__name__}: layout {layout}",
            lambda op=op, layout=layout: op(NHWC, layout),
            ValueError, "layout must be 'nchw' or 'nhwc'", f"got {layout!r}",
        )  # fmt: skip

# k and filter
for k in (-1, -1e-9, NAN, -INF):
    case(
        f"k {k}", lambda k=k: ops.heat_conduction(NHWC, k),
        ValueError, "k must be a number >= 0", f"got {k}",
    )  # fmt: skip
    case(
        f"heat_filter k {k}", lambda k=k: ops.heat_filter(k, 4, 5),
        ValueError, "k must be a number >= 0", f"got {k}",
    )  # fmt: skip
for name, call in {
    "k": lambda k: ops.heat_conduction(NHWC, k),
    "filter": lambda k: ops.apply_heat_filter(NHWC, k),
}.items():
    for shape in ((5, 4, 3), (4,), (1, 4, 5, 3), (4, 5, 3, 1), (4, 5), (2, 5, 3), (0,)):
        case(
            f"{name} shape {shape}",
            lambda call=call, shape=shape: call(torch.zeros(shape)),
            ValueError, f"{name} must broadcast to (H, W, C) = (4, 5, 3)", f"got shape {shape}",
        )  # fmt: skip
    for value, got in ((None, "NoneType"), ("1", "str"), ([1.0], "list"), (True, "bool")):
        case(
            f"{name} {got}", lambda call=call, value=value: call(value),
            TypeError, f"{name} must be", "torch.Tensor", f"got {got}",
        )  # fmt: skip
    for dtype in (torch.int32, torch.bool, torch.complex128):
        case(
            f"{name} {dtype}", lambda call=call, dtype=dtype: call(K.to(dtype)),
            TypeError, f"{name} must be float32", f"got {dtype}",
        )  # fmt: skip
    case(
        f"{name} on another device", lambda call=call: call(torch.zeros(3, device="meta")),
        ValueError, f"{name} must be on x's device cpu", "got meta",
    )  # fmt: skip
case(
    "a number as filter", lambda: ops.apply_heat_filter(NHWC, 0.5),
    TypeError, "filter must be a torch.Tensor", "got float",
)  # fmt: skip

for k, values in {
    "negative": (torch.tensor([0.0, -0.5, 2.0]), "from -0.5 to 2.0"),
    "NaN": (torch.tensor([0.0, NAN, 2.0]), "nan"),
}.items():
    case(
        f"heat_filter {k} tensor", lambda k=values[0]: ops.heat_filter(k, 4, 5),
        ValueError, "k must be >= 0", "got", values[1],
    )  # fmt: skip
case(
    "heat_filter shape", lambda: ops.heat_filter(K, 5, 4),
    ValueError, "k must broadcast to (H, W, C) with H = 5, W = 4", "got shape (4, 5, 3)",
)  # fmt: skip
case(
    "heat_filter rank", lambda: ops.heat_filter(K[None], 4, 5),
    ValueError, "k must broadcast", "got shape (1, 4, 5, 3)",
)  # fmt: skip
case("heat_filter int k", lambda: ops.heat_filter(K.int(), 4, 5), TypeError, "k must be float32")
case(
    "heat_filter str",
    lambda: ops.heat_filter("1", 4, 5),
    TypeError,
    "k must be a number or a torch.Tensor",
)
case(
    "heat_filter H",
    lambda: ops.heat_filter(1.0, 0, 5),
    ValueError,
    "height must be 1 to 4096, got 0",
)
case("heat_filter W", lambda: ops.heat_filter(1.0, 5, 4097), ValueError, "width", "got 4097")
case(
    "heat_filter H type",
    lambda: ops.heat_filter(1.0, 4.0, 5),
    TypeError,
    "height must be an int, got float",
)
case(
    "heat_filter W type",
    lambda: ops.heat_filter(1.0, 4, True),
    TypeError,
    "width must be an int, got bool",
)

# radius and angles
for radius in (-0.1, NAN, INF, [0.1, -1.0], torch.tensor([0.5, NAN]), torch.tensor(-2)):
    case(
        f"radius {radius}", lambda radius=radius: ops.frequency_split(NHWC, radius),
        ValueError, "radius must be finite and >= 0", "got",
    )  # fmt: skip
for radius in ([0.1], [0.1, 0.2, 0.3], torch.zeros(3), torch.zeros(1), torch.zeros(2, 1)):
    case(
        f"radius shape {radius}", lambda radius=radius: ops.frequency_split(NHWC, radius),
        ValueError, "radius must be one value or one per sample, shape () or (2,)", "got shape",
    )  # fmt: skip
for radius, got in ((None, "NoneType"), ("0.5", "str"), (True, "bool"), (["a", "b"], "list")):
    case(
        f"radius {got}", lambda radius=radius: ops.frequency_split(NHWC, radius),
        TypeError, "radius must be a number, a sequence of numbers or a tensor", f"got {got}",
    )  # fmt: skip
for radius in (torch.zeros(2, dtype=torch.complex64), torch.zeros(2, dtype=torch.bool)):
    case(
        f"radius {radius.dtype}", lambda radius=radius: ops.frequency_split(NHWC, radius),
        TypeError, "radius must be real", f"got {radius.dtype}",
    )  # fmt: skip
for angles, name in (
    ((-1, 90), "angles[0]"),
    ((0, 90.5), "angles[1]"),
    ((NAN, 90), "angles[0]"),
    (([0, 95], 90), "angles[0]"),
    (torch.tensor([[0, 90], [0, 91]]), "angles[1]"),
):
    case(
        f"angles {angles}", lambda angles=angles: ops.frequency_split(NHWC, 0.5, angles),
        ValueError, f"{name} must be within [0, 90] degrees", "got",
    )  # fmt: skip
for angles in ((60, 30), ([0, 60], 50), (torch.tensor(60), 50), torch.tensor([[0, 9], [9, 0]])):
    case(
        f"angles order {angles}", lambda angles=angles: ops.frequency_split(NHWC, 0.5, angles),
        ValueError, "angles must have angle_0 <= angle_1", "got",
    )  # fmt: skip
case(
    "angles 3",
    lambda: ops.frequency_split(NHWC, 0.5, (0, 1, 2)),
    ValueError,
    "pair",
    "got 3 values",
)
case(
    "angles int",
    lambda: ops.frequency_split(NHWC, 0.5, 45),
    TypeError,
    "pair or a (2, 2) tensor",
    "got int",
)
case("angles str", lambda: ops.frequency_split(NHWC, 0.5, "ab"), TypeError, "pair", "got str")
case(
    "angles in str",
    lambda: ops.frequency_split(NHWC, 0.5, (0, "9")),
    TypeError,
    "angles[1]",
    "got str",
)
for shape in ((), (3,), (2, 3), (1, 2, 2)):
    case(
        f"angles shape {shape}",
        lambda shape=shape: ops.frequency_split(NHWC, 0.5, torch.zeros(shape)),
        ValueError, "angles must be a pair or a (2, 2) tensor", f"got shape {shape}",
    )  # fmt: skip
case(
    "angles per wrong batch", lambda: ops.frequency_split(NHWC, 0.5, torch.zeros(3, 2)),
    ValueError, "angles[0] must be one value or one per sample", "got shape (3,)",
)  # fmt: skip

# pairs of images and of features
for name, loss in (("spectral", ops.spectral_l1_loss), ("multi", ops.multi_domain_loss)):
    case(f"{name}: shapes", lambda loss=loss: loss(NHWC, NHWC[:1]), ValueError,
         "target must have pred's shape (2, 4, 5, 3)", "got (1, 4, 5, 3)")  # fmt: skip
    case(f"{name}: dtypes", lambda loss=loss: loss(NHWC, NHWC.half()), TypeError,
         "target must have pred's dtype torch.float32", "got torch.float16")  # fmt: skip
    case(f"{name}: int target", lambda loss=loss: loss(NHWC, NHWC.int()), TypeError,
         "target must be float32", "got torch.int32")  # fmt: skip
    case(f"{name}: devices", lambda loss=loss: loss(NHWC, NHWC.to("meta")), ValueError,
         "target must be on pred's device cpu", "got meta")  # fmt: skip
for reduction in ("none", "MEAN", None, 1):
    case(
        f"reduction {reduction}",
        lambda reduction=reduction: ops.spectral_l1_loss(NHWC, NHWC, reduction),
        ValueError, "reduction must be 'mean' or 'sum'", f"got {reduction!r}",
    )  # fmt: skip
for weights in ((1, 1), (1, 1, 1, 1), (1, -1, 1), (1, NAN, 1), (INF, 0, 0)):
    case(
        f"weights {weights}",
        lambda weights=weights: ops.multi_domain_loss(NHWC, NHWC, weights=weights),
        ValueError, "weights must be three finite numbers >= 0", f"got {weights!r}",
    )  # fmt: skip
for weights in (1.0, None, (1, 1, "1"), torch.ones(3)):
    case(
        f"weights {weights!r}",
        lambda weights=weights: ops.multi_domain_loss(NHWC, NHWC, weights=weights),
        TypeError, "weights must be three numbers", "got",
    )  # fmt: skip
for name, features, error, words in (
    ("one view", (NHWC, None), ValueError, ("features_a and features_b", "only one")),
    ("other view", (None, NHWC), ValueError, ("features_a and features_b", "only one")),
    ("shapes", (NHWC, NHWC[:1]), ValueError, ("features_b", "(2, 4, 5, 3)", "got (1, 4, 5, 3)")),
    ("levels", ([NHWC], [NHWC, NHWC]), ValueError, ("features_b", "as many levels", "1", "got 2")),
    ("no levels", ([], []), TypeError, ("features_a", "non-empty sequence", "got []")),
    ("type", (NHWC, 3), TypeError, ("features_b must be a tensor", "got 3")),
    ("level type", ([NHWC], [3]), TypeError, ("features_b must be a torch.Tensor", "got int")),
    ("dtype", (NHWC, NHWC.int()), TypeError, ("features_b must be float32", "got torch.int32")),
    ("rank", (NHWC[0, 0, 0], NHWC[0, 0, 0]), ValueError, ("features_a", "channels at dim 1")),
    ("device", (NHWC, NHWC.to("meta")), ValueError, ("features_b must be on features_a's device",)),
):  # fmt: skip
    case(
        f"features: {name}",
        lambda features=features: ops.multi_domain_loss(NHWC, NHWC, *features),
        error, *words,
    )  # fmt: skip


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("device", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", CASES)
def test_wrong_argument(name: str) -> None:
    call, error, words = CASES[name]
    pattern = ".*".join(re.escape(word) for word in words)
    with pytest.raises(error, match=f"(?s){pattern}"):
        call()


@pytest.mark.parametrize("bad", [-1e-6, NAN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_kernel_finds_bad_diffusivities(
    bad: float, dtype: torch.dtype, kernel: torch.device
) -> None:
    if kernel.type == "cuda":
        pytest.skip("looking would make the device wait for the host")
    x = random((3, 16, 17, 37), dtype)
    for index in ((0, 0, 0), (15, 16, 36), (7, 3, 20), (0, 16, 5)):
        k = diffusivity((16, 17, 37), sum_dtype(dtype))
        k[index] = bad
        with pytest.raises(RuntimeError, match=r"k.*negative or NaN"):
            ops.heat_conduction(x, k)
    with pytest.raises(RuntimeError, match=r"k.*negative or NaN"):
        ops.heat_conduction(x, torch.tensor(bad))


@pytest.mark.usefixtures("implementation")
def test_values_on_the_device_are_checked_where_they_can_be_read(device: torch.device) -> None:
    with pytest.raises(ValueError, match="k must be >= 0"):
        ops.heat_filter(torch.tensor([-1.0], device=device), 4, 5)
    with pytest.raises(ValueError, match="radius must be finite"):
        ops.frequency_split(NHWC.to(device), torch.tensor(-1.0))


@pytest.mark.cuda
@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_devices_must_agree(device: torch.device) -> None:
    x = NHWC.to(device)
    with pytest.raises(ValueError, match="k must be on x's device cuda:0, got cpu"):
        ops.heat_conduction(x, K)
    with pytest.raises(ValueError, match="filter must be on x's device cuda:0, got cpu"):
        ops.apply_heat_filter(x, GAIN)
    with pytest.raises(ValueError, match="target must be on pred's device cpu, got cuda:0"):
        ops.spectral_l1_loss(NHWC, x)


@pytest.mark.usefixtures("implementation")
def test_wrong_arguments_are_found_while_compiling(device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.heat_conduction, backend="eager")
    x = random((1, 4, 5, 3), device=device)
    with pytest.raises(ValueError, match=r"k must broadcast to \(H, W, C\)"):
        compiled(x, diffusivity((7,), device=device))
