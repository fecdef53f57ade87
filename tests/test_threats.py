# SPDX-License-Identifier: Apache-2.0
"""Files from a stranger do not run code; docs/threats.md promises it."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import small_encoder

import rsvheat
from rsvheat.checkpoint import Checkpoint, TrainedModel, load_encoder
from rsvheat.data import DataError, Normalizer, ShardSource
from rsvheat.data.spec import DataSpec
from rsvheat.models import CheckpointError
from rsvheat.models.classification import Classifier

# Relative to the working folder, which each test has for itself.
MARK = Path("code-has-run")


class Attack:
    """Creates a file when it is unpickled; a hash, so that it can also be a key."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (MARK,)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """Content of a whole checkpoint of schema 2, with what training adds."""
    network = Classifier(small_encoder(num_classes=2), 2)
    spec = DataSpec({"optical": 3}, "label", ("a", "b"), (32, 32))
    normalizer = Normalizer((0.0,) * 3, (1.0,) * 3, 5.0)
    TrainedModel(network, spec, {"optical": normalizer}).save(tmp_path / "whole.ckpt")
    content: dict[str, Any] = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    return {**content, "hyper_parameters": {"seed": 0}, "loops": {}, "global_step": 1}


def _top(content: dict[str, Any]) -> Any:
    return Attack()


def _entry(*keys: str) -> Callable[[dict[str, Any]], Any]:
    def put(content: dict[str, Any]) -> Any:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = Attack()
        return content

    return put


PLACES = {
    "all": _top,
    "another entry": _entry("extra"),
    "weights": _entry("state_dict", "network.extra"),
    "description": _entry("rsvheat"),
    "task": _entry("rsvheat", "task"),
    "network": _entry("rsvheat", "model", "options"),
    "normalizer": _entry("rsvheat", "normalizers", "optical"),
    "hyperparameters": _entry("hyper_parameters", "seed"),
    "loops": _entry("loops", "fit_loop"),
}


def _resume(path: Path) -> None:
    from rsvheat.training import Run

    Run(path.parent / "run", resume=path)


READERS: dict[str, Callable[[Path], Any]] = {
    "load": lambda path: rsvheat.load(path),
    "description": Checkpoint.read,
    "encoder": load_encoder,
    "weights": lambda path: rsvheat.load_checkpoint(small_encoder(num_classes=2), path),
    "resume": _resume,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_in_checkpoints_do_not_run(
    content: dict[str, Any], tmp_path: Path, place: str, reader: str, zipped: bool
) -> None:
    if reader == "resume":
        pytest.importorskip("lightning")
    path = tmp_path / "a.ckpt"
    torch.save(PLACES[place](content), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as error:
        READERS[reader](path)
    assert "a.ckpt" in str(error.value)
    assert "weights_only=False" not in str(error.value)
    assert not MARK.exists()


def test_the_attack_works_on_a_reader_that_trusts_files(tmp_path: Path) -> None:
    """Or the tests above could not fail."""
    torch.save({"model": Attack()}, tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert MARK.exists()


@pytest.mark.parametrize("task", ["os", "rsvheat.cli", "../cli", "subprocess", "__init__", ""])
def test_descriptions_name_tasks_and_not_modules(
    content: dict[str, Any], tmp_path: Path, task: str
) -> None:
    content["rsvheat"]["task"] = task
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="that is unknown here"):
        rsvheat.load(tmp_path / "a.ckpt")


def test_safetensors_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError):
        rsvheat.load_checkpoint(small_encoder(), tmp_path / "a.safetensors")
    assert not MARK.exists()


def test_a_zip_with_paths_writes_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as file:
        file.writestr("../code-has-run", b"x")
        file.writestr("a/data.pkl", pickle.dumps(Attack()))
    before = sorted(os.listdir(tmp_path.parent))
    with pytest.raises(CheckpointError):
        rsvheat.load(tmp_path / "a.ckpt")
    assert sorted(os.listdir(tmp_path.parent)) == before
    assert not MARK.exists()


def test_shards_are_not_extracted_and_their_pickles_do_not_run(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000000.tar", "w") as tar:
        for name in ("../../outside.optical.png", "a.optical.pkl", "a.optical.pyd", "/abs.png"):
            data = pickle.dumps(Attack())
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.optical.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = [sorted(path.iterdir()) for path in (tmp_path, tmp_path.parent, tmp_path.parents[1])]
    source = ShardSource(tmp_path)
    with suppress(DataError):  # whatever it makes of such members
        source.scan()
        for index in range(len(source)):
            for modality in source.present(index):
                with suppress(DataError), source.open(index, modality) as reader:
                    reader.read()
    after = [sorted(path.iterdir()) for path in (tmp_path, tmp_path.parent, tmp_path.parents[1])]
    assert [len(paths) for paths in after] == [len(paths) for paths in before]
    assert not MARK.exists()


def test_python_in_virtual_rasters_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio")
    from rsvheat.data import read_image

    monkeypatch.delenv("GDAL_VRT_ENABLE_PYTHON", raising=False)
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8">'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>run</PixelFunctionType>"
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        "<PixelFunctionCode><![CDATA[\nimport pathlib\n"
        f"pathlib.Path({str(MARK)!r}).touch()\n"
        "def run(*args, **kwargs):\n    pass\n]]></PixelFunctionCode>"
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match=r"a\.vrt"):
        read_image(tmp_path / "a.vrt")
    assert not MARK.exists()


def test_recipes_have_no_python_tags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Classes are what recipes may name, and those run code; YAML itself does not."""
    pytest.importorskip("jsonargparse")
    pytest.importorskip("lightning")
    from rsvheat import cli

    (tmp_path / "a.yaml").write_text(
        f"output: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path "
        f"[{MARK}]]\n"
    )
    assert cli.main(["finetune", "--config", str(tmp_path / "a.yaml")]) == 2
    assert "python" in capsys.readouterr().err
    assert not MARK.exists()
