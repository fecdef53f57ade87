# SPDX-License-Identifier: Apache-2.0
"""Images that GDAL reads: GeoTIFF, JPEG 2000 and all its other formats."""

import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsvheat.data.image_reader import ImageReader, Pixels, Window, line_of, remark
from rsvheat.data.skip_report import SampleError


class _Band(NamedTuple):
    """A band of a rasterio dataset.

    Attributes:
        page: Position of the dataset among the file's pages.
        number: Number of the band in the dataset, counted from 1.
        dtype: Type of its values; None if they are complex.
        alpha: Whether it is an alpha channel.
        mask: ``"none"`` if GDAL has no mask for the band, ``"own"`` if it has one for this band,
            ``"all"`` if it has one for all bands.
    """

    page: int
    number: int
    dtype: np.dtype[Any] | None
    alpha: bool
    mask: Literal["none", "own", "all"]


class GdalReader(ImageReader):
    """GeoTIFF and all other formats of GDAL; only the blocks that a window touches are read.

    Args:
        file: Path, name that GDAL knows, or content.
        name: Name of the image in errors.
        driver: The only driver that may open the file; None for any.
        raw: See ``open_image``.

    Attributes:
        palette: Colors (n, 4) of the only band's values, with alpha; None without a palette.

    Raises:
        SampleError: If the file is damaged, or has no bands.
    """

    def __init__(
        self, file: str | bytes, name: str, driver: str | None = None, raw: bool = False
    ) -> None:
        import rasterio

        self.name, self._source = name, file
        self._pages: list[Any] = []
        self._memory: Any = None
        # GDAL's fast path for whole PNG takes a file that was cut short for a dark one. The option
        # counts when a file is opened and when it is read.
        self._environment: Any = nullcontext
        if driver in (None, "PNG"):
            self._environment = functools.partial(rasterio.Env, GDAL_PNG_WHOLE_IMAGE_OPTIM=False)
        try:
            with gdal_errors(name, "cannot be opened"), self._environment():
                # Without sharing: threads or forked workers would read one dataset at two places.
                if isinstance(file, bytes):
                    self._memory = rasterio.MemoryFile(file)
                    self._pages = [self._memory.open(driver=driver)]
                else:
                    self._pages = [rasterio.open(file, driver=driver, sharing=False)]
                self._find_bands(raw)
        except BaseException:
            self.close()
            raise

    def _find_bands(self, raw: bool) -> None:
        first, name = self._pages[0], self.name
        others = list(first.subdatasets)
        if not first.count:
            listed = ", ".join(others[:20]) + (", ..." if len(others) > 20 else "")
            raise SampleError(
                "bands",
                f"{name} holds {len(others)} data sets; choose one by its name: {listed}"
                if others
                else f"{name} has no bands",
            )
        if first.driver == "GTiff" and len(others) > 1:
            self._find_pages([f"GTIFF_DIR:{i}:{first.name}" for i in range(1, len(others) + 1)])
        self._stored = [band for page in range(len(self._pages)) for band in self._bands_of(page)]
        beside = isinstance(self._source, str) and os.path.exists(f"{self._source}.msk")
        if beside and not any(band.mask == "all" for band in self._stored):
            raise SampleError(
                "damaged",
                f"{name}.msk cannot be used as the mask of {name}: it has another size, or lacks "
                "the metadata item INTERNAL_MASK_FLAGS_1, without which GDAL ignores it",
            )
        data = [number for number, band in enumerate(self._stored, 1) if not band.alpha]
        dtypes = {self._stored[number - 1].dtype for number in data} - {None}
        if not dtypes:
            kinds = ", ".join(sorted({str(dtype) for dtype in first.dtypes}))
            raise SampleError(
                "bands",
                f"{name} has complex values ({kinds}), as single look complex radar images do: "
                "read the amplitude, which GDAL computes for the name "
                f"DERIVED_SUBDATASET:AMPLITUDE:{first.name}, or convert it by gdal_translate"
                if data
                else f"{name} has alpha channels only",
            )
        self._data = tuple(data)
        self.bands = len(data)
        self.height, self.width = first.shape
        self.dtype = np.result_type(*dtypes)
        self.nodata = first.nodatavals[self._stored[data[0] - 1].number - 1]
        self.palette = self._find_palette()
        # Gray of PNG with 1, 2 or 4 bits, which Pillow spreads over 0 to 255.
        self._factor = 1
        if first.driver == "PNG" and self.palette is None and not raw:
            bits = int(first.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
            self._factor = 255 // (2**bits - 1) if bits < 8 else 1
        white = first.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        if white and self.palette is None:
            remark(name, "stores white as 0; values are read as they are stored")
        tags = {(first.scales[i], first.offsets[i]) for i in range(first.count)} - {(1.0, 0.0)}
        if tags:
            scale, offset = sorted(tags)[0]
            remark(
                name,
                f"has the scale {scale:g} and the offset {offset:g} in its tags; they are not "
                "applied, values are read as they are stored. Files that a model is used on must "
                "have the unit of those it was trained on (gdal_translate -unscale applies them)",
            )

    def _find_pages(self, names: Sequence[str]) -> None:
        """Open a TIFF's further pages, if each page is a band."""
        import rasterio

        first = self._pages[0]
        pages = [rasterio.open(name, sharing=False) for name in names[1:]]
        self._pages += pages
        kind = (1, first.shape, first.dtypes)
        alike = all((page.count, page.shape, page.dtypes) == kind for page in self._pages)
        if alike and not any(_palette_of(page) for page in self._pages):
            return
        # Smaller pages are previews, or the levels of a pyramid.
        if any(page.height >= first.height or page.width >= first.width for page in pages):
            raise SampleError(
                "bands",
                f"{self.name} holds {len(names)} images as pages, which are not bands of one "
                f"image: read one by its name, such as {names[0]}",
            )
        for page in pages:
            page.close()
        self._pages = [first]

    def _bands_of(self, page: int) -> Iterator[_Band]:
        from rasterio.enums import ColorInterp, MaskFlags

        file = self._pages[page]
        places = zip(file.indexes, file.dtypes, file.colorinterp, file.mask_flag_enums, strict=True)
        for number, dtype, color, flags in places:
            mask: Literal["none", "own", "all"] = "own"
            if MaskFlags.all_valid in flags or MaskFlags.alpha in flags:
                mask = "none"
            elif MaskFlags.per_dataset in flags:
                mask = "all"
            real = np.dtype(dtype) if _is_real(dtype) else None
            yield _Band(page, number, real, color == ColorInterp.alpha, mask)

    def _find_palette(self) -> NDArray[np.uint8] | None:
        if self.bands != 1 or len(self._pages) > 1 or self.dtype not in (np.uint8, np.uint16):
            return None
        colors = _palette_of(self._pages[0], self._stored[self._data[0] - 1].number)
        if not colors:
            return None
        palette = np.zeros((2 ** (8 * self.dtype.itemsize), 4), np.uint8)
        palette[:, 3] = 255
        for number, color in colors.items():
            if number < len(palette):
                palette[number] = color
        # Bilevel TIFF has a palette of black and white; bilevel PNG is gray.
        if len(colors) == 2 and self._pages[0].driver != "PNG":
            palette = palette[:2]
        return palette

    @property
    def stored(self) -> int:
        """See ``ImageReader.stored``."""
        return len(self._stored)

    @property
    def data_bands(self) -> tuple[int, ...]:
        """See ``ImageReader.data_bands``."""
        return self._data

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        import rasterio.windows

        chosen = [self._stored[number - 1] for number in bands]
        for number, band in zip(bands, chosen, strict=True):
            if band.dtype is None:
                raise SampleError("bands", f"band {number} of {self.name} has complex values")
        top, left, height, width = window
        part = rasterio.windows.Window(left, top, width, height)
        with gdal_errors(self.name, "is damaged"), self._environment():
            return Pixels(self._values(chosen, part), self._valid(chosen, part))

    def _values(self, bands: Sequence[_Band], part: Any) -> NDArray[Any]:
        groups: dict[tuple[int, Any], list[int]] = {}
        for place, band in enumerate(bands):
            groups.setdefault((band.page, band.dtype), []).append(place)
        parts = [
            (places, self._pages[page].read([bands[place].number for place in places], window=part))
            for (page, _), places in groups.items()
        ]
        values: NDArray[Any] = parts[0][1]
        if len(parts) > 1:
            dtype = np.result_type(*(read.dtype for _, read in parts))
            values = np.empty((len(bands), *values.shape[1:]), dtype)
            for places, read in parts:
                values[places] = read
        return values * values.dtype.type(self._factor) if self._factor > 1 else values

    def _valid(self, bands: Sequence[_Band], part: Any) -> NDArray[np.bool_] | None:
        """Return GDAL's masks and alpha channels as one mask.

        GDAL does not take alpha for a mask where there is a nodata value, or a band that is neither
        color nor alpha.
        """
        shared = {band.page: band for band in bands if band.mask == "all"}
        masks = [self._mask(band, part)[None] for band in shared.values()]
        if any(band.mask == "own" for band in bands):
            everywhere = np.ones((int(part.height), int(part.width)), bool)
            masks.append(
                np.stack([self._mask(b, part) if b.mask == "own" else everywhere for b in bands])
            )
        if not any(band.alpha for band in bands):
            masks += [
                self._pages[band.page].read(band.number, window=part)[None] > 0
                for band in self._stored
                if band.alpha
            ]
        return functools.reduce(np.logical_and, masks) if masks else None

    def _mask(self, band: _Band, part: Any) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self._pages[band.page].read_masks(band.number, window=part) > 0
        return mask

    def close(self) -> None:
        """Close the file."""
        for page in self._pages:
            page.close()
        if self._memory is not None:
            self._memory.close()


class PaletteReader(ImageReader):
    """The colors of an image with a palette: red, green and blue or, of bilevel images, gray.

    Args:
        reader: Image whose only band holds numbers of colors; it closes with this.
        palette: Colors (n, 4) by number, with alpha; two for a bilevel image.
        raw: Whether to return the numbers instead of the colors.
    """

    def __init__(self, reader: ImageReader, palette: NDArray[np.uint8], raw: bool) -> None:
        gray = len(palette) == 2 and bool((palette[:, :3] == palette[:, :1]).all())
        self._reader, self._palette, self._raw = reader, palette, raw
        self.name, self.complete = reader.name, reader.complete
        self.bands = 1 if gray or raw else 3
        self.height, self.width = reader.height, reader.width
        self.dtype = reader.dtype if raw else np.dtype(np.uint8)

    def _read(self, window: Window, bands: tuple[int, ...]) -> Pixels:
        numbers, valid = self._reader.read(window)
        colors = self._palette[np.minimum(numbers[0], len(self._palette) - 1)]
        values = numbers[[0] * len(bands)]
        if not self._raw:
            chosen = [band - 1 for band in bands]
            values = np.ascontiguousarray(np.moveaxis(colors[:, :, chosen], 2, 0))
        opaque = colors[None, :, :, 3] > 0
        return Pixels(values, opaque if valid is None else opaque & valid)

    def close(self) -> None:
        """Close the image."""
        self._reader.close()


def _palette_of(file: Any, index: int = 1) -> dict[int, tuple[int, ...]] | None:
    """Return the colors of a rasterio dataset's band by value; None without a palette."""
    from rasterio.enums import ColorInterp

    if file.colorinterp[index - 1] != ColorInterp.palette:
        return None
    try:
        return dict(file.colormap(index))
    except ValueError:  # it is called a palette, and has none
        return None


@contextmanager
def gdal_errors(name: str, problem: str) -> Iterator[None]:
    """Turn errors of rasterio into SampleError, and keep it from warning of what is handled here.

    rasterio passes some of GDAL's errors on as they are, and raises ValueError, IndexError and
    others for headers that make no sense. Its warnings are about absent georeferences, and about
    nodata values beside alpha.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            warnings.simplefilter("ignore", NodataShadowWarning)
            yield
    except SampleError:
        raise
    except (
        RasterioError, CPLE_BaseError, OSError, ValueError, ArithmeticError, LookupError,
        TypeError, AttributeError, SystemError,
    ) as error:  # fmt: skip
        raise SampleError(
            "damaged", f"{name} {problem}: {line_of(error.__cause__ or error)}"
        ) from error


def _is_real(dtype: str) -> bool:
    # GDAL's complex_int16 is no dtype of NumPy.
    return not dtype.startswith("complex") and np.dtype(dtype).kind in "iuf"
