# SPDX-License-Identifier: Apache-2.0
"""Georeferenced images on the grid of another image."""

import os
from typing import Any

from rsvheat.data.gdal_reader import GdalReader, gdal_errors
from rsvheat.data.skip_report import SampleError

# Grid of an image without a reference system; both images then share it.
_ANY_CRS = "EPSG:3857"


class AlignedReader(GdalReader):
    """A georeferenced image, resampled to the grid of another one as it is read.

    Values are interpolated by rasterio's ``WarpedVRT``; pixels that the image does not cover are
    not valid.

    Args:
        path: Path of the image.
        like: Path of the image that has the grid.
        resampling: Name of GDAL's method of interpolation.

    Raises:
        SampleError: If an image is damaged or has no georeference, the images show no ground in
            common, or the image has a palette or its bands in several pages.
    """

    complete = False

    def __init__(self, path: str, like: str, resampling: str = "bilinear") -> None:
        from rasterio.enums import ColorInterp, Resampling
        from rasterio.vrt import WarpedVRT

        super().__init__(os.path.abspath(path), path)
        self._original: Any = self._pages[0]
        try:
            if len(self._pages) > 1 or self.palette is not None:
                raise SampleError("bands", f"{path} has a palette or pages, and cannot be aligned")
            with (
                gdal_errors(like, "cannot be opened"),
                GdalReader(os.path.abspath(like), like) as target,
            ):
                grid = target._pages[0]
                for name, file in ((path, self._original), (like, grid)):
                    if file.transform.is_identity:
                        raise SampleError("place", f"{name} has no georeference to align it by")
                crs = grid.crs or self._original.crs or _ANY_CRS
                source_crs = self._original.crs or crs
                _check_overlap(self._original, source_crs, grid, crs)
                # GDAL masks by the alpha channel what lies outside of the image.
                alpha = ColorInterp.alpha in self._original.colorinterp
                self._pages = [
                    WarpedVRT(
                        self._original,
                        src_crs=source_crs,
                        crs=crs,
                        transform=grid.transform,
                        width=grid.width,
                        height=grid.height,
                        resampling=Resampling[resampling],
                        add_alpha=not alpha,
                    )
                ]
            self._added = 0 if alpha else 1
            # A mask file beside the image was checked before; there is none beside the result.
            self._source = b""
            with gdal_errors(path, "cannot be aligned"):
                self._find_bands(False)
        except BaseException:
            self.close()
            raise

    @property
    def stored(self) -> int:
        """See ``ImageReader.stored``."""
        return super().stored - self._added

    def close(self) -> None:
        """See ``ImageReader.close``."""
        super().close()
        # The base class closes what it opened first if opening fails.
        if hasattr(self, "_original"):
            self._original.close()


def _check_overlap(file: Any, file_crs: Any, grid: Any, grid_crs: Any) -> None:
    import rasterio.warp

    with gdal_errors(file.name, "cannot be aligned"):
        left, bottom, right, top = _sorted(
            rasterio.warp.transform_bounds(file_crs, grid_crs, *_sorted(file.bounds))
        )
    west, south, east, north = _sorted(grid.bounds)
    if not (left < east and west < right and bottom < north and south < top):
        raise SampleError("place", f"{file.name} and {grid.name} show no ground in common")


def _sorted(bounds: Any) -> tuple[float, float, float, float]:
    """Return bounds of an image that may be flipped as left, bottom, right, top."""
    left, bottom, right, top = bounds
    return min(left, right), min(bottom, top), max(left, right), max(bottom, top)
