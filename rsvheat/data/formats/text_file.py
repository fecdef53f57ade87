# SPDX-License-Identifier: Apache-2.0
"""Text and XML files of annotations, in whatever encoding they are."""

import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

from rsvheat.data.image_reader import reason_of
from rsvheat.data.skip_report import SampleError

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml.*?\?>", re.DOTALL)
# Files that say gb2312 hold characters of its extensions.
_CHINESE = "gb18030"


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8-sig") -> str:
    """Return the content of a text file.

    Args:
        path: Path of the file.
        encoding: Encoding to try first; then that of China, of which ASCII is a part.

    Raises:
        SampleError: If the file cannot be read or has another encoding.
    """
    content = _read(path)
    try:
        for name in (encoding, _CHINESE):
            try:
                return content.decode(name)
            except UnicodeDecodeError:
                continue
    except LookupError:
        pass
    raise SampleError("damaged", f"{path} is neither {encoding} nor {_CHINESE}")


def read_xml(path: str | os.PathLike[str]) -> ET.Element:
    """Return the root of an XML file, also of the encodings gb2312 and gbk.

    Args:
        path: Path of the file.

    Raises:
        SampleError: If the file cannot be read, is not well-formed, or declares a document type,
            by which entities could grow without bound.
    """
    declared = _DECLARED.match(_read(path)[:200])
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8-sig"
    if encoding in ("gb2312", "gbk"):
        encoding = _CHINESE
    text = _DECLARATION.sub("", read_text(path, encoding).lstrip("\ufeff"), count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SampleError("damaged", f"{path} declares a document type, which is not read")
    try:
        return ET.fromstring(text.strip())
    except ET.ParseError as error:
        raise SampleError("damaged", f"{path} is not XML: {error}") from None


def child_text(element: ET.Element, name: str, path: str | os.PathLike[str]) -> str:
    """Return the text of an element's child.

    Args:
        element: Element.
        name: Name of the child, or a path of names.
        path: Path of the file, for errors.

    Raises:
        SampleError: If there is no such child, or it is empty.
    """
    text = (element.findtext(name) or "").strip()
    if not text:
        raise SampleError("label", f"{path}: {element.tag} has no {name}")
    return text


def numbers(values: Iterable[str], where: str) -> list[float]:
    """Return texts as finite numbers.

    Args:
        values: Texts.
        where: File and line, for errors.

    Raises:
        SampleError: If one is no finite number.
    """
    result = []
    for value in values:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise SampleError("label", f"{where}: {value!r} is no coordinate")
        result.append(number)
    return result


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SampleError("damaged", f"{path} cannot be read: {reason_of(error)}") from None
