# SPDX-License-Identifier: Apache-2.0
"""A page that shows a prediction over its scene, in one file that opens without a network."""

import base64
import io
import json
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from rsvheat._colors import class_colors
from rsvheat._files import complete_file
from rsvheat.raster.box_files import BoxesResult
from rsvheat.raster.change import DATES
from rsvheat.raster.map_files import MapResult
from rsvheat.raster.maps import opened_map, read_legend, scene_picture, shrunk

# Largest side in pixels of what is shown.
_SIDE = 1600

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --page: #ffffff; --bar: #4b7bb5; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9da7b1; --line: #3d444d;
  --page: #0d1117; --bar: #6ea0d8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem 1.2rem 3rem; color: var(--text);
  background: var(--page); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: .4rem 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
main { display: grid; gap: 1.4rem; grid-template-columns: minmax(0, 1fr) 21rem; }
@media (max-width: 60rem) { main { grid-template-columns: minmax(0, 1fr); } }
#view { position: relative; overflow: hidden; height: min(75vh, 60rem); border-radius: 6px;
  background: #8884; cursor: grab; touch-action: none; }
#view:active { cursor: grabbing; }
#stack { position: absolute; left: 0; top: 0; transform-origin: 0 0; }
#stack > * { position: absolute; left: 0; top: 0; width: 100%; height: 100%; }
#map { image-rendering: pixelated; }
#boxes path { fill: none; stroke-width: calc(2px / var(--scale));
  vector-effect: non-scaling-stroke; }
#controls { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; margin-top: .6rem; }
#controls label { display: flex; gap: .5rem; align-items: center; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .5rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; }
i { display: inline-block; width: .9rem; height: .9rem; border-radius: 3px; margin-right: .5rem;
  vertical-align: -.1rem; }
