# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotations of slides as pathologists' tools write them: QuPath GeoJSON, Aperio ImageScope XML, CSV of boxes.

All three give coordinates in level-0 pixels. The files have (x, y), the areas read from them (row, column).
QuPath counts from the scanned part of the canvas, the others from the canvas (:mod:`monai_jsma.slides.frame`); each
area says from where it counts. An object without an area among good ones is left out, counted and named.

* GeoJSON: a FeatureCollection, a list of features or one feature; the class is ``properties.classification.name``
  (QuPath writes ``names`` for a derived class). Points and lines have no area and are not used.
* XML: the class is the text of a region, else the name or the description of its layer. A region with ``NegativeROA``
  is cut out of its layer. Arrows and rulers are not used. A document type, where entities are declared, is refused.
* CSV: ``slide,label,row,col,height,width``, one box in each row.

A file of annotations is named as its slide (:func:`find_slide`). A TCGA slide is called
``TCGA-2A-A8VL-01Z-00-DX1.<id>.svs``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from monai_jsma._io import Fault, decode_text, find_data_files, join_few
from monai_jsma.datalists.regions import Area
from monai_jsma.slides.frame import FRAMES, Frame, check_frame
from monai_jsma.slides.spacing import parse_decimal

__all__ = [
    "ANNOTATION_SUFFIXES",
    "TCGA_BARCODE",
    "Annotations",
    "find_annotations",
    "find_slide",
    "match_annotations",
    "parse_annotations",
    "read_annotations",
]

TCGA_BARCODE = re.compile(r"TCGA-\w{2}-\w{4}(?!\w)", re.ASCII | re.IGNORECASE)  # of a patient: 12 characters
_BOX = ("row", "col", "height", "width")
_COLUMNS = ("slide", "label", *_BOX)
_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_ELLIPSE, _ARROW, _RULER = "2", "3", "4"  # ImageScope's numbers of region types
_ELLIPSE_POINTS = 128
_MAX_COORDINATE = 1e9  # pixels: a hundred times the largest slide

_logger = logging.getLogger(__name__)


