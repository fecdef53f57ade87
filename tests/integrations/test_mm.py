# SPDX-License-Identifier: Apache-2.0
"""The backbone and the configs under OpenMMLab, in environments of their own: see the Makefile."""

import importlib
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip("mmengine", reason="OpenMMLab has environments of its own: make test-mm")

from integrations import mmcv_ext_stand_in
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModule
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from mmengine.runner import Runner, load_checkpoint
from mmengine.structures import InstanceData, PixelData
from torch.utils.data import DataLoader

import rsvheat
from rsvheat.integrations import mm
from rsvheat.integrations.mm_configs import config_path

REAL_OPERATORS = os.environ.get("RSVHEAT_REQUIRE_MM_OPERATORS") == "1"
if mmcv_ext_stand_in.install() and REAL_OPERATORS:
    raise RuntimeError("mmcv has no operators, and RSVHEAT_REQUIRE_MM_OPERATORS=1")

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
NANO = {"type": "RSVHeat", "arch": "rsvheat_nano", "img_size": 64}
WIDTHS = [32, 64, 128, 256]
CLASSES = 3
PACKAGES = {
    "upernet": "mmseg",
    "faster_rcnn": "mmdet",
    "retinanet": "mmdet",
    "rotated_retinanet": "mmrotate",
    "oriented_rcnn": "mmrotate",
}


@pytest.fixture(autouse=True)
def _alone(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a Runner leaves behind: its scope, its logger, its files' folder."""
    monkeypatch.setattr(DefaultScope, "_instance_dict", DefaultScope._instance_dict.copy())


def require(package: str) -> None:
    if REAL_OPERATORS:
        importlib.import_module(package)
    else:
        pytest.importorskip(package, reason=f"{package}: make test-mm-operators")


def backbone(**kwargs: Any) -> mm.RSVHeat:
    return MODELS.build({**NANO, **kwargs})


def randomize(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))


def encoder(**kwargs: Any) -> rsvheat.models.RSVHeat:
    """Return an encoder with random weights, all of them other than fresh ones."""
    arguments = {"img_size": 64, "modalities": {"optical": 3}, "num_classes": 5}
    model = rsvheat.create_model("rsvheat_nano", **{**arguments, **kwargs})
    randomize(model)
    return model.eval()


def pretrained(path: Path, **kwargs: Any) -> dict[str, Any]:
    return {"type": "Pretrained", "checkpoint": str(path), **kwargs}


def assert_loaded(model: mm.RSVHeat, source: rsvheat.models.RSVHeat) -> None:
    """Assert that all weights of a backbone but its output norms are those of an encoder."""
    state = source.state_dict()
    names = [name for name in model.encoder.state_dict() if not name.startswith("output_norms.")]
    assert len(names) > 20
    for name in names:
        assert torch.equal(model.encoder.state_dict()[name], state[name]), name


# The backbone


@pytest.mark.parametrize("package", ["mmseg", "mmdet", "mmrotate"])
def test_backbone_resolves_in_every_package(package: str) -> None:
    require(package)
    registry = importlib.import_module(f"{package}.registry").MODELS
    for name in ("RSVHeat", "rsvheat.integrations.mm.RSVHeat"):
        model = registry.build({**NANO, "type": name})
        assert type(model) is mm.RSVHeat
        assert isinstance(model, BaseModule)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (1, 45), (200, 33)])
def test_features_are_those_of_the_encoder_at_any_size(size: tuple[int, int]) -> None:
    model = backbone(in_chans=4, freq_resize="bilinear").eval()
    randomize(model)
    whole = encoder(modalities={"optical": 4}, freq_resize="bilinear", output_norms=True)
    whole.load_state_dict(model.encoder.state_dict(), strict=False)
    x = torch.randn(2, 4, *size)
    maps = model(x)
    assert isinstance(maps, tuple)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    for i, (actual, feature) in enumerate(zip(maps, expected, strict=True)):
        sides = (math.ceil(side / (4 * 2**i)) for side in size)
        assert actual.shape == (2, WIDTHS[i], *sides)
        assert torch.equal(actual, feature)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2, 3), (0, 2), (-1,)])
