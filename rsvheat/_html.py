# SPDX-License-Identifier: Apache-2.0
"""Pages of text, figures and tables in one HTML file that opens anywhere."""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from rsvheat._files import complete_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A fifth of PNG's size where there are photographs, without visible loss at lines and text.
_WEBP = {"quality": 90, "method": 4, "use_sharp_yuv": True}
_PNG = b"\x89PNG\r\n\x1a\n"

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --soft: #9da7b1; --line: #3d444d; --page: #0d1117; } }
body { margin: 2rem auto 4rem; max-width: 70rem; padding: 0 1.2rem; color: var(--text);
  background: var(--page); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { margin-top: 2.6rem; padding-bottom: .25rem; font-size: 1.25rem;
  border-bottom: 1px solid var(--line); }
p { max-width: 48rem; }
figure { margin: 1.4rem 0; }
figure img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption { max-width: 48rem; color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
.number { text-align: right; }
"""


class Page:
    """A page, written from top to bottom.

    Everything is inside the one file: pictures as data URIs, no scripts, nothing from the network.
    Colors follow the reader's light or dark setting. Text is escaped: HTML in
    it is shown as written.

    Args:
        title: Title of the page, and its first heading.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begin a section.

        Args:
            text: Heading of the section.
        """
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph.

        Args:
            text: Text of the paragraph.
        """
        self._parts.append(f"<p>{escape(text)}</p>")

    def figure(self, figure: "Figure | bytes", caption: str = "", dpi: float = 120) -> None:
        """Add a figure.

        Args:
            figure: Matplotlib figure, shown at its own width (an inch is 96 CSS pixels), or the
                content of a PNG file, shown at its size in pixels. Either shrinks with the page.
            caption: Text below the figure, and its alternative text for screen readers.
            dpi: Pixels per inch at which a Matplotlib figure is drawn.

        Raises:
            ValueError: If ``figure`` is neither of these.
        """
        if isinstance(figure, bytes):
            if not figure.startswith(_PNG):
                raise ValueError(f"figure must be the content of a PNG file, got {figure[:8]!r}...")
            content, kind, width = figure, "png", ""
        elif hasattr(figure, "savefig"):
            file = io.BytesIO()
            figure.savefig(file, format="webp", dpi=dpi, pil_kwargs=_WEBP)
            content, kind = file.getvalue(), "webp"
            width = f' width="{round(96 * figure.get_figwidth())}"'
        else:
            raise ValueError(f"figure must be a Matplotlib figure or bytes, got {type(figure)}")
        source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(
            f'<figure><img src="{source}" alt="{escape(caption)}"{width}>{below}</figure>'
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; columns of numbers are aligned to the right.

        Args:
            columns: Headings of the columns; an empty list leaves the line of headings out.
            rows: Cells by row. Floating-point numbers are shown with four significant digits;
                pass text for another format.

        Raises:
            ValueError: If a row has more or fewer cells than there are columns.
        """
        count = len(columns) or len(rows[0]) if rows else len(columns)
        for row in rows:
            if len(row) != count:
                raise ValueError(f"rows must have {count} cells as the columns, got {list(row)}")
        numbers = [
            all(isinstance(row[i], int | float) for row in rows) and bool(rows)
            for i in range(count)
        ]
        lines = [_row("th", list(columns), numbers)] if any(columns) else []
        lines += [_row("td", row, numbers) for row in rows]
        self._parts.append(f'<div class="wide"><table>{"".join(lines)}</table></div>')

    def html(self) -> str:
        """Return the page."""
        title = escape(self.title)
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                '<head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{title}</title>",
                f"<style>{_STYLE}</style></head>",
                f"<body><h1>{title}</h1>",
                *self._parts,
                "</body></html>\n",
            ]
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page; the file is there whole or not at all.

        Args:
            path: Path of the file; its folder is created if it does not exist.
        """
        with complete_file(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def _row(tag: str, cells: Sequence[object], numbers: Sequence[bool]) -> str:
    parts = []
    for cell, number in zip(cells, numbers, strict=True):
        text = f"{cell:.4g}" if isinstance(cell, float) else str(cell)
        kind = ' class="number"' if number else ""
        parts.append(f"<{tag}{kind}>{escape(text)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"
