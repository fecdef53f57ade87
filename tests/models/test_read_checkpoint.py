# SPDX-License-Identifier: Apache-2.0
"""Files of weights: what is read, what is refused, and damage of any kind."""

import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rsvheat
from rsvheat.models import CheckpointError, RSVHeat
from rsvheat.models.checkpoints import load_checkpoint, read_checkpoint, weights_of

TINY = {"dims": (8, 16), "depths": (1, 1), "img_size": 32, "num_classes": 3}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return RSVHeat(**TINY)


def fresh():
    torch.manual_seed(1)
    return RSVHeat(**TINY)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_numpys_numbers_and_arrays_are_read(encoder, tmp_path):
    content = {
        "state_dict": encoder.state_dict(),
        "epoch": np.int64(3),
        "best": np.float32(0.5),
        "history": np.arange(3.0),
    }
    torch.save(content, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert found["epoch"] == 3
    assert np.asarray(found["history"]).tolist() == [0, 1, 2]
    model = fresh()
    load_checkpoint(model, tmp_path / "a.pth")
    assert same(model, encoder)


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["text"]), np.zeros(2, dtype=[("a", "f4")])]
)
def test_arrays_of_other_types_are_refused(value, tmp_path):
    torch.save({"model": {}, "array": value}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "a.pth")


class NumbersAsObjects:
    """An array whose type claims that its numbers are the addresses of Python objects."""

    class Type:
        def __reduce__(self):
            return np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 1)

    def __reduce__(self):
        make, arguments, _ = np.zeros(2).__reduce__()
        return make, arguments, (1, (2,), self.Type(), False, b"A" * 16)


def test_types_of_a_file_make_no_objects_of_numbers(tmp_path):
    torch.save({"model": {}, "array": NumbersAsObjects()}, tmp_path / "a.pth")
    found = np.asarray(read_checkpoint(tmp_path / "a.pth")["array"])
    assert not found.dtype.hasobject
    assert found.tobytes() == b"A" * 16


class HistoryBuffer:
    """A log buffer as mmengine 0.10 saves it."""

    def __init__(self):
        self._log_history = np.arange(3.0)
        self._statistics_methods = OrderedDict(mean=HistoryBuffer.mean)

    def mean(self):
        return float(self._log_history.mean())


HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"


class Logger:
    """Stands for a class of a training library."""


for kind in (HistoryBuffer, HistoryBuffer.mean, Logger):
    kind.__module__ = "mmengine.logging.history_buffer"


@pytest.fixture
def mmengine(monkeypatch):
    """Make the classes above those of a module that exists while a file is written."""
    assert "mmengine" not in sys.modules
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[name].HistoryBuffer = HistoryBuffer
        sys.modules[name].Logger = Logger
        yield patch