def find_annotations(path: str | Path, *, skip: Iterable[Path] = ()) -> list[Path]:
    """Find the files of annotations in a folder and its subfolders.

    Tables and lists of another kind, such as datalists, are told in one line of the log and left out.

    Args:
        path: the folder, or one file of annotations.
        skip: files in the folder that are not annotations, such as the results of an earlier run.

    Raises:
        FileNotFoundError: if there is neither such a folder nor such a file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there are no such annotations; name a file of annotations, or their folder.")
    if not path.is_dir():
        return [path]
    skipped = {file.resolve() for file in skip}
    files = []
    others = []
    for file in find_data_files(path, ANNOTATION_SUFFIXES):
        if file.resolve() in skipped:
            continue
        if _is_of_another_kind(file):
            others.append(file.relative_to(path).as_posix())
        else:
            files.append(file)
    if others:
        _logger.warning("%s: left out, no annotations: %s.", path, join_few(others))
    return files


def _is_of_another_kind(path: Path) -> bool:
    """Whether a table has none of the columns of boxes, or an object in JSON is no GeoJSON.

    What may be meant as annotations is not of another kind, however damaged it is.
    """
    _, suffix = _split_suffix(path)
    if suffix not in (".csv", ".json", ".json.gz"):
        return False
    try:
        content = _read_bytes(path)
    except (ValueError, OSError):
        return False  # told when it is read
    if suffix == ".csv":
        header = content.partition(b"\n")[0].lower()
        return bool(header.strip()) and not (b"slide" in header and b"label" in header)
    if b'"Feature' in content:
        return False
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True)
class Annotations:
    """What a file of annotations holds.

    Args:
        areas: the areas of each slide, by its name.
        faults: the objects that are left out because they enclose no area: the name of the slide, the stage "object"
            and the reason, which begins with the path of the file and the object.
    """

    areas: dict[str, list[Area]]
    faults: list[Fault]


def match_annotations(
    paths: Iterable[Path],
    slides: Sequence[Path],
    *,
    frame: Frame | None = None,
    slide_of: Mapping[Path, Path] | None = None,
) -> tuple[dict[Path, list[Area]], list[Fault]]:
    """Read files of annotations and find their slides.

    Args:
        paths: files of annotations.
        slides: paths of the slides.
        frame: the corner that all coordinates count from; by default that of the tool that wrote the file.
        slide_of: the slide of further files, by whose names annotations may name it.

    Returns:
        the areas of each slide that has annotations; and the faults, of stage "annotation" where a file cannot be read,
        of stage "match" where its slide is not found, of stage "object" where an object is left out (with the path of
        its slide).
    """
    areas_of: dict[Path, list[Area]] = defaultdict(list)
    faults = []
    for path in paths:
        try:
            content = parse_annotations(path, frame=frame)
        except (ValueError, OSError) as error:
            faults.append(Fault(path.name, "annotation", str(error)))
            continue
        for name, areas in content.areas.items():
            try:
                slide = find_slide(name, slides, slide_of=slide_of)
            except ValueError as error:
                faults.append(Fault(name, "match", f"{path}: {error}"))
                continue
            areas_of[slide] += areas
            for fault in content.faults:
                if fault.where == name:
                    faults.append(replace(fault, where=str(slide)))
        faults += [fault for fault in content.faults if fault.where == path.name]  # of no slide
    return dict(areas_of), faults


def find_slide(name: str, slides: Sequence[Path], *, slide_of: Mapping[Path, Path] | None = None) -> Path:
    """Find the slide of an annotation.

    Their names without suffix are equal, or one continues the other after a dot; a TCGA barcode may also continue
    after a dash.

    Args:
        name: name of the slide as the annotation gives it, with or without suffix.
        slides: paths of the slides.
        slide_of: the slide of further files, such as the other files of a DICOM series.

    Raises:
        ValueError: when no slide has the name, or several have.
    """
    slide_of = {slide: slide for slide in slides} | dict(slide_of or {})
    files = [file for file in slide_of if name in (file.stem, file.name)]
    if not files:
        files = [file for file in slide_of if _continues(file.stem, name) or _continues(name, file.stem)]
    matches = sorted({slide_of[file] for file in files})
    if not matches:
        raise ValueError("no slide has this name; name the annotation as its slide.")
    if len(matches) > 1:
        names = f"{matches[0].name}, {matches[1].name}"
        raise ValueError(f"{len(matches)} slides have this name: {names}; name the annotation as its slide.")
    return matches[0]


def _continues(name: str, start: str) -> bool:
    """Whether a name begins with another one and goes on after a separator."""
    if len(name) <= len(start) or not name.startswith(start):
        return False
    separators = ".-" if TCGA_BARCODE.match(start) else "."
    return name[len(start)] in separators


def read_annotations(path: str | Path, *, frame: Frame | None = None) -> dict[str, list[Area]]:
    """Read the annotated areas of a file; an object that encloses no area is left out with a warning.

    Args:
        path: ``.geojson`` or ``.json``, ``.xml`` or ``.csv``.
        frame: the corner that the coordinates count from (:mod:`monai_jsma.slides.frame`); by default that of the tool:
            ``"bounds"`` for GeoJSON, unless it has a member ``frame`` that says otherwise, ``"canvas"`` for the others.

    Returns:
        the areas of each slide, in that frame (:meth:`Area.on_canvas` converts); GeoJSON and XML name no slide, so
        theirs is the file name without suffix.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file does not have the expected form; the message begins with the path.
    """
    content = parse_annotations(path, frame=frame)
    for fault in content.faults:
        _logger.warning("%s", fault.reason)
    return content.areas


def parse_annotations(path: str | Path, *, frame: Frame | None = None) -> Annotations:
    """Read a file as :func:`read_annotations` does, and tell which objects are left out.

    Args:
        path: ``.geojson`` or ``.json``, ``.xml`` or ``.csv``.
        frame: the corner that the coordinates count from; by default that of the tool.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file does not have the expected form; the message begins with the path.
    """
    path = Path(path)
    read = _READERS.get(_split_suffix(path)[1])
    if read is None:
        raise ValueError(f"{path}: annotations are {', '.join(_READERS)} files.")
    if frame is not None:
        check_frame(frame)
    try:
        return read(path, frame)
    except (ValueError, csv.Error, ElementTree.ParseError, RecursionError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path}: {reason}.") from error


def _split_suffix(path: Path) -> tuple[str, str]:
    """The name of a file without suffix, which is that of its slide, and its suffix in lower case: ".geojson.gz"."""
    suffix = path.suffix
    if suffix.lower() == ".gz":
        suffix = Path(path.stem).suffix + suffix
    return path.name.removesuffix(suffix), suffix.lower()


class _Collector:
    """Collects the areas of a file, and the objects that are left out.

    Args:
        path: file of annotations.
        frame: the corner that its coordinates count from.
    """

    def __init__(self, path: Path, frame: Frame) -> None:
        self._path = path
        self._frame = frame
        self.content = Annotations({}, [])

    def add_slide(self, slide: str) -> None:
        """Name a slide, which may have no areas."""
        self.content.areas.setdefault(slide, [])

    def add_area(self, slide: str, where: str, outlines: Sequence[np.ndarray], *, names: tuple[str, ...]) -> None:
        """Add an area; the first outline is its ring, the others are holes."""
        ring, *holes = outlines
        area = Area(names, ring, tuple(holes), frame=self._frame, path=str(self._path), item=where)
        self.add_slide(slide)
        self.content.areas[slide].append(area)

    def leave_out(self, slide: str, where: str, reason: str) -> None:
        """Note an object that is not used."""
        fault = Fault(slide, "object", f"{self._path}: {where}: {reason}; it is left out.", item=where)
        self.content.faults.append(fault)


# -------------------------------------------------------------------------------------------------------------- GeoJSON


def _read_geojson(path: Path, frame: Frame | None) -> Annotations:
    text = decode_text(_read_bytes(path), "a JSON file")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not a JSON file: {error}") from error
    features = _list_features(content)
    if frame is None:
        frame = _stated_frame(content)

    collector = _Collector(path, frame)
    slide, _ = _split_suffix(path)
    collector.add_slide(slide)
    for i, feature in enumerate(features):
        _collect_feature(feature, f"feature {i}", slide=slide, collector=collector)
    return collector.content


def _read_bytes(path: Path) -> bytes:
    """The bytes of a file; those that were compressed, if its suffix says so."""
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file: {error}") from error


def _list_features(content: Any) -> list[Any]:
    features: Any = [content]
    if isinstance(content, list):
        features = content
    elif isinstance(content, dict) and content.get("type") == "FeatureCollection":
        features = content.get("features")
    if not isinstance(features, list) or (features and not any(_is_feature(feature) for feature in features)):
        raise ValueError("expected a FeatureCollection, a list of features or one feature")
    return features


def _is_feature(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("type") == "Feature"


def _stated_frame(content: Any) -> Frame:
    """The frame that a collection of this package names; without, QuPath's."""
    stated = content.get("frame") if isinstance(content, dict) else None
    if stated is None:
        return "bounds"
    if stated not in FRAMES:
        raise ValueError(
            f"its member 'frame' is {stated!r}, not 'bounds' or 'canvas'; say with --frame from which corner it counts"
        )
    return check_frame(stated)


