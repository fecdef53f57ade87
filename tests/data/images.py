# SPDX-License-Identifier: Apache-2.0
"""Small image files of kinds that no library writes by default."""

import struct
import zlib
from pathlib import Path

import numpy as np

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels


def png(values: np.ndarray, bits: int = 8, *, trns: bytes = b"", plte: bytes = b"") -> bytes:
    """Return a PNG of (C, H, W), by the specification; with ``plte`` the values are indices."""
    channels, height, width = values.shape
    kind = 3 if plte else COLOR_TYPES[channels]
    rows = np.moveaxis(values, 0, 2).reshape(height, width * channels)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        digits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., 8 - bits :]
        packed = np.packbits(digits.reshape(height, -1), axis=1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", plte) if plte else b"")
        + (chunk(b"tRNS", trns) if trns else b"")
        + chunk(b"IDAT", zlib.compress(scanlines))
        + chunk(b"IEND", b"")
    )


def vrt(path: Path, height: int, width: int, *bands: str) -> Path:
    """Write a virtual raster; each band is the XML of its content, after the name of its type."""
    xml = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{number}">{content}</VRTRasterBand>'
        for number, (kind, content) in enumerate((band.split(" ", 1) for band in bands), 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{xml}</VRTDataset>')
    return path


def source(path: Path | str, band: int = 1) -> str:
    """Return the XML of a VRT band's content: a band of another raster."""
    return (
        f"<SimpleSource><SourceFilename>{path}</SourceFilename>"
        f"<SourceBand>{band}</SourceBand></SimpleSource>"
    )
