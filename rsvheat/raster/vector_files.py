# SPDX-License-Identifier: Apache-2.0
"""Files of polygons: GeoPackage, FlatGeobuf, GeoParquet and GeoJSON, written a part at a time."""

import glob
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from typing_extensions import Self

from rsvheat._files import output_file, remove_unfinished
from rsvheat.raster.projection import LONGITUDE_LATITUDE, Projection
from rsvheat.raster.scene import Georeference

GEOPACKAGE = ".gpkg"
_PARQUET_BATCH = 65536
# Time of a change that GeoPackages hold: a fixed one, so that equal predictions have equal bytes.
_NO_TIME = {"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z"}


class VectorLayer(Protocol):
    """A file that polygons are written to; a context manager that completes it."""

    def __enter__(self) -> Self:
        """Create the file."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Complete the file."""
        ...

    def write(self, polygons: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> None:
        """Write polygons.

        Args:
            polygons: Geometries of shapely (N,) in the file's coordinates.
            columns: Attributes (N,) by name.
        """
        ...


class _GeoJSON:
    """Writes GeoJSON by RFC 7946."""

    def __init__(self, path: Path, crs: Any, tags: Mapping[str, str]) -> None:
        self._path, self._tags = path, tags
        self._separator = "\n"

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        about = json.dumps(dict(self._tags), ensure_ascii=False)
        self._file.write(f'{{"type": "FeatureCollection", "rsvheat": {about}, "features": [')
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.write("\n]}\n")
        self._file.close()

    def write(self, polygons: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> None:
        import shapely

        rounded = shapely.transform(polygons, lambda points: points.round(7))  # a centimeter
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        for geometry, row in zip(shapely.to_geojson(rounded).tolist(), values, strict=True):
            properties = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False)
            self._file.write(
                f'{self._separator}{{"type": "Feature", "properties": {properties}, '
                f'"geometry": {geometry}}}'
            )
            self._separator = ",\n"


class _GeoPackage:
    """Writes GeoPackage by pyogrio."""

    def __init__(self, path: Path, crs: Any, tags: Mapping[str, str]) -> None:
        self._path, self._tags, self._crs = path, tags, _wkt(crs)

    def __enter__(self) -> Self:
        self._pyogrio = importlib.import_module("pyogrio")
        self._raw = importlib.import_module("pyogrio.raw")
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, polygons: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> None:
        import shapely

        begun = self._path.exists()
        if begun and not len(polygons):
            return
        before = {name: self._pyogrio.get_gdal_config_option(name) for name in _NO_TIME}
        self._pyogrio.set_gdal_config_options(_NO_TIME)
        try:
            self._raw.write(
                self._path,
                np.array(shapely.to_wkb(polygons), object),
                list(columns.values()),
                list(columns),
                layer=self._path.stem,
                driver="GPKG",
                geometry_type="Polygon",
                crs=self._crs,
                append=begun,
                layer_metadata=None if begun else dict(self._tags),
            )
        except RuntimeError as error:
            raise OSError(f"{self._path.name} cannot be written: {error}") from error
        finally:
            self._pyogrio.set_gdal_config_options(before)


class _FlatGeobuf(_GeoPackage):
    """Writes FlatGeobuf, whose index needs all polygons, from a GeoPackage beside it."""

    def __init__(self, path: Path, crs: Any, tags: Mapping[str, str]) -> None:
        super().__init__(path.with_suffix(GEOPACKAGE), crs, tags)
        self._finished = path

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            try:
                with self._raw.open_arrow(self._path) as (about, reader):
                    self._raw.write_arrow(
                        reader,
                        self._finished,
                        driver="FlatGeobuf",
                        geometry_type="Polygon",
                        geometry_name=about["geometry_name"] or "wkb_geometry",
                        crs=self._crs,
                    )
            except RuntimeError as error:
                raise OSError(f"{self._finished.name} cannot be written: {error}") from error
        self._path.unlink(missing_ok=True)


class _GeoParquet:
    """Writes GeoParquet 1.1 by pyarrow."""

    def __init__(self, path: Path, crs: Any, tags: Mapping[str, str]) -> None:
        self._path, self._tags, self._crs = path, tags, crs
        self._parts: list[Any] = []
        self._writer: Any = None

    def __enter__(self) -> Self:
        self._arrow = importlib.import_module("pyarrow")
        self._parquet = importlib.import_module("pyarrow.parquet")
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                self._flush()
        finally:
            if self._writer is not None:
                self._writer.close()

    def write(self, polygons: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> None:
        import shapely

        content = {name: self._arrow.array(column.tolist()) for name, column in columns.items()}
        if not len(polygons):  # a column of objects alone does not say its type
            content = {
                name: self._arrow.array([], self._arrow.string())
                if column.dtype == object
                else self._arrow.array(column)
                for name, column in columns.items()
            }
        geometry = self._arrow.array(shapely.to_wkb(polygons).tolist(), self._arrow.binary())
        self._parts.append(self._arrow.table({**content, "geometry": geometry}))
        if sum(part.num_rows for part in self._parts) >= _PARQUET_BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._parts:
            return
        table = self._arrow.concat_tables(self._parts)
        self._parts.clear()
        if self._writer is None:
            geometry: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"]}
            # The default is longitude and latitude, so that an unknown system has to be said.
            geometry["crs"] = None
            if self._crs is not None:
                geometry["crs"] = rasterio.CRS.from_user_input(self._crs).to_dict(projjson=True)
            about = {
                "version": "1.1.0",
                "primary_column": "geometry",
                "columns": {"geometry": geometry},
            }
            metadata = {"geo": json.dumps(about), **self._tags}
            schema = table.schema.with_metadata(metadata)
            self._writer = self._parquet.ParquetWriter(self._path, schema)
        self._writer.write_table(table.cast(self._writer.schema))


_KINDS: dict[str, type[Any]] = {
    GEOPACKAGE: _GeoPackage,
    ".fgb": _FlatGeobuf,
    ".parquet": _GeoParquet,
    ".geojson": _GeoJSON,
    ".json": _GeoJSON,
}


def _wkt(crs: Any) -> str | None:
    return None if crs is None else str(rasterio.CRS.from_user_input(crs).to_wkt())


def check_vector(path: Path, what: str, overwrite: bool) -> None:
    """Make sure that a file of polygons may be written.

    Args:
        path: Path of the file.
        what: What the polygons are, for the message.
        overwrite: Whether an older file may be replaced.

    Raises:
        ValueError: If the suffix is that of no format.
        IsADirectoryError: If it is a folder.
        FileExistsError: If there is an older file, and ``overwrite`` is not set.
    """
    if path.suffix.lower() not in _KINDS:
        raise ValueError(f"{path} must end in {', '.join(_KINDS)} for {what}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: --overwrite replaces it")


class VectorFile(NamedTuple):
    """A file of polygons that is being written.

    Attributes:
        layer: The file, which takes polygons.
        projection: Projection from columns and rows to its coordinates.
        unfinished: Path of a file beside it, of which a process that resumes finds what a killed
            one wrote. It is to be removed when the polygons are complete.
    """

    layer: VectorLayer
    projection: Projection
    unfinished: Path


@contextmanager
def vector_file(
    path: Path,
    what: str,
    place: Georeference,
    tags: Mapping[str, str],
    overwrite: bool,
    resume: bool = False,
) -> Iterator[VectorFile]:
    """Create a file of polygons, which appears when the block succeeds.

    Args:
        path: Path of the file; the suffix says the format. GeoJSON is in longitude and latitude,
            other formats are in the raster's reference system.
        what: What the polygons are, for messages.
        place: Location of the raster.
        tags: Metadata; FlatGeobuf has none.
        overwrite: Whether an older file is replaced.
        resume: Whether to give the file ``unfinished`` of a process that was killed, and to keep it
            if this one is interrupted.

    Yields:
        The file.

    Raises:
        ValueError: If the suffix is that of no format.
        ModuleNotFoundError: If pyogrio, or pyarrow for GeoParquet, is not installed.
        FileExistsError: If there is such a file, and it is not to be replaced.
        InUseError: If another process writes the file.
        OSError: If the file cannot be written.
    """
    check_vector(path, what, overwrite)
    kind = _KINDS[path.suffix.lower()]
    projection = Projection(place, LONGITUDE_LATITUDE if kind is _GeoJSON else None)
    rows_name = f"rows-{path.name}"
    with output_file(path, rows_name if resume else None) as temporary:
        # Another process may have written the file before the lock was taken.
        check_vector(path, what, overwrite)
        if not resume:
            remove_unfinished(path.parent, rows_name)
        # Polygons of a process that was killed, and temporary files of SQLite beside them.
        for old in temporary.parent.glob(f"{glob.escape(path.stem)}.*"):
            old.unlink()
        with kind(temporary, projection.crs, tags) as layer:
            yield VectorFile(layer, projection, temporary.with_name(rows_name))
