# SPDX-License-Identifier: Apache-2.0
"""The page of a prediction, loaded by headless Chromium without a network."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("shapely")
import PIL.Image
from rasterio.transform import Affine
from stand_ins import Boxes, Differences, trained

from rsvheat.raster import predict
from rsvheat.raster.beside import Beside

UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500000, 0, -10, 5000000)}
GREEN, BLUE = (0, 160, 0), (0, 0, 255)

# Reads what a visitor would see after each input, and leaves it in the page.
PROBE = """
<script>
const problems = [];
addEventListener("error", event => problems.push(String(event.message || event.target.src)), true);
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
for (const name of ["error", "warn"]) console[name] = (...words) => problems.push(words.join(" "));
function set(name, value) {
  const input = document.getElementById(name);
  input.value = value; input.dispatchEvent(new Event("input"));
}
addEventListener("load", () => {
  const seen = {}, view = document.getElementById("view"), stack = document.getElementById("stack");
  const over = document.querySelector(".over"), style = element => getComputedStyle(element);
  const place = () => stack.getBoundingClientRect();
  seen.opacity = [0, 25, 100].map(value => { set("opacity", value); return style(over).opacity; });
  if (document.getElementById("date")) seen.clip = [0, 30].map(value => {
    set("date", value); return style(document.getElementById("second")).clipPath; });
  const whole = place(), frame = view.getBoundingClientRect();
  seen.fits = whole.width <= frame.width + 1 && whole.height <= frame.height + 1
    && (Math.abs(whole.width - frame.width) < 1 || Math.abs(whole.height - frame.height) < 1);
  const at = { clientX: frame.left + 40, clientY: frame.top + 30 };
  view.dispatchEvent(new WheelEvent("wheel", { deltaY: -400, cancelable: true, ...at }));
  const near = place();
  seen.zoom = near.width / whole.width;
  seen.fixed = [near.left - at.clientX, (whole.left - at.clientX) * near.width / whole.width];
  for (const [kind, x] of [["pointerdown", 50], ["pointermove", 90], ["pointerup", 90]])
    view.dispatchEvent(new PointerEvent(kind, { clientX: x, clientY: 50, pointerId: 1 }));
  seen.moved = place().left - near.left;
  view.dispatchEvent(new MouseEvent("dblclick"));
  seen.back = Math.abs(place().width - whole.width) < 1;
  seen.pictures = [...document.images].map(image => [image.id, image.naturalWidth]);
  seen.loaded = performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 5));
  SETTINGS
  seen.problems = problems;
  document.title = JSON.stringify(seen);
});
</script>
"""


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("there is no Chromium")
    return found


@pytest.fixture
def load(chromium, tmp_path):
    """Load a page and return what the probe saw, and a picture of the page."""

    def call(page, settings=""):
        html = page.read_text()
        probe = PROBE.replace("SETTINGS", settings)
        # The first thing of the page, so that no error is missed.
        probed = tmp_path / "probed.html"
        probed.write_text(html.replace("<head>", f"<head>{probe}", 1))
        picture = tmp_path / "page.png"
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1300,900"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
        command += ["--virtual-time-budget=3000", f"--screenshot={picture}", "--dump-dom"]
        done = subprocess.run(
            [*command, probed.as_uri()], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr
        title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
        assert title, done.stdout[:500]
        seen = json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        return seen, np.asarray(PIL.Image.open(picture).convert("RGB")).astype(int)

    return call


def near(picture, color, tolerance=12):
    """Return where a picture has a color."""
    return np.abs(picture - np.array(color)).max(2) <= tolerance


@pytest.fixture
def dates(write_scene, tmp_path):
    """A gray scene, and a brighter one of whose left half nothing changed."""
    before = np.full((3, 60, 100), 100, np.uint8)
    after = before.copy()
    after[:, :, 50:] = 240
    paths = {}
    for name, values in (("before", before), ("after", after)):
        paths[name] = write_scene(values, f"{name}.tif", **UTM)
    return paths


def test_the_page_of_change_works_offline(load, dates, tmp_path):
    model = trained(Differences, classes=("same", "changed"), names={"before": 3, "after": 3})
    colors = {"same": "#0000ff", "changed": "#00a000"}
    result = predict(dates, tmp_path / "map.tif", model, colors=colors)
    (page,) = Beside(report=True).write(result, dates, colors)
    seen, picture = load(page, 'set("opacity", 100);')
    assert seen["problems"] == []
    assert set(seen["loaded"]) <= {"data:"}
    assert seen["pictures"] == [["first", 100], ["second", 100], ["map", 100]]
    assert seen["opacity"] == ["0", "0.25", "1"]
    assert [re.findall(r"[\d.]+(?=%)", text) for text in seen["clip"]] in (
        [["0"], ["30"]], [[], ["30"]],
    )  # fmt: skip
    assert seen["fits"]
    assert seen["back"]
    assert seen["zoom"] == pytest.approx(np.e, rel=1e-3)
    # The point under the wheel stays where it is.
    assert seen["fixed"][0] == pytest.approx(seen["fixed"][1], abs=1)
    assert seen["moved"] == pytest.approx(40, abs=1)
    # The map over the scene: two halves of equal size, the changed one on the right.
    blue, green = near(picture, BLUE), near(picture, GREEN)
    assert blue.sum() > 100_000
    assert green.sum() == pytest.approx(blue.sum(), rel=0.05)
    assert np.nonzero(blue)[1].mean() < np.nonzero(green)[1].mean() - 200

    # Without the map the slider divides the second date from the first.
    seen, picture = load(page, 'set("opacity", 0); set("date", 75);')
    assert seen["problems"] == []
    gray, bright = near(picture, (100,) * 3), near(picture, (240,) * 3)
    assert near(picture, BLUE).sum() < 1000
    assert gray.sum() == pytest.approx(3 * bright.sum(), rel=0.05)


def test_the_page_of_boxes_works_offline(load, write_scene, tmp_path):
    values = np.full((3, 60, 80), 20, np.uint8)
    values[:, 20:40, 40:60] = 250
    scene = write_scene(values, **UTM)
    colors = {"a": "#00a000", "b": "#0000ff"}
    model = trained(Boxes, classes=("a", "b"), size=128)
    result = predict(scene, tmp_path / "a.geojson", model)
    (page,) = Beside(report=True).write(result, {"optical": scene}, colors)
    seen, picture = load(page, 'set("opacity", 100);')
    assert seen["problems"] == []
    assert seen["fits"]
    assert seen["opacity"] == ["0", "0.25", "1"]
    # The outline lies on the border of the bright square.
    lines = np.argwhere(near(picture, BLUE, 60) & (np.arange(1300) < 900))
    (top, left), (bottom, right) = lines.min(0), lines.max(0)
    assert bottom - top == pytest.approx(right - left, abs=4)
    assert bottom - top > 100
    # Lines are 2 pixels wide, however much the scene is magnified.
    assert len(lines) < 3 * 4 * (bottom - top)
    margin = 12  # the picture is smooth at borders
    inside = picture[top + margin : bottom - margin, left + margin : right - margin]
    assert near(inside, (250,) * 3, 6).mean() > 0.99
    for rows in (
        slice(top - 2 * margin, top - margin),
        slice(bottom + margin, bottom + 2 * margin),
    ):
        assert near(picture[rows, left:right], (20,) * 3, 10).mean() > 0.99
