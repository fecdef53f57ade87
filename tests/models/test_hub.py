# SPDX-License-Identifier: Apache-2.0
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin

import rsvheat
from rsvheat.models import CheckpointError, RSVHeat, inflate_stem

FILES = ["README.md", "config.json", "model.safetensors"]


def build(**kwargs: Any) -> RSVHeat:
    arguments = {"dims": (8, 16), "depths": (1, 1), "img_size": 32, "num_classes": 4}
    model = RSVHeat(**{**arguments, **kwargs}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a folder with an encoder of two modalities and four classes."""
    build().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


# No argument has its default.
EVERYTHING: dict[str, Any] = {
    "dims": (8, 12, 16),
    "depths": (1, 2, 1),
    "img_size": (48, 64),
    "modalities": {"s1": 2, "s2": 13},
    "num_classes": 3,
    "norm_position": "pre",
    "layer_scale": None,
    "spatial_correction": False,
    "freq_embed": "implicit",
    "freq_resize": "bicubic",
    "output_norms": True,
    "drop_path": 0.3,
    "reference_gsd": 10.0,
    "mlp_ratio": 2.7,
    "drop_rate": 0.1,
    "global_pool": "",
}


def test_every_argument_and_weight_comes_back(tmp_path: Path) -> None:
    model = build(**EVERYTHING)
    assert model.config == EVERYTHING
    arguments = set(inspect.signature(RSVHeat.__init__).parameters) - {"self", "in_chans"}
    assert model.config.keys() == arguments
    assert model.save_pretrained(tmp_path) is None
    assert names(tmp_path) == FILES

    loaded = RSVHeat.from_pretrained(tmp_path)
    assert loaded.config == EVERYTHING  # with tuples, which JSON does not have
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    x = torch.randn(1, 13, 40, 56)
    with torch.no_grad():
        assert torch.equal(loaded(x, "s2", gsd=20.0), model(x, "s2", gsd=20.0))
    assert loaded.load_report is not None
    assert sorted(loaded.load_report.loaded) == sorted(model.state_dict())


def test_configuration_follows_the_model(tmp_path: Path) -> None:
    model = build(in_chans=6)
    model.reset_classifier(7)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_classes"] == 7
    assert config["modalities"] == {"optical": 6}
    assert config["library_name"] == "rsvheat"
    assert config["rsvheat_version"] == rsvheat.__version__
    assert config["variant"] is None
    assert RSVHeat.from_pretrained(tmp_path).get_classifier().out_features == 7


@pytest.mark.parametrize("name", ["rsvheat_nano", "vheat_tiny"])
def test_variants_are_named(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        config = rsvheat.models.hub._described(rsvheat.create_model(name, num_classes=2))
    assert config["variant"] == name


def test_half_precision_of_channels_last_weights(tmp_path: Path) -> None:
    model = build().bfloat16().to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    loaded = RSVHeat.from_pretrained(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.float()), name


def test_other_size_and_classes(saved: Path) -> None:
    source = RSVHeat.from_pretrained(saved)
    model = RSVHeat.from_pretrained(saved, img_size=(48, 64), num_classes=9)
    assert model.img_size == (48, 64)
    assert model.num_classes == 9
    report = model.load_report
    assert report is not None
    assert report.resized["stages.0.freq_embed.table"] == ((8, 8), (12, 16))
    assert set(report.skipped) == set(report.missing) == {"head.fc.weight", "head.fc.bias"}
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        difference = model.forward_features(x) - source.forward_features(x)
    assert difference.norm() <= 1e-5 * source.forward_features(x).norm()


def test_other_bands_are_inflated_only_on_request(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"3 bands, .* 'optical' takes 6: inflate_stems=True"):
        RSVHeat.from_pretrained(saved, in_chans=6)
    model = RSVHeat.from_pretrained(saved, in_chans=6, inflate_stems=True)
    assert model.modalities == {"optical": 6}
    assert model.load_report is not None
    assert model.load_report.inflated == {"stems.optical.conv1.weight": (3, 6)}
    old = RSVHeat.from_pretrained(saved).stems["optical"].conv1.weight
    assert torch.equal(model.stems["optical"].conv1.weight, inflate_stem(old, 6))


def test_other_modalities_take_the_stems_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no stem for any of \['radar'\]: name one by stems"):
        RSVHeat.from_pretrained(saved, modalities={"radar": 1})
    model = RSVHeat.from_pretrained(saved, modalities={"radar": 1}, stems={"radar": "sar"})
    source = RSVHeat.from_pretrained(saved)
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x), source(x, "sar"))
    added = RSVHeat.from_pretrained(saved, modalities={"optical": 3, "lidar": 1})
    assert added.load_report is not None
    assert {name.split(".")[1] for name in added.load_report.missing} == {"lidar"}


def test_backbone_of_timm(tmp_path: Path) -> None:
    wrapper = timm.create_model("rsvheat_nano", features_only=True, in_chans=2, img_size=32)
    wrapper.model.save_pretrained(tmp_path)
    model = RSVHeat.from_pretrained(tmp_path)
    assert (model.modalities, model.num_classes) == ({"optical": 2}, 0)
    x = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        maps = wrapper.eval()(x)
        for a, b in zip(maps, model.forward_intermediates(x)[1], strict=True):
            assert torch.equal(a, b)
    early = timm.create_model("rsvheat_nano", features_only=True, out_indices=(0, 1))
    with pytest.raises(ValueError, match="only 2 of its 4 stages left"):
        early.model.save_pretrained(tmp_path)


@pytest.mark.parametrize("failing", ["weights", "card"])
def test_an_interrupted_save_leaves_the_old_one(
    failing: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(saved)

    def interrupted(writer: object, path: Path) -> None:
        file = path / "model.safetensors" if failing == "weights" else path
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    if failing == "weights":
        monkeypatch.setattr(PyTorchModelHubMixin, "_save_pretrained", interrupted)
    else:
        monkeypatch.setattr(ModelCard, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(num_classes=5).save_pretrained(saved)
    assert content(saved) == before
    RSVHeat.from_pretrained(saved)


def test_saving_again_keeps_a_written_card(saved: Path) -> None:
    (saved / "README.md").write_text("what we trained it on")
    (saved / "notes.txt").write_text("others' files stay")
    build(num_classes=5).save_pretrained(saved)
    assert (saved / "README.md").read_text() == "what we trained it on"
    assert names(saved) == sorted([*FILES, "notes.txt"])
    assert RSVHeat.from_pretrained(saved).num_classes == 5


@pytest.mark.parametrize("kind", ["str", "path"])
def test_mistyped_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = "runs/../endcoder/last" if kind == "str" else Path("endcoder")
    with pytest.raises(
        FileNotFoundError, match=r"no folder 'runs.*|no folder 'endcoder'"
    ) as caught:
        RSVHeat.from_pretrained(wrong)
    assert str(tmp_path) in str(caught.value)  # where it was looked for
    # What could be a repository is asked for; here only in an empty cache.
    with pytest.raises(
        FileNotFoundError, match=r"no folder 'runs/endcoder'.* gave no config\.json"
    ):
        RSVHeat.from_pretrained("runs/endcoder", cache_dir=tmp_path, local_files_only=True)


def spoil(folder: Path, what: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    if what == "no config":
        config.unlink()
    elif what == "no weights":
        weights.unlink()
    elif what == "truncated config":
        config.write_text(config.read_text()[:40])
    elif what == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "other library":
        config.write_text('{"model_type": "vit", "hidden_size": 768}')
    elif what == "list":
        config.write_text("[]")
    elif what == "newer version":
        changes = {"warp": 9, "rsvheat_version": "7.0"}
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    elif what == "wrong value":
        config.write_text(json.dumps({**json.loads(config.read_text()), "norm_position": "mid"}))
    elif what == "other widths":
        config.write_text(json.dumps({**json.loads(config.read_text()), "dims": [8, 32]}))
    elif what == "without classifier":
        state = safetensors.torch.load_file(weights)
        kept = {name: value for name, value in state.items() if not name.startswith("head.fc")}
        safetensors.torch.save_file(kept, weights)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "no config",
            r"saved is no folder of save_pretrained: it has no config\.json; it holds RE",
        ),
        ("no weights", r"saved is no folder of save_pretrained: it has no model\.safetensors"),
        ("truncated config", r"config\.json is damaged or not JSON"),
        ("truncated weights", r"model\.safetensors is truncated"),
        ("other library", r"config\.json is no configuration of an rsvheat .*model_type='vit'"),
        ("list", r"config\.json is no configuration of an rsvheat encoder"),
        ("newer version", r"config\.json has arguments .* not know: warp; it was saved by 7\.0"),
        ("wrong value", r"arguments in .*config\.json .*: norm_position must be one of"),
        ("other widths", r"model\.safetensors has other widths"),
        ("without classifier", r"model\.safetensors is incomplete: it lacks head\.fc"),
    ],
)
def test_unusable_folders(what: str, message: str, saved: Path) -> None:
    spoil(saved, what)
    with pytest.raises(CheckpointError, match=message):
        RSVHeat.from_pretrained(saved)


def test_wrong_calls(saved: Path) -> None:
    with pytest.raises(TypeError, match="arguments that RSVHeat has not: img_sze; it has depths"):
        RSVHeat.from_pretrained(saved, img_sze=64)
    with pytest.raises(CheckpointError, match=r"a file, not a folder .* rsvheat\.load_checkpoint"):
        RSVHeat.from_pretrained(saved / "model.safetensors")
    with pytest.raises(CheckpointError, match="and those given: img_size must be"):
        RSVHeat.from_pretrained(saved, img_size=0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The hub as a folder: what its API's methods would send stays here."""
    hub = SimpleNamespace(folder=tmp_path / "hub", commits=[], downloads=[])

    def create_repo(api: HfApi, repo_id: str, **kwargs: Any) -> SimpleNamespace:
        (hub.folder / repo_id).mkdir(parents=True, exist_ok=kwargs["exist_ok"])
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(api: HfApi, *, repo_id: str, folder_path: Path, **kwargs: Any) -> str:
        shutil.copytree(folder_path, hub.folder / repo_id, dirs_exist_ok=True)
        hub.commits.append({"repo_id": repo_id, "token": api.token, **kwargs})
        return f"https://hub/{repo_id}/commit/{len(hub.commits)}"

    def hf_hub_download(repo_id: str, filename: str, **kwargs: Any) -> str:
        hub.downloads.append((repo_id, filename, kwargs))
        if not (hub.folder / repo_id / filename).exists():
            raise FileNotFoundError(f"404: {repo_id} has no {filename}")
        return str(hub.folder / repo_id / filename)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return hub


def test_push_and_load(hub: SimpleNamespace) -> None:
    model = build()
    url = model.push_to_hub(
        "somebody/encoder", token="t", commit_message="first", private=True, branch="dev"
    )
    assert url == "https://hub/somebody/encoder/commit/1"
    (commit,) = hub.commits
    assert (commit["repo_id"], commit["token"]) == ("somebody/encoder", "t")
    assert (commit["commit_message"], commit["revision"]) == ("first", "dev")
    assert names(hub.folder / "somebody/encoder") == FILES

    card = ModelCard.load(hub.folder / "somebody/encoder/README.md")
    assert card.data.library_name == "rsvheat"
    assert {"pytorch_model_hub_mixin", "remote-sensing"} <= set(card.data.tags)
    assert 'from_pretrained("somebody/encoder")' in card.text

    loaded = RSVHeat.from_pretrained("somebody/encoder", revision="dev", token="t")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert [file for _, file, _ in hub.downloads] == ["config.json", "model.safetensors"]
    assert all(call["revision"] == "dev" and call["token"] == "t" for _, _, call in hub.downloads)

    with pytest.raises(
        FileNotFoundError, match=r"no folder 'somebody/other' .* hub gave no config"
    ):
        RSVHeat.from_pretrained("somebody/other")


def test_save_and_push(hub: SimpleNamespace, tmp_path: Path) -> None:
    url = build().save_pretrained(tmp_path / "mine", push_to_hub=True, commit_message="both")
    assert url == "https://hub/mine/commit/1"
    assert hub.commits[0]["commit_message"] == "both"
    assert names(tmp_path / "mine") == names(hub.folder / "mine") == FILES


def test_importing_rsvheat_imports_no_http_client() -> None:
    code = "import rsvheat, sys; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
