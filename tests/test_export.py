# SPDX-License-Identifier: Apache-2.0
"""Exported encoders are run here by what will run them: onnxruntime, and processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import Pixels, trained
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from rsvheat import _library, export
from rsvheat.export import ExportError, export_aoti, export_onnx, export_torch
from rsvheat.models import RSVHeat
from rsvheat.models.classification import Classifier

# Relative L2, as for the golden vectors; measured: 1.1e-6.
TOLERANCE = 1e-5
BATCHES = (1, 2, 5)


@pytest.fixture(autouse=True)
def _one_thread(_reproducible: None) -> None:
    torch.set_num_threads(1)


def build(**kwargs: Any) -> RSVHeat:
    arguments = {"dims": (8, 16), "depths": (1, 1), "img_size": 32, "num_classes": 4}
    model = RSVHeat(**{**arguments, **kwargs}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial embeddings are too small to be seen
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def distance(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / expected.norm())


def expected(model: RSVHeat, images: Tensor, task: str, **kwargs: Any) -> Sequence[Tensor]:
    with torch.no_grad():
        if task == "logits":
            return [model(images, **kwargs)]
        return model.forward_intermediates(images, intermediates_only=True, **kwargs)


def case(model: RSVHeat, task: str = "logits", size: Any = 32, **kwargs: Any) -> list[Any]:
    """Return pairs of images and outputs, one for each number of images."""
    height, width = (size, size) if isinstance(size, int) else size
    bands = model.modalities[kwargs.get("modality") or model.default_modality]
    cases = []
    for batch in BATCHES:
        images = torch.randn(batch, bands, height, width)
        cases.append((images, expected(model, images, task, **kwargs)))
    return cases


@pytest.mark.parametrize(
    ("freq_embed", "task", "size", "call"),
    [
        ("table", "features", (48, 33), {"modality": "sar"}),
        ("implicit", "logits", 32, {"modality": "optical", "gsd": 0.5}),
        pytest.param("table", "logits", 32, {}, marks=pytest.mark.slow),
        pytest.param("implicit", "features", (40, 32), {"modality": "sar"}, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_computes_the_same(
    freq_embed: str, task: Any, size: Any, call: dict[str, Any], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    pool = "moments" if task == "logits" else "avg"
    model = build(freq_embed=freq_embed, global_pool=pool)
    opset = 18 if task == "features" else 20
    exported = export_onnx(
        model, tmp_path / "model.onnx", size, task=task, opset=opset, verify=True, **call
    )
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert exported.error is not None
    assert 0 < exported.error <= TOLERANCE

    content = onnx.load(exported.path)
    onnx.checker.check_model(content, full_check=True)
    used = {node.domain for node in content.graph.node}
    assert used == {""}  # operators that every runtime has
    assert [(o.domain, o.version) for o in content.opset_import] == [("", opset)]

    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert {images.name: tuple(images.shape)} == exported.inputs
    assert images.shape[0] == "batch"
    names = ("logits",) if task == "logits" else ("stride4", "stride8")
    assert tuple(output.name for output in session.get_outputs()) == exported.outputs == names
    for inputs, outputs in case(model, task, size, **call):
        results = session.run(None, {"images": inputs.numpy()})
        for result, output in zip(results, outputs, strict=True):
            assert distance(torch.from_numpy(result), output) <= TOLERANCE


@pytest.mark.slow
def test_fixed_batch_and_no_comparison(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    exported = export_onnx(build(), tmp_path / "a.onnx", batch_size=1, verify=False)
    assert exported.error is None
    assert str(exported).endswith("images (1, 3, 32, 32) -> logits; not compared with the model")
    (images,) = onnx.load(exported.path).graph.input
    assert [d.dim_value for d in images.type.tensor_type.shape.dim] == [1, 3, 32, 32]


def run_elsewhere(load: str, imports: str, cases: list[Any], folder: Path) -> None:
    """Compare in a process that did not make the file, and has imported only what is named."""
    torch.save(cases, folder / "cases.pth")
    program = f"""
import sys, torch
{imports}
run = {load}
for images, expected in torch.load("cases.pth"):
    outputs = run(images)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    assert len(outputs) == len(expected)
    for a, b in zip(outputs, expected):
        assert a.shape == b.shape and (a - b).norm() <= {TOLERANCE} * b.norm(), (a - b).norm()
assert ("rsvheat" in sys.modules) == {"rsvheat" in imports}
print("same")
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "same\n", result.stderr


OPERATORS = [("native", "import rsvheat"), ("reference", "")]


@pytest.mark.parametrize(("operators", "imports"), OPERATORS)
def test_torch_program_runs_elsewhere(operators: Any, imports: str, tmp_path: Path) -> None:
    model = build()
    call = {"modality": "sar"}
    exported = export_torch(
        model, tmp_path / "a.pt2", (40, 32), task="features", operators=operators, **call
    )
    assert list(exported.inputs.values()) == [("batch", 1, 40, 32)]
    assert exported.error is not None
    assert exported.error <= TOLERANCE
    holds_native = "rsvheat" in torch.export.load(exported.path).graph_module.code
    assert holds_native == (operators == "native" and _library.native_available())
    cases = case(model, "features", (40, 32), **call)
    run_elsewhere("torch.export.load('a.pt2').module()", imports, cases, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("operators", "imports"), OPERATORS)