def _collect_feature(feature: Any, where: str, *, slide: str, collector: _Collector) -> None:
    if not _is_feature(feature):
        collector.leave_out(slide, where, "expected a GeoJSON Feature with a geometry")
        return
    properties = feature.get("properties")
    names = _class_names(properties)
    name = _object_name(properties) or "".join(names)
    if name:
        where = f"{where} ({name})"

    for geometry in _list_geometries(feature.get("geometry")):
        try:
            polygons = _list_polygons(geometry)
        except ValueError as error:
            collector.leave_out(slide, where, str(error))
            continue
        for polygon in polygons:
            _collect_polygon(polygon, names, where, slide=slide, collector=collector)


def _list_geometries(geometry: Any) -> list[Any]:
    """A geometry itself, or the geometries of a collection and of the collections in it."""
    geometries = []
    pending = [geometry]
    while pending:
        first = pending.pop(0)
        members = first.get("geometries") if isinstance(first, dict) else None
        if isinstance(members, list) and members:
            pending = members + pending
        else:
            geometries.append(first)
    return geometries


def _list_polygons(geometry: Any) -> list[Any]:
    """The polygons of a geometry; points and lines have none.

    Raises:
        ValueError: when it has no area for another reason.
    """
    if geometry is None:
        raise ValueError("it has no geometry")
    if not isinstance(geometry, dict):
        raise ValueError("expected a GeoJSON Feature with a geometry")
    kind = geometry.get("type")
    if kind in _NO_AREA:
        return []
    if kind == "GeometryCollection":
        raise ValueError("its GeometryCollection is empty")

    coordinates = geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(coordinates, list):
        raise ValueError(f"geometry '{kind}' is not a Polygon or MultiPolygon with coordinates")
    if kind == "Polygon":
        return [coordinates]
    if not coordinates:
        raise ValueError("its MultiPolygon is empty")
    return coordinates


def _collect_polygon(polygon: Any, names: tuple[str, ...], where: str, *, slide: str, collector: _Collector) -> None:
    if not isinstance(polygon, list) or not polygon:
        collector.leave_out(slide, where, "a polygon is a list of outlines")
        return
    ring, *holes = polygon
    try:
        outlines = [_parse_outline(ring)]
    except ValueError as error:
        collector.leave_out(slide, where, str(error))
        return
    for number, hole in enumerate(holes, start=1):
        try:
            outlines.append(_parse_outline(hole))
        except ValueError as error:
            collector.leave_out(slide, f"{where}, hole {number}", str(error))
    collector.add_area(slide, where, outlines, names=names)