@pytest.mark.parametrize("output_norms", [True, False])
def test_every_parameter_gets_a_gradient(out_indices: tuple[int, ...], output_norms: bool) -> None:
    model = backbone(out_indices=out_indices, output_norms=output_norms, with_cp=True)
    maps = model(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == [WIDTHS[i] for i in out_indices]
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    plain, frugal = backbone(), backbone(with_cp=True)
    frugal.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    kept = []
    for model in (plain, frugal):
        sizes: list[int] = []
        # What a recomputation keeps meanwhile goes through hooks of its own.
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t
        ):
            maps = model(x)
        kept.append(sum(sizes))
        sum(m.square().mean() for m in maps).backward()
    assert kept[1] < kept[0] / 2
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 2, 4])
def test_frozen_stages_keep_weights_and_evaluation_mode(frozen_stages: int) -> None:
    model = backbone(frozen_stages=frozen_stages, drop_path_rate=0.9)

    def frozen(name: str) -> bool:
        part, index = name.split(".")[1:3]
        return frozen_stages >= 0 if part == "stems" else int(index) < frozen_stages

    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != frozen(name), name
    for train in (model.train, model.eval, model.train):
        train()
    for i, stage in enumerate(model.encoder.stages):
        assert all(m.training == (i >= frozen_stages) for m in stage.modules())
    x = torch.randn(4, 3, 64, 64)
    first, second = model(x), model(x)
    for i in range(max(frozen_stages, 0)):
        assert torch.equal(first[i], second[i])
    if 0 <= frozen_stages < 4:
        assert not torch.equal(first[3], second[3])  # stochastic depth, in the stages that train


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"arch": "resnet50"}, "no model is named 'resnet50'"),
        ({"frozen_stages": 5}, "frozen_stages must be -1 to 4, got 5"),
        ({"out_indices": (0, 4)}, "indices must be within"),
        ({"in_chans": 0}, "at least 1 band"),
        ({"init_cfg": {"type": "Normal", "layer": "Conv2d"}}, "init_cfg must be None or"),
        ({"init_cfg": {"type": "Pretrained"}}, "init_cfg must be None or"),
        ({"init_cfg": [{"type": "Pretrained", "checkpoint": "a"}]}, "init_cfg must be None or"),
        (
            {"init_cfg": {"type": "Pretrained", "checkpoint": "a", "map_location": "cpu"}},
            "init_cfg must be None or",
        ),
        (
            {"init_cfg": {"type": "Pretrained", "checkpoint": "https://example.org/a.pth"}},
            "download https://example.org/a.pth first",
        ),
    ],
)
def test_wrong_arguments_are_refused_when_the_model_is_built(
    kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(**kwargs)


# Checkpoints


@pytest.mark.parametrize("form", ["safetensors", "lightning", "mm"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 1)])
def test_init_cfg_loads_own_files(tmp_path: Path, form: str, out_indices: tuple[int, ...]) -> None:
    source = encoder(img_size=96)
    state = source.state_dict()
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        prefix = {"lightning": "model.", "mm": "backbone.encoder."}[form]
        state = {prefix + name: value for name, value in state.items()}
        torch.save({"state_dict": {**state, "decode_head.conv_seg.bias": torch.zeros(2)}}, path)
    model = backbone(
        img_size=96, out_indices=out_indices, init_cfg=pretrained(path, type=PretrainedInit)
    )
    model.init_weights()
    assert model.is_init
    assert_loaded(model, source)


