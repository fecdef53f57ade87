# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: image files of any content are read, or refused by a DataError.

    python tests/fuzz/fuzz_readers.py CORPUS -max_total_time=600

libFuzzer's options follow the folder of its corpus, which `make fuzz` keeps in build/fuzz. The
first byte of an input chooses the suffix.
"""

import io
import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris
import numpy as np
import torch  # noqa: F401  (outside of what is instrumented)

SUFFIXES = (".tif", ".png", ".jpg", ".vrt", ".tar")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))

# Modules that are otherwise imported at the first file, too late to be instrumented.
with atheris.instrument_imports(include=["rsvheat.data", "PIL", "tarfile"]):
    import PIL.Image
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.TiffImagePlugin

    import rsvheat.data.gdal_reader
    import rsvheat.data.pillow_reader  # noqa: F401
    from rsvheat.data import DataError, ShardSource, open_image

# Nothing on the network is to be opened, nor other files through a VRT.
os.environ.update(GDAL_HTTP_TIMEOUT="1", CPL_VSIL_CURL_ALLOWED_EXTENSIONS=".none")
# A file may claim any size, and the readers promise no bound below the machine's memory.
LARGEST = 1 << 22


def seeds() -> list[bytes]:
    """Return a small file of each kind, after the byte that chooses it."""
    values = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    files = []
    for kind, form in enumerate(("TIFF", "PNG", "JPEG")):
        buffer = io.BytesIO()
        PIL.Image.fromarray(values).save(buffer, form)
        files.append(bytes([kind]) + buffer.getvalue())
    files.append(
        b'\x03<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" '
        b'band="1"></VRTRasterBand></VRTDataset>'
    )
    return files


def read(data: bytes) -> None:
    """Read one input."""
    if not data:
        return
    suffix = SUFFIXES[data[0] % len(SUFFIXES)]
    path = FOLDER / f"a{suffix}"
    path.write_bytes(data[1:])
    try:
        if suffix == ".tar":
            source = ShardSource(FOLDER)
            source.scan()
            for index in range(min(len(source), 4)):
                for modality in source.present(index):
                    with source.open(index, modality) as reader:
                        if reader.height * reader.width < LARGEST:
                            reader.read()
            return
        with open_image(path) as reader:
            if reader.height * reader.width * reader.bands < LARGEST:
                reader.read()
    except DataError:
        pass
    finally:
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)


def main() -> None:
    """Run libFuzzer."""
    warnings.simplefilter("ignore")
    corpus = next((Path(word) for word in sys.argv[1:] if not word.startswith("-")), None)
    if corpus is not None:
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
