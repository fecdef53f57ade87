# SPDX-License-Identifier: Apache-2.0
"""The NumPy face of the CPU kernels, without torch, against SciPy."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.fft

_native = pytest.importorskip("rsvheat._native")

DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}
SHAPE = (2, 12, 7, 5)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _normal(rng: np.random.Generator, dtype: type, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def _assert_close(actual: np.ndarray, expected: np.ndarray, dtype: type) -> None:
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected)
    assert error <= TOLERANCE[dtype]


def _dct(x: np.ndarray, axes: tuple[int, int] = (1, 2)) -> np.ndarray:
    return scipy.fft.dctn(x.astype(np.float64), axes=axes, norm="ortho")


def _idct(x: np.ndarray, axes: tuple[int, int] = (1, 2)) -> np.ndarray:
    return scipy.fft.idctn(x.astype(np.float64), axes=axes, norm="ortho")


def _omega_squared(height: int, width: int) -> np.ndarray:
    omega_h, omega_w = np.arange(height) * np.pi / height, np.arange(width) * np.pi / width
    return (omega_h[:, None] ** 2 + omega_w**2)[:, :, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "axes"), [("nhwc", (1, 2)), ("nchw", (2, 3))])
def test_transforms_match_scipy(rng, dtype, layout, axes) -> None:
    x = _normal(rng, dtype)
    _assert_close(_native.dct2d(x, layout), _dct(x, axes), dtype)
    _assert_close(_native.idct2d(x, layout), _idct(x, axes), dtype)


def test_strided_input_is_copied(rng) -> None:
    x = _normal(rng, np.float32, (2, 12, 14, 10))[:, ::-1, ::2, 1:6]
    _assert_close(_native.dct2d(x), _dct(x), np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k_shape", [(), (5,), (1, 1, 5), (7, 5), (12, 1, 1), (12, 7, 5)])
def test_heat_conduction_and_its_gradients_match_scipy(rng, dtype, k_shape) -> None:
    x, grad_y = _normal(rng, dtype), _normal(rng, dtype)
    k = np.asarray(rng.uniform(0, 2, k_shape), dtype)
    omega = _omega_squared(12, 7)
    heat_filter = np.broadcast_to(np.exp(-k.astype(np.float64) * omega), (12, 7, 5))
    _assert_close(_native.heat_conduction(x, k), _idct(_dct(x) * heat_filter), dtype)

    grad_x, grad_k = _native.heat_conduction_backward(grad_y, x, k)
    products = (_dct(x) * _dct(grad_y)).sum(0)
    _assert_close(grad_x, _idct(_dct(grad_y) * heat_filter), dtype)
    _assert_close(grad_k, -omega * heat_filter * products, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_diffusivity_leaves_the_mean(rng, dtype) -> None:
    x = _normal(rng, dtype)
    infinite = np.array(np.inf, dtype)
    mean = x.astype(np.float64).mean((1, 2), keepdims=True)
    _assert_close(_native.heat_conduction(x, infinite), np.broadcast_to(mean, x.shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_heat_filter_and_its_gradients_match_scipy(rng, dtype) -> None:
    x, grad_y = _normal(rng, dtype), _normal(rng, dtype)
    heat_filter = _normal(rng, dtype, (12, 7, 5))
    y = _native.apply_heat_filter(x, heat_filter)
    _assert_close(y, _idct(_dct(x) * heat_filter), dtype)
    grad_x, grad_filter = _native.apply_heat_filter_backward(grad_y, x, heat_filter)
    _assert_close(grad_x, _idct(_dct(grad_y) * heat_filter), dtype)
    _assert_close(grad_filter, (_dct(x) * _dct(grad_y)).sum(0), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_frequency_split_matches_scipy(rng, dtype) -> None:
    x = _normal(rng, dtype, (2, 3, 12, 10))
    radius = np.array([0.31, 0.62])
    angles = np.array([[0.0, 90.0], [20.5, 61.3]])
    low, high = _native.frequency_split(x, radius, angles)
    n, m = np.mgrid[:12, :10]
    angle = np.degrees(np.arctan2(n, m))
    inside = (np.hypot(n, m) <= radius[:, None, None] * np.hypot(12, 10)) & (
        (angle >= angles[:, 0, None, None]) & (angle <= angles[:, 1, None, None])
    )
    inside[:, 0, 0] = True
    expected = _idct(_dct(x, (2, 3)) * inside[:, None], (2, 3))
    _assert_close(low, expected, dtype)
    _assert_close(high, x - expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_l1_matches_scipy(rng, dtype) -> None:
    pred, target = (_normal(rng, dtype, (2, 3, 12, 10)) for _ in range(2))
    spatial, spectral, grad = _native.spectral_l1(pred, target)
    difference = pred.astype(np.float64) - target
    spectrum = _dct(difference, (2, 3))
    assert spatial == pytest.approx(np.abs(difference).sum(), rel=TOLERANCE[dtype])
    assert spectral == pytest.approx(np.abs(spectrum).sum(), rel=TOLERANCE[dtype])
    assert np.abs(spectrum).min() > 1e-5  # else rounding could flip a sign
    _assert_close(grad, _idct(np.sign(spectrum), (2, 3)), dtype)


def test_wrong_arguments_are_named() -> None:
    x = np.zeros(SHAPE, np.float32)
    one, angles = np.ones(2), np.array([[0.0, 90.0]] * 2)
    for error, match, call in [
        (TypeError, "x must be float32 or float64.*int64", lambda: _native.dct2d(x.astype(int))),
        (TypeError, "x must be .*float16", lambda: _native.dct2d(x.astype(np.float16))),
        (ValueError, r"four dimensions.*\(12, 7\)", lambda: _native.dct2d(x[0, :, :, 0])),
        (ValueError, "at most 4096", lambda: _native.dct2d(np.zeros((1, 4097, 1, 1)))),
        (ValueError, "layout must be .* 'chwn'", lambda: _native.dct2d(x, "chwn")),
        (ValueError, r"broadcast.*\(4,\)", lambda: _native.heat_conduction(x, x[0, 0, 0, :4])),
        (TypeError, "dtype of x", lambda: _native.heat_conduction(x, np.ones(5))),
        (ValueError, "negative", lambda: _native.heat_conduction(x, -np.ones(5, np.float32))),
        (ValueError, "shape of x", lambda: _native.heat_conduction_backward(x[1:], x, x[0])),
        (ValueError, "shape of pred", lambda: _native.spectral_l1(x, x[1:])),
        (TypeError, "dtype of pred", lambda: _native.spectral_l1(x, x.astype(float))),
        (ValueError, r"radius must be \(B,\)", lambda: _native.frequency_split(x, one[1:], angles)),
        (
            ValueError,
            "radius must be >= 0",
            lambda: _native.frequency_split(x, one * np.nan, angles),
        ),
        (ValueError, "angles must hold", lambda: _native.frequency_split(x, one, angles + 1)),
        (
            ValueError,
            r"angles must be \(B, 2\)",
            lambda: _native.frequency_split(x, one, angles[0]),
        ),
        (ValueError, "'sse2'", lambda: _native.set_cpu_capability("sse2")),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_every_available_capability_can_be_set(rng) -> None:
    x = _normal(rng, np.float32)
    before = _native.cpu_capability()
    assert before in _native.available_cpu_capabilities()
    try:
        for name in _native.available_cpu_capabilities():
            _native.set_cpu_capability(name)
            assert _native.cpu_capability() == name
            _assert_close(_native.dct2d(x), _dct(x), np.float32)
    finally:
        _native.set_cpu_capability(before)


def test_kernels_run_without_the_interpreter_lock() -> None:
    x = np.ones((1, 4093, 64, 4), np.float32)  # a prime length: a second of work
    done = threading.Event()

    def transform() -> None:
        _native.dct2d(x)
        done.set()

    thread = threading.Thread(target=transform)
    thread.start()
    steps = 0
    while not done.wait(0.001):
        steps += 1
    thread.join()
    assert steps > 5


def test_needs_no_torch() -> None:
    program = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_native", sys.argv[1])
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
import numpy as np
native.dct2d(np.ones((1, 4, 4, 1)))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, _native.__file__], check=True)