def test_init_cfg_resamples_tables_and_logs_the_report(tmp_path: Path) -> None:
    save_file(encoder(img_size=96).state_dict(), tmp_path / "a.safetensors")
    log = tmp_path / "mm.log"
    MMLogger.get_instance("test_init_cfg", log_file=str(log))
    backbone(init_cfg=pretrained(tmp_path / "a.safetensors")).init_weights()
    text = log.read_text()
    assert "parameters loaded, 8 of them resized" in text
    assert "resized stages.0.freq_embed.table: (24, 24) -> (16, 16)" in text
    assert "left as initialized output_norms.0.weight" in text


@pytest.mark.parametrize(
    ("case", "arch"), [("vheat_dense_nonsquare", "vheat_tiny"), ("rsvheat_sar", "rsvheat_tiny")]
)
def test_init_cfg_loads_published_files(case: str, arch: str) -> None:
    if not (GOLDEN / f"{case}.json").exists():
        pytest.skip(f"the golden vectors are not at {GOLDEN}")
    config = json.loads((GOLDEN / f"{case}.json").read_text())
    values = np.load(GOLDEN / f"{case}.npz")
    sar = config.get("mode") == "sar"
    model = backbone(
        arch=arch,
        img_size=config["img_size"],
        in_chans=values["input"].shape[1],
        modality="sar" if sar else "optical",
        output_norms="dense" in case,
        freq_resize="bicubic",
        init_cfg=pretrained(GOLDEN / f"{case}.pth"),
        dims=config["dims"],
        depths=config["depths"],
        norm_position="post" if config["post_norm"] else "pre",
        layer_scale=1e-5 if config["layer_scale"] else None,
    )
    model.init_weights()
    with torch.no_grad():
        maps = model.eval()(torch.from_numpy(values["input"]))
    for i, feature in enumerate(maps):
        expected = torch.from_numpy(values[f"stage{i}"])
        error = (feature - expected).norm() / expected.norm()
        assert error.item() < 1e-5


def test_another_modality_takes_its_own_stem(tmp_path: Path) -> None:
    source = encoder(modalities={"optical": 3, "sar": 1})
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    model = backbone(modality="sar", in_chans=1, init_cfg=pretrained(tmp_path / "a.safetensors"))
    model.init_weights()
    assert_loaded(model, source)


def test_other_bands_are_refused_unless_inflated(tmp_path: Path) -> None:
    source = encoder()
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    path = tmp_path / "a.safetensors"
    with pytest.raises(rsvheat.models.CheckpointError, match="stem for 3 bands"):
        backbone(in_chans=4, init_cfg=pretrained(path)).init_weights()
    model = backbone(in_chans=4, init_cfg=pretrained(path, inflate_stems=True))
    model.init_weights()
    gray = torch.randn(1, 1, 64, 64)
    maps = model.eval()(gray.expand(-1, 4, -1, -1))
    expected = source.forward_intermediates(gray.expand(-1, 3, -1, -1), intermediates_only=True)
    torch.testing.assert_close(
        maps[0],
        nn.functional.layer_norm(expected[0].permute(0, 2, 3, 1), (32,)).permute(0, 3, 1, 2),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_file_that_does_not_fit_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    model = backbone(init_cfg=pretrained(path))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*a\.pth"):
        model.init_weights()
    path.write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(rsvheat.models.CheckpointError, match="is a web page"):
        model.init_weights()
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, path)
    with pytest.raises(rsvheat.models.CheckpointError, match="of another architecture"):
        model.init_weights()
    torch.save(rsvheat.create_model("vheat_tiny", modalities={"optical": 3}).state_dict(), path)
    with pytest.raises(rsvheat.models.CheckpointError, match="has other depths"):
        model.init_weights()
    assert not model.is_init
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_a_file_lacks_are_not_frozen(tmp_path: Path) -> None:
    save_file(encoder(modalities={"sar": 1}).state_dict(), tmp_path / "a.safetensors")
    init_cfg = pretrained(tmp_path / "a.safetensors", stems={})
    backbone(init_cfg=init_cfg).init_weights()
    model = backbone(init_cfg=init_cfg, frozen_stages=1)
    with pytest.raises(ValueError, match=r"frozen_stages=1 would freeze 8 .*stems\.optical\.conv1"):
        model.init_weights()