@pytest.mark.parametrize("legacy", [False, True])
def test_log_buffers_are_read_without_their_library(encoder, tmp_path, legacy, mmengine):
    content = {"state_dict": encoder.state_dict(), "hub": {"loss": HistoryBuffer()}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    mmengine.undo()
    found = read_checkpoint(tmp_path / "a.pth")
    assert np.asarray(vars(found["hub"]["loss"])["_log_history"]).tolist() == [0, 1, 2]
    model = fresh()
    load_checkpoint(model, tmp_path / "a.pth", content=found)
    assert same(model, encoder)


@pytest.mark.parametrize("legacy", [False, True])
def test_refused_objects_are_named_with_what_to_do(encoder, tmp_path, legacy, mmengine):
    content = {"state_dict": encoder.state_dict(), "messages": Logger()}
    path = tmp_path / "mm.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    text = str(caught.value)
    assert "mmengine.logging.history_buffer.Logger" in text
    assert "save its weights alone" in text
    assert "\n" not in text
    assert "\x1b" not in text
    assert "False" not in text  # torch's own advice runs code of the file


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_file_runs(tmp_path, legacy):
    torch.save({"model": Evil(tmp_path / "made")}, tmp_path / "a.pth",
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    with pytest.raises(CheckpointError, match="never loaded"):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("key", ["model_state_dict", "net", "teacher", "state_dict_ema", "encoder"])
def test_usual_entries_are_found(encoder, tmp_path, key):
    torch.save({key: encoder.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    model = fresh()
    load_checkpoint(model, tmp_path / "a.pth")
    assert same(model, encoder)


def test_several_entries_are_listed_and_chosen(encoder, tmp_path):
    other = fresh()
    torch.save({"student": other.state_dict(), "teacher": encoder.state_dict()}, tmp_path / "a.pth")
    model = RSVHeat(**TINY)
    with pytest.raises(CheckpointError, match="student, teacher: choose by key="):
        load_checkpoint(model, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no weights under key='ema'; .* student, teacher"):
        load_checkpoint(model, tmp_path / "a.pth", key="ema")
    load_checkpoint(model, tmp_path / "a.pth", key="teacher")
    assert same(model, encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "of type torch.qint8, and"),
        (lambda w: (w * 100).to(torch.int8), "of type torch.int8, and the model's of type"),
        (lambda w: w > 0, "of type torch.bool"),
        (lambda w: w.to(torch.complex64), "of type torch.complex64"),
        (lambda w: w.to_sparse(), "sparse"),
        (lambda w: w.to("meta"), "without content"),
    ],
)
def test_weights_that_are_no_plain_numbers_are_named(encoder, tmp_path, change, message):
    state = encoder.state_dict()
    name = next(name for name in state if name.endswith("mlp.fc1.weight"))
    torch.save({**state, name: change(state[name])}, tmp_path / "a.pth")
    model = fresh()
    with pytest.raises(CheckpointError, match=rf"a\.pth: the weights {name} are {message}"):
        load_checkpoint(model, tmp_path / "a.pth")
    assert same(model, fresh())


def test_entries_with_numbers_for_names_can_be_chosen(encoder, tmp_path):
    torch.save({7: encoder.state_dict()}, tmp_path / "a.pth")
    model = fresh()
    with pytest.raises(CheckpointError, match="under 7: choose one by key="):
        load_checkpoint(model, tmp_path / "a.pth")
    load_checkpoint(model, tmp_path / "a.pth", key="7")
    assert same(model, encoder)


def test_weights_that_are_not_finite_are_named(encoder, tmp_path):
    state = encoder.state_dict()
    state["head.fc.weight"][1, 2] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    model = fresh()
    with pytest.raises(CheckpointError, match=r"a\.pth: the weights head\.fc\.weight hold values"):
        load_checkpoint(model, tmp_path / "a.pth")
    assert same(model, fresh())


def test_one_flipped_bit_is_found(encoder, tmp_path):
    torch.save({"model": encoder.state_dict()}, tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    data[member.header_offset + 200] ^= 1
    (tmp_path / "b.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"checksum of its part .* is wrong"):
        read_checkpoint(tmp_path / "b.pth")


def test_content_that_was_read_is_not_read_again(encoder, tmp_path):
    torch.save(encoder.state_dict(), tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "a.pth").unlink()
    model = fresh()
    load_checkpoint(model, tmp_path / "a.pth", content=content)
    assert same(model, encoder)
    assert set(weights_of(content, "a.pth")) == set(encoder.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_smaller_types_are_read(encoder, tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in encoder.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    model = fresh()
    load_checkpoint(model, tmp_path / "a.pth")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name].float()), name


def test_files_without_checksums_are_read(encoder, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(encoder.state_dict(), tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    model = fresh()
    load_checkpoint(model, tmp_path / "a.pth")
    assert same(model, encoder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_are_named(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_checkpoint(tmp_path / "a.pth")


def damaged_files(encoder):
    """Yield suffixes and bytes of small damaged files."""
    state = {"model": {k: v for k, v in encoder.state_dict().items() if "fc" in k}, "epoch": 1}
    files = {}
    for legacy in (False, True):
        stream = io.BytesIO()
        torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
        files[f"{'old' if legacy else 'new'}.pth"] = stream.getvalue()
    files["plain.pkl"] = pickle.dumps({"model": [1, 2.5, "text", {"a": (None, True)}]})
    rng = np.random.default_rng(0)
    for name, data in files.items():
        for _ in range(60):
            changed = bytearray(data[: rng.integers(1, len(data) + 1)])
            for _ in range(rng.integers(0, 4)):
                changed[rng.integers(len(changed))] = rng.integers(256)
            yield name, bytes(changed)


def test_damage_of_any_kind_is_one_error(encoder, tmp_path):
    save_file({"a": torch.ones(3, 4)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    rng = np.random.default_rng(1)
    cases = list(damaged_files(encoder))
    for _ in range(60):
        changed = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        changed[rng.integers(len(changed))] = rng.integers(256)
        cases.append(("cut.safetensors", bytes(changed)))
    refused = 0
    for name, data in cases:
        (tmp_path / name).write_bytes(data)
        message = refusal(tmp_path / name)
        if message is not None:
            refused += 1
            assert name in message
            assert "\n" not in message
            assert "weights_only` to `False" not in message
    assert refused > 0.7 * len(cases)


def refusal(path):
    """Return why a file is refused, None if it is read; any other error fails the test."""
    try:
        weights_of(read_checkpoint(path), path)
    except CheckpointError as error:
        return str(error)
    return None


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        rsvheat.load(tmp_path / "none.pth")
