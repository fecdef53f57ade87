# SPDX-License-Identifier: Apache-2.0
"""Steps of `make docs` after MkDocs made a page's HTML: formulas, and links of names in code."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# Names that are resolved when they are used, which the static analysis does not see.
_HOMES = {"rsvheat.load": "rsvheat.checkpoint.TrainedModel.load"}


def _formula(match: re.Match[str]) -> str:
    """Return the MathML of a formula, which browsers draw without JavaScript."""
    display = "inline" if match["tag"] == "span" else "block"
    return convert(html.unescape(match["tex"]).strip(), display=display)


def _link(match: re.Match[str]) -> str:
    """Return a reference that autorefs makes a link, if the API reference has the name."""
    name = match["name"]
    if name is None:  # a link, a reference or a heading
        return match[0]
    return f'<autoref identifier="{_HOMES.get(name, name)}" optional>{match[0]}</autoref>'


def on_page_content(page_html: str, **_: Any) -> str:
    """Convert formulas to MathML and names such as `rsvheat.ops.dct2d` to links."""
    page_html = re.sub(
        r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>',
        _formula,
        page_html,
        flags=re.DOTALL,
    )
    return re.sub(
        r"<(?P<outer>a|autoref|h\d)\b[^>]*>.*?</(?P=outer)>"
        r"|<code>(?P<name>rsvheat(?:\.\w+)+)</code>",
        _link,
        page_html,
        flags=re.DOTALL,
    )
