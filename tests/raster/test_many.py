# SPDX-License-Identifier: Apache-2.0
"""Lists of scenes, and their prediction."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("rasterio")
import rasterio
from stand_ins import Differences, Pixels, trained

from rsvheat.cli import main
from rsvheat.data import DataError
from rsvheat.raster.work_list import is_single, shard, work_list


@pytest.fixture
def scenes(write_scene, tmp_path):
    """A folder of five scenes, of which one is broken and one in a subfolder."""
    folder = tmp_path / "scenes"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "sub/a"):
        written = write_scene(rng.integers(1, 255, (3, 40, 50), np.uint8))
        shutil.move(written, folder / f"{name}.tif")
    (folder / "broken.tif").write_bytes(b"II*\0 nothing")
    (folder / "notes.md").write_text("no scene")
    return folder


def names(found):
    return [scene.name for scene in found]


def test_a_folder_is_searched_with_its_subfolders(scenes):
    found = work_list([scenes])
    assert names(found) == ["a", "b", "broken", "c", "sub/a"]
    assert found[4].files == {"optical": str(scenes / "sub/a.tif")}
    assert not is_single([scenes])


def test_wildcards_and_lists_and_single_files(scenes, tmp_path, monkeypatch):
    assert names(work_list([str(scenes / "?.tif")])) == ["a", "b", "c"]
    assert names(work_list([scenes / "b.tif", scenes / "a.tif"])) == ["b", "a"]
    assert is_single([scenes / "a.tif"])
    (scenes / "list.txt").write_text(f"# mine\na.tif\n\n{scenes}/c.tif\n/vsizip/x.zip/y.tif\n")
    monkeypatch.chdir(tmp_path)
    found = work_list([scenes / "list.txt"])
    assert [scene.files["optical"] for scene in found] == [
        str(scenes / "a.tif"), str(scenes / "c.tif"), "/vsizip/x.zip/y.tif",
    ]  # fmt: skip
    # A file whose name looks like a pattern is that file.
    shutil.copy(scenes / "a.tif", tmp_path / "s[1].tif")
    assert is_single([tmp_path / "s[1].tif"])
    assert names(work_list([tmp_path / "s[1].tif"])) == ["s[1]"]


def test_stac_items_are_scenes(scenes):
    pystac = pytest.importorskip("pystac")
    items = []
    for name in ("a", "b"):
        item = pystac.Item(f"item/{name}", None, None, _now(), {})
        item.add_asset("visual", pystac.Asset(f"{name}.tif"))
        item.add_asset("thumbnail", pystac.Asset("small.png"))
        items.append(item)
    collection = pystac.ItemCollection(items)
    collection.save_object(str(scenes / "items.json"))
    found = work_list([scenes / "items.json"], assets={"optical": "visual"})
    assert names(found) == ["item_a", "item_b"]
    assert found[0].files == {"optical": str(scenes / "a.tif")}
    with pytest.raises(DataError, match=r"item/a has no asset optical; it has visual, thumbnail"):
        work_list([scenes / "items.json"])
    (scenes / "other.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"other\.json is no STAC item"):
        work_list([scenes / "other.json"])


def _now():
    import datetime

    return datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def test_scenes_of_several_rasters_are_joined_by_name(scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "later")
    found = work_list([scenes], {"after": tmp_path / "later"}, first="before")
    assert found[0].files == {
        "before": str(scenes / "a.tif"),
        "after": str(tmp_path / "later/a.tif"),
    }
    (tmp_path / "later/c.tif").unlink()
    with pytest.raises(
        DataError, match=r"later has no raster c, which .*c\.tif needs as its after"
    ):
        work_list([scenes], {"after": tmp_path / "later"}, first="before")


def test_what_is_missing_or_twice_is_told(scenes, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        work_list([tmp_path / "absent.txt"])
    with pytest.raises(FileNotFoundError, match="has no rasters"):
        work_list([str(scenes / "x*.tif")])
    with pytest.raises(DataError, match=r"a\.tif and .*sub/a\.tif would both be a among"):
        work_list([scenes / "a.tif", scenes / "sub/a.tif"])
    shutil.copy(scenes / "a.tif", scenes / "a.img")
    with pytest.raises(DataError, match="have one name"):
        work_list([scenes])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_the_list_once(scenes, count):
    found = work_list([scenes])
    parts = [shard(found, number, count) for number in range(1, count + 1)]
    assert sorted(name for part in parts for name in names(part)) == sorted(names(found))
    for wrong in (0, count + 1):
        with pytest.raises(ValueError, match="shard must be within"):
            shard(found, wrong, count)


def predicted(scenes, tmp_path, *words):
    model = tmp_path / "model.ckpt"
    if not model.exists():
        trained(Pixels).save(model)
    words = [str(scenes), "--checkpoint", str(model), "--output", str(tmp_path / "out"), *words]
    return main(["predict", *words])


def test_a_broken_scene_does_not_keep_the_others(scenes, tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    assert predicted(scenes, tmp_path) == 1
    out = tmp_path / "out"
    maps = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.tif"))
    assert maps == ["a.tif", "b.tif", "c.tif", "sub/a.tif"]
    printed = capsys.readouterr().out
    assert "5 scenes: 4 predicted, 0 there before, 1 failed" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert [summary[status] for status in ("done", "skipped", "failed")] == [4, 0, 1]
    (failed,) = [scene for scene in summary["scenes"] if scene["status"] == "failed"]
    assert failed["name"] == "broken"
    assert "broken.tif" in failed["error"]
    # The same bytes as alone.
    alone = tmp_path / "alone.tif"
    assert predicted(scenes / "a.tif", tmp_path, "--output", str(alone)) == 0
    with rasterio.open(alone) as one, rasterio.open(out / "a.tif") as other:
        assert np.array_equal(one.read(), other.read())

    assert predicted(scenes, tmp_path) == 1
    assert "--resume keeps them" in capsys.readouterr().err
    (out / "b.tif").unlink()
    kept = (out / "a.tif").stat().st_mtime_ns
    assert predicted(scenes, tmp_path, "--resume") == 1
    assert "1 predicted, 3 there before, 1 failed" in capsys.readouterr().out
    assert (out / "a.tif").stat().st_mtime_ns == kept


def test_shards_of_jobs_are_the_whole(scenes, tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    (scenes / "broken.tif").unlink()
    for number in (1, 2):
        assert predicted(scenes, tmp_path, "--shard", f"{number}/2") == 0
    out = tmp_path / "out"
    assert len(list(out.rglob("*.tif"))) == 4
    done = [json.loads((out / f"summary-{n}-of-2.json").read_text())["done"] for n in (1, 2)]
    assert done == [2, 2]
    assert predicted(scenes, tmp_path, "--shard", "half") == 2
    assert "such as 2/8" in capsys.readouterr().err


def test_wrong_options_stop_at_once(scenes, tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    assert predicted(scenes, tmp_path, "--stride", "4") == 1
    assert "stride has no meaning" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert predicted(scenes / "a.tif", tmp_path, "--shard", "1/2") == 2
    assert "is of many scenes" in capsys.readouterr().err


def test_change_of_two_folders(scenes, tmp_path):
    pytest.importorskip("jsonargparse")
    (scenes / "broken.tif").unlink()
    shutil.copytree(scenes, tmp_path / "later")
    modalities = {"before": 3, "after": 3}
    trained(Differences, modalities={"optical": 3}, names=modalities).save(tmp_path / "model.ckpt")
    assert predicted(scenes, tmp_path, "--also.after", str(tmp_path / "later")) == 0
    with rasterio.open(tmp_path / "out/sub/a.tif") as file:
        assert (file.read() == 0).all()