# Optimizers


def test_layer_decay_groups_every_trainable_parameter_once() -> None:
    model = nn.ModuleDict({"backbone": backbone(frozen_stages=0), "head": nn.Linear(4, 2)})
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        {
            "type": "RSVHeatOptimWrapperConstructor",
            "optim_wrapper_cfg": {
                "type": "OptimWrapper",
                "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.5},
            },
            "paramwise_cfg": {"layer_decay": 0.5, "bias_decay_mult": 0.0},
        }
    )
    groups = constructor(model).optimizer.param_groups
    found = {id(p): group for group in groups for p in group["params"]}
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(trainable)

    def of(name: str) -> tuple[float, float]:
        group = found[id(trainable[name])]
        return group["lr"], group["weight_decay"]

    last = "backbone.encoder.stages.3"
    assert of("head.weight") == (1.0, 0.5)
    assert of("head.bias") == (1.0, 0.0)
    assert of(f"{last}.blocks.0.linear.weight".replace("linear", "op.linear")) == (0.5, 0.5)
    assert of(f"{last}.blocks.0.norm1.weight") == (0.5, 0.0)
    assert of(f"{last}.freq_embed.table") == (0.5, 0.0)
    assert of("backbone.encoder.stages.0.blocks.0.mlp.fc1.weight") == (0.5**6, 0.5)


def test_layer_decay_needs_a_learning_rate() -> None:
    with pytest.raises(ValueError, match="must give lr and weight_decay"):
        mm.RSVHeatOptimWrapperConstructor({"optimizer": {"type": "AdamW", "lr": 1e-3}})


# Configs


def small(name: str, **options: Any) -> Config:
    """Return a config as installed, on the smallest variant and for three classes."""
    config = Config.fromfile(config_path(name))
    config.merge_from_dict({f"model.backbone.{k}": v for k, v in NANO.items() if k != "type"})
    config.merge_from_dict({f"model.backbone.{k}": v for k, v in options.items()})
    for part in ("decode_head", "neck"):
        if part in config.model:
            count = len(config.model[part].in_channels)
            config.model[part].in_channels = WIDTHS[-count:]
    if name == "upernet":
        config.model.auxiliary_head.in_channels = WIDTHS[2]
        config.model.data_preprocessor.size = (64, 64)
    for part in ("decode_head", "auxiliary_head", "bbox_head"):
        if part in config.model:
            config.model[part].num_classes = CLASSES
    if "roi_head" in config.model:
        config.model.roi_head.bbox_head.num_classes = CLASSES
    if options.get("in_chans", 3) != 3:
        config.model.data_preprocessor.update(mean=None, std=None, bgr_to_rgb=False)
    # Steps that can be seen in float32, and boxes however unlikely.
    config.param_scheduler[0].start_factor = 1.0
    config.optim_wrapper.optimizer.lr = 1e-3
    test_cfg = config.model.test_cfg.get("rcnn", config.model.test_cfg)
    if "score_thr" in test_cfg:
        test_cfg.score_thr = 0.0
    return config


def sample(name: str, bands: int, height: int, width: int) -> dict[str, Any]:
    """Return a random image and what the dataset of the package would say about it."""
    image = torch.randint(0, 256, (bands, height, width), dtype=torch.uint8)
    meta = {
        "img_id": 0,
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "scale_factor": (1.0, 1.0),
    }
    if name == "upernet":
        from mmseg.structures import SegDataSample

        labels = torch.randint(0, CLASSES, (1, height, width))
        return {
            "inputs": image,
            "data_samples": SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels)),
        }
    from mmdet.structures import DetDataSample

    corners = torch.tensor([[4.0, 6.0, 30.0, 41.0], [20.0, 8.0, 60.0, 30.0]])
    boxes: Any = corners
    if PACKAGES[name] == "mmrotate":
        from mmrotate.structures.bbox import RotatedBoxes

        boxes = RotatedBoxes(
            torch.cat(
                [
                    (corners[:, :2] + corners[:, 2:]) / 2,
                    corners[:, 2:] - corners[:, :2],
                    torch.tensor([[0.3], [-0.6]]),
                ],
                dim=1,
            )
        )
    instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    data_sample = DetDataSample(metainfo=meta, gt_instances=instances)
    data_sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.tensor([]).long())
    return {"inputs": image, "data_samples": data_sample}