def test_aoti_package_runs_elsewhere(operators: Any, imports: str, tmp_path: Path) -> None:
    model = build(freq_embed="implicit")
    exported = export_aoti(model, tmp_path / "a.pt2", (40, 32), gsd=2.0, operators=operators)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
    assert exported.error is not None
    assert exported.error <= TOLERANCE
    cases = case(model, size=(40, 32), gsd=2.0)
    run_elsewhere("torch._inductor.aoti_load_package('a.pt2')", imports, cases, tmp_path)


def test_a_file_that_differs_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt2"
    path.write_text("older")
    wrong = build()
    monkeypatch.setattr(export, "_load_torch", lambda file: lambda images: [wrong(images)])
    with pytest.raises(ExportError, match=r"a\.pt2 was not written: its outputs are .* from the"):
        export_torch(build(), path)
    monkeypatch.setattr(
        export, "_load_torch", lambda file: lambda images: [torch.full((len(images), 4), torch.nan)]
    )
    with pytest.raises(ExportError, match="its outputs are nan"):
        export_torch(build(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
    assert path.read_text() == "older"


def test_an_interrupted_export_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt2"
    path.write_text("older")

    def interrupted(program: object, file: Path) -> None:
        file.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_torch(build(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]
    assert path.read_text() == "older"


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = build(drop_path=0.2).train()
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    parameters = dict(model.named_parameters())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    # As in evaluation, without stochastic depth; and with tables of another size.
    exported = export_torch(model, tmp_path / "a.pt2", 48)
    assert exported.error is not None
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.pt"}, r"path must end in '\.pt2', got 'a\.pt'"),
        ({"task": "classes"}, "task must be one of logits, features, got 'classes'"),
        ({"modality": "lidar"}, r"modality must be one of \['optical', 'sar'\], got 'lidar'"),
        ({"img_size": (32, 0)}, "img_size must be a positive side"),
        ({"batch_size": 0}, "batch_size must be at least 1, or None for any, got 0"),
        ({"operators": "fast"}, "operators must be one of native, reference, got 'fast'"),
        ({"gsd": 1.0}, "gsd has no effect on tables"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        export_torch(build(), **{"path": "a.pt2", **arguments})
    assert not list(tmp_path.iterdir())


def test_errors_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "a.onnx"
    with pytest.raises(TypeError, match="model must be an RSVHeat encoder, got Linear"):
        export_onnx(nn.Linear(1, 1), path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be in float32 for ONNX, got torch\.bfloat16"):
        export_onnx(build().bfloat16(), path)
    with pytest.raises(ValueError, match="opset must be 18 or newer, got 17"):
        export_onnx(build(), path, opset=17)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime .* pip install 'rsvheat\[export\]'"):
        export_onnx(build(), path, verify=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript .* pip install 'rsvheat\[export\]'"):
        export_onnx(build(), path)
    assert not list(tmp_path.iterdir())


def value_and_gradients(run: Any, model: RSVHeat, images: Tensor) -> tuple[Tensor, ...]:
    model.zero_grad()
    images = images.clone().requires_grad_()
    torch._dynamo.mark_dynamic(images, 0)
    logits = run(images, "sar")
    logits.square().sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if "optical" not in name]
    assert all(gradient is not None for gradient in gradients)
    return logits.detach(), images.grad, *gradients


@pytest.mark.parametrize(
    ("freq_embed", "training"),
    [
        ("table", True),
        ("implicit", False),
        pytest.param("table", False, marks=pytest.mark.slow),
        pytest.param("implicit", True, marks=pytest.mark.slow),
    ],
)
def test_encoder_compiles_as_one_graph_for_every_batch(freq_embed: Any, training: bool) -> None:
    torch._dynamo.reset()
    model = build(freq_embed=freq_embed).train(training)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    for batch in (2, 3, 7):
        images = torch.randn(batch, 1, 32, 48)
        actual = value_and_gradients(compiled, model, images)
        for a, b in zip(actual, value_and_gradients(model, model, images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert graphs.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_encoder_compiles_with_inductor(training: bool) -> None:
    torch._dynamo.reset()
    model = build().train(training)
    images = torch.randn(2, 1, 32, 48)
    compiled = torch.compile(model, fullgraph=True)
    actual = value_and_gradients(compiled, model, images)
    for a, b in zip(actual, value_and_gradients(model, model, images), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process: exit code, output, errors."""
    pytest.importorskip("jsonargparse")
    from rsvheat import cli

    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main(["export", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_exports_a_classifier(command: Any, tmp_path: Path) -> None:
    trained(Classifier, classes=("a", "b", "c")).save(tmp_path / "a.ckpt")
    code, out, err = command(tmp_path / "a.ckpt", tmp_path / "a.pt2", "--img_size", "[40,32]")
    assert code == 0, err
    assert "images (batch, 3, 40, 32) -> logits; agrees with the model" in out


def test_the_command_exports_the_encoder_of_other_tasks_when_told(
    command: Any, tmp_path: Path
) -> None:
    """Never an encoder where a whole network is expected."""
    trained(Pixels).save(tmp_path / "a.ckpt")
    code, _, err = command(tmp_path / "a.ckpt", tmp_path / "a.pt2")
    assert code == 1
    assert err == (
        f"rsvheat export: {tmp_path}/a.ckpt is of the task stand_in_pixels, of which only the "
        "encoder can be exported: --task features\n"
    )
    code, out, err = command(tmp_path / "a.ckpt", tmp_path / "a.pt2", "--task", "features")
    assert code == 0, err
    assert "-> stride4, stride8; agrees with the model" in out