def _object_name(properties: Any) -> str:
    """The name that the user gave to an object."""
    name = properties.get("name") if isinstance(properties, dict) else None
    return name if isinstance(name, str) else ""


def _class_names(properties: Any) -> tuple[str, ...]:
    """The name of the class in the properties of a feature; empty if it has none."""
    if not isinstance(properties, dict):
        return ()
    classification = properties.get("classification")
    if isinstance(classification, str) and classification:
        return (classification,)
    if not isinstance(classification, dict):
        return ()
    name = classification.get("name")
    parts = classification.get("names")
    if not name and isinstance(parts, list):
        name = ": ".join(str(part) for part in parts)
    return (str(name),) if name else ()


# ------------------------------------------------------------------------------------------------------------- outlines


def _parse_outline(points: Any) -> np.ndarray:
    """Turn an outline of (x, y) points into an array of (row, column).

    Raises:
        ValueError: when it encloses no area.
    """
    ring = _parse_points(points)
    if len(ring) < 3:
        raise ValueError(f"an outline needs at least 3 points, but has {len(ring)}")
    if np.linalg.matrix_rank(ring - ring[0]) < 2:
        raise ValueError("an outline whose points lie on one line encloses no area")
    return ring


def _parse_points(points: Any) -> np.ndarray:
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError("an outline is a list of (x, y) numbers")
    try:
        ring = np.array([(point[1], point[0]) for point in points], dtype=np.float64).reshape(-1, 2)
    except OverflowError as error:
        raise ValueError("an outline is a list of (x, y) numbers") from error
    if not np.isfinite(ring).all():
        raise ValueError("an outline needs finite coordinates")
    if (np.abs(ring) > _MAX_COORDINATE).any():
        raise ValueError(f"an outline with a coordinate of {np.abs(ring).max():g} is not in pixels of a slide")
    return ring


def _is_point(point: Any) -> bool:
    """Whether something begins with two numbers; text and true are none."""
    if not isinstance(point, (list, tuple)) or len(point) < 2:
        return False
    return all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in point[:2])


# ----------------------------------------------------------------------------------------------------------- ImageScope


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type: only there are entities declared, and no annotation needs one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type (DOCTYPE) is not accepted")


def _read_imagescope(path: Path, frame: Frame | None) -> Annotations:
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        root = ElementTree.parse(path, parser).getroot()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: of an unknown encoding
        raise ValueError(f"not an XML file: {error}") from error
    if root.tag != "Annotations":
        raise ValueError(f"ImageScope's XML begins with 'Annotations', but this file with '{root.tag}'")

    collector = _Collector(path, frame or "canvas")
    collector.add_slide(path.stem)
    for i, layer in enumerate(root.iter("Annotation")):
        _collect_layer(layer, f"layer {i}", slide=path.stem, collector=collector)
    return collector.content


def _collect_layer(layer: ElementTree.Element, where: str, *, slide: str, collector: _Collector) -> None:
    layer_names = [layer.get("Name", "")]
    for attribute in layer.iter("Attribute"):
        if attribute.get("Name") == "Description":
            layer_names.append(attribute.get("Value", ""))

    outlines = []
    holes = []
    for i, region in enumerate(layer.iter("Region")):
        if region.get("Type") in (_ARROW, _RULER):
            continue
        texts = [text.strip() for text in (region.get("Text", ""), *layer_names)]
        names = tuple(text for text in texts if text)
        region_where = f"{where}, region {i}"
        if names:
            region_where += f" ({names[0]})"
        try:
            ring = _parse_region(region)
        except ValueError as error:
            collector.leave_out(slide, region_where, str(error))
            continue
        if region.get("NegativeROA") == "1":
            holes.append((region_where, ring))
        else:
            outlines.append((region_where, names, ring))

    rings_of_holes = [ring for _, ring in holes]
    for region_where, names, ring in outlines:
        collector.add_area(slide, region_where, [ring, *rings_of_holes], names=names)
    if not outlines:
        for region_where, _ in holes:
            collector.leave_out(slide, region_where, "its layer has no area that it could be cut out of")