class Losses(Hook):
    def __init__(self) -> None:
        self.values: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.values.append(float(outputs["loss"].detach()))


def train(
    config: Config,
    data: list[dict[str, Any]],
    work_dir: Path,
    iterations: int = 2,
    save: bool = False,
    **kwargs: Any,
) -> tuple[nn.Module, list[float]]:
    """Train by mmengine's Runner, as the packages' scripts do; return the model and its losses."""
    losses = Losses()
    hooks = config.get("default_hooks", {})
    runner = Runner(
        model=config.model,
        work_dir=str(work_dir),
        train_dataloader=DataLoader(data, batch_size=2, collate_fn=pseudo_collate),
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_hooks=hooks if save else {**hooks, "checkpoint": None},
        log_processor=config.get("log_processor"),
        custom_hooks=[losses],
        default_scope=config.default_scope,
        experiment_name=f"{work_dir}_{iterations}",
        randomness={"seed": 0},
        **kwargs,
    )
    return runner.train(), losses.values


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("upernet", {"in_chans": 4, "frozen_stages": 1}),
        ("faster_rcnn", {"frozen_stages": 2, "with_cp": True}),
        ("retinanet", {"in_chans": 6}),
        ("rotated_retinanet", {}),
        ("oriented_rcnn", {"frozen_stages": 0}),
    ],
)
def test_configs_train_two_iterations_and_predict(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    require(PACKAGES[name])
    bands, frozen_stages = options.get("in_chans", 3), options.get("frozen_stages", -1)
    source = encoder(modalities={"optical": bands})
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    config = small(name, **options, init_cfg=pretrained(tmp_path / "weights.safetensors"))
    # UPerNet takes crops of one size; detectors pad the images of a batch to the largest.
    sizes = [(64, 64)] * 4 if name == "upernet" else [(64, 75), (49, 96), (70, 64), (64, 64)]
    data = [sample(name, bands, *size) for size in sizes]
    model, losses = train(config, data, tmp_path / "work")

    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert "weights.safetensors (rsvheat layout)" in log.read_text()
    before = source.state_dict()
    trained, kept = set(), set()
    for key, value in model.backbone.encoder.state_dict().items():
        if not key.startswith("output_norms."):
            part = ".".join(key.split(".")[:2])
            (kept if torch.equal(value, before[key]) else trained).add(part)
    frozen = ["stems.optical", *(f"stages.{i}" for i in range(4))][: frozen_stages + 1]
    assert kept >= set(frozen)
    assert trained == {"stems.optical", *(f"stages.{i}" for i in range(4))} - set(frozen)

    model.eval()
    item = sample(name, bands, 97, 61)
    with torch.no_grad():
        (result,) = model.test_step(
            {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
        )
    check = check_map if name == "upernet" else check_boxes
    check(result, 97, 61)


def test_checkpoints_of_mmengine_are_read_to_resume_to_test_and_to_start_from(
    tmp_path: Path,
) -> None:
    require("mmseg")
    config = small("upernet")
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.channels = 8
    data = [sample("upernet", 3, 64, 64) for _ in range(4)]
    model, _ = train(config, data, tmp_path / "work", save=True)
    path = tmp_path / "work" / "iter_2.pth"

    started = backbone(init_cfg=pretrained(path))
    started.init_weights()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, started.state_dict()[name]), name

    resumed, losses = train(config, data, tmp_path / "work", 3, resume=True, load_from=str(path))
    assert len(losses) == 1
    x = torch.randn(1, 3, 64, 64)
    with DefaultScope.overwrite_default_scope("mmseg"):
        other = importlib.import_module("mmseg.registry").MODELS.build(config.model)
    load_checkpoint(other, str(path))
    for a, b in zip(model.eval()(x), other.eval()(x), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(resumed.eval()(x)[0], model(x)[0])


class Attribute:
    def __init__(self, owner: type, name: str) -> None:
        self.arguments = (owner, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self.arguments


@pytest.mark.parametrize("arguments", [(np.ndarray, "max"), (HistoryBuffer, "__init__")])
def test_other_attributes_are_still_not_read_from_checkpoints(
    tmp_path: Path, arguments: tuple[type, str]
) -> None:
    torch.save(Attribute(*arguments), tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError, match=f"getattr.*{arguments[1]}"):
        torch.load(tmp_path / "a.pth", weights_only=True)


def check_map(result: Any, height: int, width: int) -> None:
    labels = result.pred_sem_seg.data
    assert labels.shape == (1, height, width)
    assert set(labels.unique().tolist()) <= set(range(CLASSES))
    assert result.seg_logits.data.shape == (CLASSES, height, width)
    assert result.seg_logits.data.isfinite().all()


def check_boxes(result: Any, height: int, width: int) -> None:
    instances = result.pred_instances
    boxes = instances.bboxes
    boxes = boxes if isinstance(boxes, Tensor) else boxes.tensor
    assert boxes.isfinite().all()
    assert 0 < len(boxes) == len(instances.scores) == len(instances.labels)
    if boxes.shape[1] == 4:
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert set(instances.labels.tolist()) <= set(range(CLASSES))


@pytest.mark.parametrize("name", PACKAGES)
def test_configs_fit_the_variant_that_they_name(name: str) -> None:
    config = Config.fromfile(config_path(name))
    model = rsvheat.create_model(config.model.backbone.arch)
    indices = config.model.backbone.get("out_indices", range(4))
    head = config.model.get("neck", config.model.get("decode_head"))
    assert head.in_channels == [model.dims[i] for i in indices]
    if "auxiliary_head" in config.model:
        auxiliary = config.model.auxiliary_head
        assert auxiliary.in_channels == model.dims[auxiliary.in_index]


LAZY = """
from mmengine.config import read_base
with read_base():
    from .upernet import *
"""


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: '_base_ = ["./upernet.py"]\n',
        lambda folder: f'_base_ = ["{config_path("upernet")}"]\n',
        lambda folder: LAZY,
    ],
    ids=["copy", "path", "read_base"],
)
def test_configs_can_be_inherited(tmp_path: Path, write: Callable[[Path], str]) -> None:
    require("mmseg")
    (tmp_path / "upernet.py").write_text(Path(config_path("upernet")).read_text())
    child = tmp_path / "child.py"
    if "read_base" in write(tmp_path):
        change = 'model["backbone"].update(arch="rsvheat_nano")\n'
        change += f'model["decode_head"].update(num_classes=6, in_channels={WIDTHS})\n'
        change += 'model["auxiliary_head"].update(num_classes=6, in_channels=128)\n'
    else:
        change = "model = dict(backbone=dict(arch='rsvheat_nano'), "
        change += f"decode_head=dict(num_classes=6, in_channels={WIDTHS}), "
        change += "auxiliary_head=dict(num_classes=6, in_channels=128))\n"
    child.write_text(write(tmp_path) + change)
    config = Config.fromfile(str(child))
    from mmseg.registry import MODELS as SEGMENTORS

    with DefaultScope.overwrite_default_scope("mmseg"):
        model = SEGMENTORS.build(config.model)
    assert type(model.backbone) is mm.RSVHeat
    assert model.num_classes == 6


def test_an_unknown_config_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no config is named 'mask2former'; .*oriented_rcnn"):
        config_path("mask2former")
