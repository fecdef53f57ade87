# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are made here in each published layout, from a model's own weights."""

import argparse
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import rsvheat
from rsvheat.models import CheckpointError, RSVHeat, inflate_stem

DEPTHS = (1, 2)


def build(seed: int = 0, **kwargs: Any) -> RSVHeat:
    torch.manual_seed(seed)
    arguments = {"dims": (8, 16), "depths": DEPTHS, "img_size": 32, "num_classes": 4}
    model = RSVHeat(**{**arguments, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def published(model: RSVHeat, stem: str = "patch_embed_{}") -> dict[str, Tensor]:
    """Return a model's weights under the published names."""
    short = {"optical": "opt", "sar": "sar"}
    patterns: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (
            r"^stems\.(\w+)\.(conv\d)\.(.*)",
            lambda m: f"{stem.format(short[m[1]])}.{m[2]}.{m[3]}",
        ),
        (
            r"^stems\.(\w+)\.(norm\d)\.(.*)",
            lambda m: f"{stem.format(short[m[1]])}.{m[2]}.1.{m[3]}",
        ),
        (r"^stages\.(\d)\.freq_embed\.table", r"freq_embed.\1"),
        (r"^stages\.(\d)\.spatial_correction_embed", r"heat_capacity.\1"),
        (r"^stages\.1\.downsample\.conv\.", f"layers.0.{DEPTHS[0]}.0."),
        (r"^stages\.1\.downsample\.norm\.", f"layers.0.{DEPTHS[0]}.1."),
        (r"^stages\.(\d)\.blocks\.(\d)\.", r"layers.\1.\2."),
        (r"\.correction_norm\.", r".norm1."),
        (r"\.to_k\.", r".to_k.0."),
        (r"^output_norms\.(\d)", r"outnorm\1"),
        (r"^head\.norm", "classifier.0"),
        (r"^head\.fc", "classifier.3"),
    ]
    state = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        if ".mlp." in name and name.endswith("weight"):
            value = value[:, :, None, None]
        state[name] = value.clone()
    return state


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same(a: RSVHeat, b: RSVHeat) -> None:
    other = b.state_dict()
    for name, value in a.state_dict().items():
        assert torch.equal(value, other[name]), name


def test_published_rsvheat_encoder(tmp_path: Path) -> None:
    source, model = build(0), build(1)
    report = rsvheat.load_checkpoint(model, save({"model": published(source)}, tmp_path / "a.pth"))
    assert_same(model, source)
    assert report.layout == "published"
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert not report.skipped
    assert not report.missing


def test_published_vheat_with_output_norms(tmp_path: Path) -> None:
    options = {
        "modalities": {"rgb": 3},
        "spatial_correction": False,
        "num_classes": 0,
        "output_norms": True,
    }
    source = build(0, **{**options, "modalities": {"optical": 3}})
    path = save(published(source, "patch_embed"), tmp_path / "a.pth")
    model = build(1, **options)
    report = rsvheat.load_checkpoint(model, path)  # a lone stem goes to a lone modality
    for a, b in zip(source.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not report.missing


def test_published_pretraining_skips_what_is_not_the_encoder(tmp_path: Path) -> None:
    source, model = build(0), build(1)
    state = {f"module.encoder.{name}": value for name, value in published(source).items()}
    state["module.encoder.fuse_frequency.0.weight"] = torch.zeros(2)
    state["module.fuse_frequency.1.weight"] = torch.zeros(2)
    state["module.decoder.0.weight"] = torch.zeros(2)
    report = rsvheat.load_checkpoint(model, save({"model": state}, tmp_path / "a.pth"))
    assert_same(model, source)
    assert set(report.skipped) == {
        "encoder.fuse_frequency.0.weight",
        "fuse_frequency.1.weight",
        "decoder.0.weight",
    }
    assert re.search(r"skipped \S+ and 2 others: not part of the encoder", str(report))


def test_own_lightning_checkpoint_and_safetensors(tmp_path: Path) -> None:
    source = build(0)
    state = {f"model.encoder.{name}": value for name, value in source.state_dict().items()}
    state["model.decoder.weight"] = torch.zeros(2)
    lightning = {"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.5.0"}
    save_file(source.state_dict(), tmp_path / "own.safetensors")
    for path in (save(lightning, tmp_path / "own.ckpt"), tmp_path / "own.safetensors"):
        model = build(1)
        report = rsvheat.load_checkpoint(model, path)
        assert_same(model, source)
        assert report.layout == "rsvheat"


def test_several_encoders_need_a_choice(tmp_path: Path) -> None:
    student, teacher, model = build(0), build(1), build(2)
    state = {f"student.{name}": value for name, value in student.state_dict().items()}
    state |= {f"teacher.{name}": value for name, value in teacher.state_dict().items()}
    path = save(state, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"choose one by prefix= of \['student\.'"):
        rsvheat.load_checkpoint(model, path)
    rsvheat.load_checkpoint(model, path, prefix="teacher.")
    assert_same(model, teacher)
    with pytest.raises(CheckpointError, match=r"'ema\.'.*\['student\.', 'teacher\.'\]"):
        rsvheat.load_checkpoint(model, path, prefix="ema.")


def test_stages_that_the_model_left_out_are_skipped(tmp_path: Path) -> None:
    source, model = build(0), build(1)
    path = save(source.state_dict(), tmp_path / "a.pth")
    model.prune_intermediate_layers([0], prune_norm=True)
    report = rsvheat.load_checkpoint(model, path)
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert report.skipped["stages.1.downsample.conv.weight"] == "the model has no such part"
    assert not report.missing
    with pytest.raises(CheckpointError, match="other depths"):  # the other way round
        rsvheat.load_checkpoint(source, save(model.state_dict(), tmp_path / "b.pth"))


def test_embeddings_are_resized_on_the_way(tmp_path: Path) -> None:
    source, model = build(0, img_size=32), build(1, img_size=(48, 64))
    report = rsvheat.load_checkpoint(model, save(published(source), tmp_path / "a.pth"))
    assert report.resized == {
        "stages.0.freq_embed.table": ((8, 8), (12, 16)),
        "stages.0.spatial_correction_embed": ((8, 8), (12, 16)),
        "stages.1.freq_embed.table": ((4, 4), (6, 8)),
        "stages.1.spatial_correction_embed": ((4, 4), (6, 8)),
    }
    image = torch.randn(1, 3, 48, 64)
    torch.testing.assert_close(model(image), source(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pools", [("avg", "moments"), ("moments", "avg")])
def test_head_that_pools_otherwise_is_skipped(tmp_path: Path, pools: tuple[str, str]) -> None:
    source, model = (build(seed, global_pool=pool) for seed, pool in enumerate(pools))
    before = {name: value.clone() for name, value in model.head.state_dict().items()}
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    report = rsvheat.load_checkpoint(model, tmp_path / "a.safetensors")
    assert set(report.skipped) == {f"head.{name}" for name in source.head.state_dict()}
    assert set(report.missing) == {f"head.{name}" for name in before}
    for name, value in model.head.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = build(2, global_pool=pools[0])
    assert not rsvheat.load_checkpoint(again, tmp_path / "a.safetensors").missing
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), source(x))


def test_head_of_other_classes_is_left_as_initialised(tmp_path: Path) -> None:
    source, model = build(0), build(1, num_classes=9)
    before = model.head.fc.weight.clone()
    report = rsvheat.load_checkpoint(model, save(published(source), tmp_path / "a.pth"))
    assert report.missing == ["head.fc.weight", "head.fc.bias"]
    assert set(report.skipped) == {"classifier.3.weight", "classifier.3.bias"}
    assert torch.equal(model.head.fc.weight, before)
    assert torch.equal(model.head.norm.weight, source.head.norm.weight)


def test_bands_differ_only_where_asked_for(tmp_path: Path) -> None:
    source, model = build(0), build(1, modalities={"s2": 13})
    path = save(published(source), tmp_path / "a.pth")
    report = rsvheat.load_checkpoint(model, path)  # neither of two stems is this one
    assert all(name.startswith("stems.s2.") for name in report.missing)
    assert report.missing
    with unchanged(model), pytest.raises(CheckpointError, match=r"3 bands.*'s2' takes 13"):
        rsvheat.load_checkpoint(model, path, stems={"s2": "optical"})
    report = rsvheat.load_checkpoint(model, path, stems={"s2": "optical"}, inflate_stems=True)
    assert report.inflated == {"stems.s2.conv1.weight": (3, 13)}
    assert not report.missing
    gray = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(
        model(gray.expand(-1, 13, -1, -1)),
        source(gray.expand(-1, 3, -1, -1)),
        rtol=1e-3,
        atol=1e-4,
    )
    with pytest.raises(CheckpointError, match=r"no stem 'hsi', only \['optical', 'sar'\]"):
        rsvheat.load_checkpoint(model, path, stems={"s2": "hsi"})
    with pytest.raises(CheckpointError, match=r"no modality 's1'"):
        rsvheat.load_checkpoint(model, path, stems={"s1": "sar"})


@pytest.mark.parametrize("bands", [1, 2, 3, 12])
def test_inflation_keeps_the_response_to_the_mean(bands: int) -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    inflated = inflate_stem(weight, bands)
    assert inflated.shape == (4, bands, 3, 3)
    torch.testing.assert_close(inflated.sum(1), weight.sum(1))


class unchanged:  # noqa: N801  (used as a context)
    """Asserts that a model's weights are the same afterwards."""

    def __init__(self, model: RSVHeat) -> None:
        self.model = model
        self.before = {name: value.clone() for name, value in model.state_dict().items()}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for name, value in self.model.state_dict().items():
            assert torch.equal(value, self.before[name]), name


def _file(tmp_path: Path, name: str, content: bytes) -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def _truncated(tmp_path: Path) -> Path:
    whole = save(published(build()), tmp_path / "whole.pth").read_bytes()
    return _file(tmp_path, "a.pth", whole[: len(whole) // 2])


def _truncated_legacy(tmp_path: Path) -> Path:
    torch.save(published(build()), tmp_path / "a", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a").read_bytes()
    return _file(tmp_path, "a.pth", whole[: len(whole) // 2])


def _truncated_safetensors(tmp_path: Path) -> Path:
    save_file(build().state_dict(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    return _file(tmp_path, "a.safetensors", whole[: len(whole) // 2])


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("owned-by-a-pickle"),)


def _resnet() -> dict[str, Tensor]:
    return {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.bn1.bias": torch.zeros(64)}


def _swin() -> dict[str, Tensor]:
    return {"layers.0.blocks.0.norm1.weight": torch.zeros(96)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_truncated, "truncated"),
        (_truncated_legacy, "truncated|damaged"),
        (_truncated_safetensors, "truncated"),
        (lambda d: _file(d, "a.pth", b""), "empty"),
        (lambda d: _file(d, "a.pth", b"\n<!DOCTYPE html><html>Sign in"), "web page"),
        (lambda d: _file(d, "a.safetensors", b"<html><body>404"), "web page"),
        (lambda d: _file(d, "a.pth", b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
        (lambda d: _file(d, "a.pth", b"\x89PNG\r\n\x1a\n" + bytes(64)), "plain weights|damaged"),
        (lambda d: save({"model": Attack()}, d / "a.pth"), "never loaded|plain weights"),
        (lambda d: save([1, 2], d / "a.pth"), "holds a list"),
        (lambda d: save({"epoch": 3}, d / "a.pth"), "no weights; its keys are epoch"),
        (lambda d: save(_resnet(), d / "a.pth"), r"another architecture.*conv1\.weight"),
        (lambda d: save({"model": _swin()}, d / "a.pth"), "another architecture"),
        (lambda d: save(published(build(dims=(12, 24))), d / "a.pth"), "other widths"),
        (lambda d: save(build(dims=(12, 24)).state_dict(), d / "a.pth"), "other widths"),
        (
            lambda d: save(build(depths=(1, 3)).state_dict(), d / "a.pth"),
            r"other depths: \(1, 3\) blocks per stage, the model has \(1, 2\)",
        ),
        (
            lambda d: save(build(layer_scale=None).state_dict(), d / "a.pth"),
            "lacks layer scales.*matching layer_scale",
        ),
        (
            lambda d: save(build(freq_embed="implicit").state_dict(), d / "a.pth"),
            "matching freq_embed",
        ),
    ],
)
def test_unusable_files_are_named_and_leave_the_model_alone(
    make: Callable[[Path], Path],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path)
    model = build(1)
    with unchanged(model), pytest.raises(CheckpointError, match=message) as caught:
        rsvheat.load_checkpoint(model, path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "owned-by-a-pickle").exists()


def test_weights_that_the_model_would_ignore_are_refused(tmp_path: Path) -> None:
    path = save(published(build()), tmp_path / "a.pth")
    model = build(1, spatial_correction=False)
    with unchanged(model), pytest.raises(CheckpointError, match="matching spatial_correction"):
        rsvheat.load_checkpoint(model, path)
    model = build(1, layer_scale=None)
    with unchanged(model), pytest.raises(CheckpointError, match="has layer scales"):
        rsvheat.load_checkpoint(model, path)


def test_vheat_weights_start_an_rsvheat(tmp_path: Path) -> None:
    source = build(0, spatial_correction=False, modalities={"optical": 3})
    path = save(published(source, "patch_embed"), tmp_path / "a.pth")
    report = rsvheat.load_checkpoint(build(1), path)
    left = {name for name in report.missing if "correction" not in name}
    assert all(name.startswith("stems.sar.") for name in left)
    assert left


def test_configurations_beside_the_weights_are_read_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CfgNode(dict):  # as yacs has it: a dict with attributes
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.__dict__["immutable"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    config = types.ModuleType("yacs.config")
    config.CfgNode = CfgNode
    content = {
        "model": published(build(0)),
        "config": CfgNode({"MODEL": CfgNode({"DIMS": [8, 16]})}),
        "args": argparse.Namespace(lr=1e-3),
    }
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", config)
        path = save(content, tmp_path / "a.pth")
    model = build(1)
    rsvheat.load_checkpoint(model, path)
    assert_same(model, build(0))


def test_missing_file_and_wrong_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        rsvheat.load_checkpoint(build(), tmp_path / "nowhere.pth")
    with pytest.raises(TypeError, match="got Linear"):
        rsvheat.load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "nowhere.pth")