def _parse_region(region: ElementTree.Element) -> np.ndarray:
    points = []
    for vertex in region.iter("Vertex"):
        try:
            points.append((_parse_number(vertex.get("X", "")), _parse_number(vertex.get("Y", ""))))
        except ValueError as error:
            raise ValueError("an outline is a list of (x, y) numbers") from error
    if region.get("Type") == _ELLIPSE and len(points) == 2:
        corners = _parse_points(points)
        if (corners[0] == corners[1]).any():
            raise ValueError("an ellipse without height or width encloses no area")
        return _ellipse_in_box(corners)
    return _parse_outline(points)


def _ellipse_in_box(corners: np.ndarray) -> np.ndarray:
    """Outline of the ellipse that fills a box, given by two opposite corners."""
    first, last = corners
    center = (first + last) / 2
    radii = (last - first) / 2
    step = 2 * np.pi / _ELLIPSE_POINTS
    angles = np.arange(_ELLIPSE_POINTS) * step
    unit_circle = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return center + radii * unit_circle


# ---------------------------------------------------------------------------------------------------------------- boxes


def _read_boxes(path: Path, frame: Frame | None) -> Annotations:
    header, *rows = _split_rows(decode_text(path.read_bytes(), "a CSV file"))
    columns = [name.strip() for name in header or ()]
    if not rows or not set(_COLUMNS) <= set(columns):
        raise ValueError(f"expected rows with the columns {', '.join(_COLUMNS)}")
    for name in _COLUMNS:
        if columns.count(name) > 1:
            raise ValueError(f"the column {name} is there {columns.count(name)} times; leave one")

    collector = _Collector(path, frame or "canvas")
    for number, cells in enumerate(rows, 1):
        where = f"row {number}"
        if cells is None:
            collector.leave_out(path.name, where, "a quotation mark in it is not closed, or in a wrong place")
            continue
        row: dict[str, str | None] = dict.fromkeys(columns)
        row.update(zip(columns, cells, strict=False))
        slide = (row["slide"] or "").strip()
        label = (row["label"] or "").strip()
        if not slide:
            collector.leave_out(path.name, where, "the slide is not named")
            continue
        collector.add_slide(slide)
        if label:
            where += f" ({label})"
        if any(cells[len(columns) :]):
            collector.leave_out(slide, where, f"it has {len(cells)} cells, but there are {len(columns)} columns")
            continue
        try:
            ring = _parse_box(row)
        except ValueError as error:
            collector.leave_out(slide, where, str(error))
            continue
        names = (label,) if label else ()
        collector.add_area(slide, where, [ring], names=names)
    return collector.content


def _split_rows(text: str) -> list[list[str] | None]:
    """The cells of each row of a table that is not empty, the header first; None of a row that cannot be split.

    One such row makes all behind it unreadable together, so that then each line is read by itself.

    Raises:
        csv.Error: if no row but the header can be read.
    """
    try:
        return [cells for cells in csv.reader(io.StringIO(text, newline=""), strict=True) if cells] or [None]
    except csv.Error as error:
        rows: list[list[str] | None] = []
        for line in text.splitlines():
            rows += _split_line(line)
        if not any(rows[1:]):
            raise csv.Error(str(error)) from error
        return rows


def _split_line(line: str) -> list[list[str] | None]:
    """The row of one line, none of an empty one."""
    try:
        return [cells for cells in csv.reader([line], strict=True) if cells]
    except csv.Error:
        return [None]


def _parse_number(text: str) -> float:
    """A number with a decimal point or comma; NaN and infinite ones are told by whoever uses them.

    Raises:
        ValueError: if it is none.
    """
    try:
        return parse_decimal(text)
    except ValueError:
        if "_" in text:
            raise
        return float(text)


def _parse_box(row: Mapping[str, str | None]) -> np.ndarray:
    try:
        top, left, height, width = [_parse_number(row[column] or "") for column in _BOX]
    except ValueError as error:
        raise ValueError("row, col, height and width must be numbers") from error
    is_finite = math.isfinite(top + left + height + width)
    if not is_finite or height <= 0 or width <= 0:
        raise ValueError("a box needs a finite location and a positive height and width")
    bottom = top + height
    right = left + width
    box = np.array([(top, left), (top, right), (bottom, right), (bottom, left)])
    if np.abs(box).max() > _MAX_COORDINATE:
        raise ValueError(f"a box that reaches to {np.abs(box).max():g} is not in pixels of a slide")
    return box


_READERS: dict[str, Callable[[Path, Frame | None], Annotations]] = {
    ".geojson": _read_geojson,
    ".geojson.gz": _read_geojson,
    ".json": _read_geojson,
    ".json.gz": _read_geojson,
    ".xml": _read_imagescope,
    ".csv": _read_boxes,
}
ANNOTATION_SUFFIXES = tuple(_READERS)
