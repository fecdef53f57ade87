# SPDX-License-Identifier: Apache-2.0
import base64
import io
import re
from html.parser import HTMLParser

import pytest

from rsvheat._html import Page


class Content(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.depth = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.depth.append(tag)

    def handle_endtag(self, tag):
        assert self.depth.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def figure():
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(5, 2))
    figure.subplots().plot([1, 2])
    return figure


def test_page_is_one_file_without_scripts_or_network(tmp_path, figure):
    page = Page("A title")
    page.heading("A section")
    page.paragraph("What is seen.")
    page.figure(figure, "A line.")
    page.table(["name", "value"], [["a", 0.123456], ["b", 2.0]])
    page.save(tmp_path / "new" / "page.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    html = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    content = Content(html)
    assert content.depth == []
    assert "http" not in html
    assert not content.all("script")
    assert not content.all("link")
    assert re.sub(r"\s*<style>.*</style>", "", html, flags=re.S).count("A title") == 2
    for text in ("A section", "What is seen.", "A line.", "0.1235", "prefers-color-scheme: dark"):
        assert text in content.text
    (image,) = content.all("img")
    assert image["alt"] == "A line."
    assert image["width"] == "480"


def test_figures_are_the_pictures_given(figure):
    pytest.importorskip("PIL")
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.new("RGB", (7, 3), "red").save(file, "PNG")
    page = Page("Pictures")
    page.figure(file.getvalue())
    page.figure(figure, dpi=100)
    first, second = Content(page.html()).all("img")
    content = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    assert content == file.getvalue()
    assert "width" not in first
    drawn = base64.b64decode(second["src"].removeprefix("data:image/webp;base64,"))
    assert PIL.Image.open(io.BytesIO(drawn)).size == (500, 200)


def test_text_is_not_markup():
    page = Page("<b>a & b</b>")
    page.heading("<i>c</i>")
    page.paragraph('<script src="x"></script>')
    page.table(["<u>"], [['<img src="https://example.org">']])
    content = Content(page.html())
    assert [tag for tag, _ in content.tags if tag in ("b", "i", "u", "img", "script")] == []
    assert '<script src="x"></script>' in content.text


def test_numbers_are_aligned_to_the_right():
    page = Page("Numbers")
    page.table(["name", "value"], [["a", 1], ["b", 2.5]])
    page.table(["name", "value"], [["a", 1], ["b", "none"]])
    page.table([], [["model", "nano"]])
    page.table(["name", "value"], [])
    content = Content(page.html())
    assert [cell.get("class") for cell in content.all("th")] == [None, "number", *[None] * 4]
    assert [cell.get("class") for cell in content.all("td")] == [None, "number"] * 2 + [None] * 6


@pytest.mark.parametrize("figure", ["a.png", b"GIF89a", None])
def test_what_is_no_figure_is_refused(figure):
    page = Page("Wrong")
    with pytest.raises(ValueError, match="figure must be"):
        page.figure(figure)


def test_rows_must_fit_the_columns():
    page = Page("Wrong")
    with pytest.raises(ValueError, match=r"2 cells as the columns, got \['a'\]"):
        page.table(["name", "value"], [["a"]])
    with pytest.raises(ValueError, match="2 cells"):
        page.table([], [["a", "b"], ["a"]])


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    Page("old").save(path)
    page = Page("new")
    monkeypatch.setattr(page, "html", lambda: "\ud800")  # no UTF-8
    with pytest.raises(UnicodeEncodeError):
        page.save(path)
    assert "old" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