svg.histogram { width: 100%; height: 7rem; }
svg.histogram rect { fill: var(--bar); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; font-size: .85rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

# Zoom by the wheel, pan by dragging, sliders for opacity and for the border between two dates.
_SCRIPT = """
const view = document.getElementById("view"), stack = document.getElementById("stack");
const size = [WIDTH, HEIGHT];
let scale = 1, x = 0, y = 0, from = null;
function place() {
  stack.style.width = size[0] + "px"; stack.style.height = size[1] + "px";
  stack.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  stack.style.setProperty("--scale", scale);
}
function whole() {
  scale = Math.min(view.clientWidth / size[0], view.clientHeight / size[1]);
  x = (view.clientWidth - scale * size[0]) / 2; y = (view.clientHeight - scale * size[1]) / 2;
  place();
}
view.addEventListener("wheel", event => {
  event.preventDefault();
  const box = view.getBoundingClientRect();
  const a = event.clientX - box.left, b = event.clientY - box.top;
  const factor = Math.min(Math.max(scale * Math.exp(-event.deltaY / 400), .02), 64) / scale;
  x = a - (a - x) * factor; y = b - (b - y) * factor; scale *= factor; place();
}, { passive: false });
view.addEventListener("pointerdown", event => {
  from = [event.clientX - x, event.clientY - y]; view.setPointerCapture(event.pointerId);
});
view.addEventListener("pointermove", event => {
  if (from) { x = event.clientX - from[0]; y = event.clientY - from[1]; place(); }
});
view.addEventListener("pointerup", () => { from = null; });
view.addEventListener("dblclick", whole);
addEventListener("resize", whole);
function slider(name, change) {
  const input = document.getElementById(name);
  if (input) { input.addEventListener("input", () => change(input.value)); change(input.value); }
}
slider("opacity", value => {
  for (const layer of document.querySelectorAll(".over")) layer.style.opacity = value / 100;
});
slider("date", value => {
  document.getElementById("second").style.clipPath = `inset(0 0 0 ${value}%)`;
});
whole();
"""


def write_report(
    path: str | os.PathLike[str],
    result: MapResult | BoxesResult,
    sources: Mapping[str, str | os.PathLike[str]],
    tags: Mapping[str, str],
    colors: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> None:
    """Write a page with the map or the boxes over the scene.

    It can be zoomed and moved; a slider changes the opacity of the prediction and, for change,
    another one shows the first date or the second. Beside it are the classes with their areas or
    numbers, the distribution of confidence, and what the prediction was made from.

    Args:
        path: Path of the page.
        result: Summary of the map or of the boxes.
        sources: Path of the raster by modality.
        tags: Provenance.
        colors: Colors of the boxes' classes, as for ``rsvheat.raster.class_colors``.

    Raises:
        DataError: If a raster cannot be read.
        OSError: If the page cannot be written.
    """
    bands = json.loads(tags["RSVHEAT_BANDS"])
    resampled = json.loads(tags.get("RSVHEAT_RESAMPLED", "{}"))
    grid = next(iter(sources.values()))
    pictures = {}
    for name, source in sources.items():
        chosen = bands[name] if isinstance(bands, dict) else bands
        like = grid if name in resampled else None
        pictures[name], full = scene_picture(source, tuple(chosen), _SIDE, like)
    first, *others = pictures.values()
    layers = [_image("first", first, "webp")]
    controls = [_slider("opacity", "opacity of the prediction", 60)]
    if set(sources) == set(DATES):
        layers.append(_image("second", others[0], "webp"))
        controls.append(_slider("date", "before | after", 50))
    if isinstance(result, MapResult):
        legend = read_legend(result.path)[1]
        stride = int(result.tags["RSVHEAT_STRIDE"])
        # The map's last row and column may stick out of the scene.
        part = result.columns * stride / full[1], result.rows * stride / full[0]
        layers.append(_image("map", _overlay(result, legend), "png", part))
    else:
        legend = class_colors(result.classes, colors)
        layers.append(_outlines(result, full, legend))
    shown = shrunk(full, _SIDE)
    title = escape(f"{Path(result.path).name}: {result.task}")
    script = _SCRIPT.replace("WIDTH", str(shown[1])).replace("HEIGHT", str(shown[0]))
    page = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head>",
        f"<body><h1>{title}</h1><main><div>",
        f'<div id="view"><div id="stack">{"".join(layers)}</div></div>',
        f'<div id="controls">{"".join(controls)}',
        "<label>wheel: zoom, drag: move, double click: all of it</label></div></div><div>",
        _classes(result, legend),
        _histogram(result.confidence),
        _about(tags, full),
        f"</div></main><script>{script}</script></body></html>\n",
    ]
    with complete_file(path) as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")


def _image(
    name: str, pixels: NDArray[np.uint8], form: str, part: tuple[float, float] | None = None
) -> str:
    """Return a picture, or one over it that has a part of its width and height."""
    from PIL import Image

    file = io.BytesIO()
    options = {"quality": 88} if form == "webp" else {"optimize": True}
    Image.fromarray(pixels).save(file, form, **options)
    content = base64.b64encode(file.getvalue()).decode()
    kind = ""
    if part is not None:
        kind = f' class="over" style="width:{100 * part[0]:.4f}%;height:{100 * part[1]:.4f}%"'
    return f'<img id="{name}"{kind} alt="{name}" src="data:image/{form};base64,{content}">'


def _overlay(result: MapResult, colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a map as red, green, blue and opacity."""
    with opened_map(result.path) as file:
        shape = shrunk(file.shape, _SIDE)
        labels = file.read(1, out_shape=shape, resampling=Resampling.mode)
        filled = labels != int(file.nodata)
    pixels = np.zeros((*labels.shape, 4), np.uint8)
    pixels[filled, :3], pixels[filled, 3] = colors[labels[filled]], 255
    return pixels


def _outlines(result: BoxesResult, full: tuple[int, int], colors: NDArray[np.uint8]) -> str:
    """Return boxes as a drawing in pixels of the scene, one path for each class."""
    paths = []
    for number, color in enumerate(colors.tolist()):
        corners = result.corners[result.labels == number].round(1)
        steps = "".join(f"M{'L'.join(f'{x:g} {y:g}' for x, y in box)}Z" for box in corners.tolist())
        if steps:
            paths.append(f'<path stroke="#{bytes(color).hex()}" d="{steps}"/>')
    return (
        f'<svg id="boxes" class="over" viewBox="0 0 {full[1]} {full[0]}" '
        f'preserveAspectRatio="none">{"".join(paths)}</svg>'
    )


def _slider(name: str, text: str, value: int) -> str:
    return (
        f'<label>{escape(text)} <input type="range" id="{name}" min="0" max="100" '
        f'value="{value}"></label>'
    )


def _classes(result: MapResult | BoxesResult, colors: NDArray[np.uint8]) -> str:
    total = max(1, sum(result.counts))
    areas = result.square_km if isinstance(result, MapResult) else None
    heads = ["share"] if isinstance(result, MapResult) else ["boxes"]
    heads += [] if areas is None else ["km<sup>2</sup>"]
    numbers = "".join(f'<th class="number">{head}</th>' for head in heads)
    rows = [f"<tr><th>class</th>{numbers}</tr>"]
    for i in np.argsort(result.counts, kind="stable")[::-1]:
        if not result.counts[i]:
            continue
        share = result.counts[i] / total
        cells = [f"{share:.1%}" if isinstance(result, MapResult) else f"{result.counts[i]:,}"]
        cells += [] if areas is None else [f"{areas[i]:,.3f}"]
        color = f'<i style="background:#{bytes(colors[i].tolist()).hex()}"></i>'
        values = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        rows.append(f"<tr><td>{color}{escape(result.classes[i])}</td>{values}</tr>")
    note = ""
    if isinstance(result, BoxesResult) and len(result.corners) < sum(result.counts):
        note = f"<p>The picture shows {len(result.corners):,} of them.</p>"
    return f"<h2>Classes</h2><table>{''.join(rows)}</table>{note}"


def _histogram(counts: tuple[int, ...]) -> str:
    """Return bars of how often each confidence from 0 to 1 occurs."""
    most, number = max(1, *counts), len(counts)
    bars = "".join(
        f'<rect x="{i + 0.06}" y="{1 - count / most:.4f}" width=".88" height="{count / most:.4f}">'
        f"<title>{i / number:.2f} to {(i + 1) / number:.2f}: {count:,}</title></rect>"
        for i, count in enumerate(counts)
    )
    return (
        "<h2>Confidence, from 0 to 1</h2>"
        f'<svg class="histogram" viewBox="0 0 {number} 1" preserveAspectRatio="none">{bars}</svg>'
    )


def _about(tags: Mapping[str, str], full: tuple[int, int]) -> str:
    about: dict[str, Any] = {"pixels of the scene": f"{full[0]:,} x {full[1]:,}"}
    about |= {
        name.removeprefix("RSVHEAT_").removeprefix("TIFFTAG_").lower(): text
        for name, text in tags.items()
        if name != "RSVHEAT_CLASSES"
    }
    rows = "".join(f"<dt>{escape(a)}</dt><dd>{escape(str(b))}</dd>" for a, b in about.items())
    return f"<h2>Made from</h2><dl>{rows}</dl>"
