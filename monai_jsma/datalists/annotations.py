# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotations of slides as pathologists' tools write them: QuPath GeoJSON, Aperio ImageScope XML, CSV of boxes.

All three give coordinates in level-0 pixels. The files have (x, y), the areas read from them (row, column).

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
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from monai_jsma._io import Fault, find_data_files
from monai_jsma.datalists.regions import Area

__all__ = [
    "ANNOTATION_SUFFIXES",
    "TCGA_BARCODE",
    "find_annotations",
    "find_slide",
    "match_annotations",
    "read_annotations",
]

TCGA_BARCODE = re.compile(r"TCGA-\w{2}-\w{4}(?!\w)", re.ASCII | re.IGNORECASE)  # of a patient: 12 characters
_BOX = ("row", "col", "height", "width")
_COLUMNS = ("slide", "label", *_BOX)
_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_ELLIPSE, _ARROW, _RULER = "2", "3", "4"  # ImageScope's numbers of region types
_ELLIPSE_POINTS = 128


def find_annotations(path: str | Path, *, skip: Iterable[Path] = ()) -> list[Path]:
    """Find the files of annotations in a folder and its subfolders.

    Args:
        path: the folder, or one file of annotations.
        skip: files in the folder that are not annotations, such as the results of an earlier run.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    skipped = {file.resolve() for file in skip}
    return [file for file in find_data_files(path, ANNOTATION_SUFFIXES) if file.resolve() not in skipped]


def match_annotations(paths: Iterable[Path], slides: Sequence[Path]) -> tuple[dict[Path, list[Area]], list[Fault]]:
    """Read files of annotations and find their slides.

    Args:
        paths: files of annotations.
        slides: paths of the slides.

    Returns:
        the areas of each slide that has annotations; and the faults, of stage "annotation" where a file cannot be read,
        of stage "match" where its slide is not found.
    """
    areas_of: dict[Path, list[Area]] = defaultdict(list)
    faults = []
    for path in paths:
        try:
            areas_by_name = read_annotations(path)
        except (ValueError, OSError) as error:
            faults.append(Fault(path.name, "annotation", str(error)))
            continue
        for name, areas in areas_by_name.items():
            try:
                slide = find_slide(name, slides)
            except ValueError as error:
                faults.append(Fault(name, "match", f"{path}: {error}"))
                continue
            areas_of[slide] += areas
    return dict(areas_of), faults


def find_slide(name: str, slides: Sequence[Path]) -> Path:
    """Find the slide of an annotation.

    Their names without suffix are equal, or one continues the other after a dot; a TCGA barcode may also continue
    after a dash.

    Args:
        name: name of the slide as the annotation gives it, with or without suffix.
        slides: paths of the slides.

    Raises:
        ValueError: when no slide has the name, or several have.
    """
    matches = [slide for slide in slides if name in (slide.stem, slide.name)]
    if not matches:
        matches = [slide for slide in slides if _continues(slide.stem, name) or _continues(name, slide.stem)]
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


def read_annotations(path: str | Path) -> dict[str, list[Area]]:
    """Read the annotated areas of a file.

    Args:
        path: ``.geojson`` or ``.json``, ``.xml`` or ``.csv``.

    Returns:
        the areas of each slide; GeoJSON and XML name no slide, so theirs is the file name without suffix.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file or one of its areas does not have the expected form; the message begins with the path.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: annotations are {', '.join(_READERS)} files.")
    try:
        return read(path)
    except (ValueError, csv.Error, ElementTree.ParseError, RecursionError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path}: {reason}.") from error


def _read_geojson(path: Path) -> dict[str, list[Area]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"not a JSON file: {error}") from error
    areas = []
    for i, feature in enumerate(_list_features(content)):
        areas.extend(_parse_feature(feature, f"feature {i}"))
    return {path.stem: areas}


def _list_features(content: Any) -> list[Any]:
    features = content
    if isinstance(content, dict):
        is_collection = content.get("type") == "FeatureCollection"
        features = content.get("features") if is_collection else [content]
    if not isinstance(features, list):
        raise ValueError("expected a FeatureCollection, a list of features or one feature")
    return features


def _parse_feature(feature: Any, where: str) -> list[Area]:
    is_feature = isinstance(feature, dict) and feature.get("type") == "Feature"
    geometry = feature.get("geometry") if is_feature else None
    if not isinstance(geometry, dict):
        raise ValueError(f"{where}: expected a GeoJSON Feature with a geometry")
    kind = geometry.get("type")
    if kind in _NO_AREA:
        return []

    coordinates = geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(coordinates, list):
        raise ValueError(f"{where}: geometry '{kind}' is not a Polygon or MultiPolygon with coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    names = _class_names(feature.get("properties"))
    return [_parse_polygon(polygon, names, where) for polygon in polygons]


def _parse_polygon(outlines: Any, names: tuple[str, ...], where: str) -> Area:
    if not isinstance(outlines, list) or not outlines:
        raise ValueError(f"{where}: a polygon is a list of outlines")
    ring, *holes = [_parse_outline(points, where) for points in outlines]
    return Area(names, ring, tuple(holes))


def _class_names(properties: Any) -> tuple[str, ...]:
    """The name of the class in the properties of a feature; empty if it has none."""
    if not isinstance(properties, dict):
        return ()
    classification = properties.get("classification")
    if not isinstance(classification, dict):
        return ()
    parts = [str(part) for part in classification.get("names") or ()]
    name = classification.get("name") or ": ".join(parts)
    return (str(name),) if name else ()


def _parse_outline(points: Any, where: str) -> np.ndarray:
    """Turn an outline of (x, y) points into an array of (row, column)."""
    ring = _parse_points(points, where)
    if len(ring) < 3:
        raise ValueError(f"{where}: an outline needs at least 3 points, but has {len(ring)}")
    return ring


def _parse_points(points: Any, where: str) -> np.ndarray:
    rows_and_cols = []
    try:
        for x, y, *_ in points:
            rows_and_cols.append((float(y), float(x)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: an outline is a list of (x, y) numbers") from error
    ring = np.array(rows_and_cols)
    if not np.isfinite(ring).all():
        raise ValueError(f"{where}: an outline needs finite coordinates")
    return ring


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type: only there are entities declared, and no annotation needs one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type (DOCTYPE) is not accepted")


def _read_imagescope(path: Path) -> dict[str, list[Area]]:
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        root = ElementTree.parse(path, parser).getroot()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: of an unknown encoding
        raise ValueError(f"not an XML file: {error}") from error
    if root.tag != "Annotations":
        raise ValueError(f"ImageScope's XML begins with 'Annotations', but this file with '{root.tag}'")
    areas = []
    for i, layer in enumerate(root.iter("Annotation")):
        areas.extend(_parse_layer(layer, f"layer {i}"))
    return {path.stem: areas}


def _parse_layer(layer: ElementTree.Element, where: str) -> list[Area]:
    layer_names = [layer.get("Name", "")]
    for attribute in layer.iter("Attribute"):
        if attribute.get("Name") == "Description":
            layer_names.append(attribute.get("Value", ""))

    outlines = []
    holes = []
    for i, region in enumerate(layer.iter("Region")):
        if region.get("Type") in (_ARROW, _RULER):
            continue
        ring = _parse_region(region, f"{where}, region {i}")
        if region.get("NegativeROA") == "1":
            holes.append(ring)
        else:
            outlines.append((region.get("Text", ""), ring))

    areas = []
    for text, ring in outlines:
        stripped = [name.strip() for name in (text, *layer_names)]
        names = tuple(name for name in stripped if name)
        areas.append(Area(names, ring, tuple(holes)))
    return areas


def _parse_region(region: ElementTree.Element, where: str) -> np.ndarray:
    points = []
    for vertex in region.iter("Vertex"):
        points.append((vertex.get("X"), vertex.get("Y")))
    if region.get("Type") == _ELLIPSE and len(points) == 2:
        corners = _parse_points(points, where)
        return _ellipse_in_box(corners)
    return _parse_outline(points, where)


def _ellipse_in_box(corners: np.ndarray) -> np.ndarray:
    """Outline of the ellipse that fills a box, given by two opposite corners."""
    first, last = corners
    center = (first + last) / 2
    radii = (last - first) / 2
    step = 2 * np.pi / _ELLIPSE_POINTS
    angles = np.arange(_ELLIPSE_POINTS) * step
    unit_circle = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return center + radii * unit_circle


def _read_boxes(path: Path) -> dict[str, list[Area]]:
    with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
        reader = csv.DictReader(file, strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = list(reader)
    if not rows or not set(_COLUMNS) <= set(columns):
        raise ValueError(f"expected rows with the columns {', '.join(_COLUMNS)}")

    areas_of: dict[str, list[Area]] = defaultdict(list)
    for number, row in enumerate(rows, 1):
        slide = (row["slide"] or "").strip()
        label = (row["label"] or "").strip()
        if not slide:
            raise ValueError(f"row {number}: the slide is not named")
        names = (label,) if label else ()
        area = Area(names, _parse_box(row, f"row {number}"))
        areas_of[slide].append(area)
    return dict(areas_of)


def _parse_box(row: Mapping[str, str | None], where: str) -> np.ndarray:
    try:
        top, left, height, width = [float(row[column] or "") for column in _BOX]
    except ValueError as error:
        raise ValueError(f"{where}: row, col, height and width must be numbers") from error
    is_finite = math.isfinite(top + left + height + width)
    if not is_finite or height <= 0 or width <= 0:
        raise ValueError(f"{where}: a box needs a finite location and a positive height and width")
    bottom = top + height
    right = left + width
    return np.array([(top, left), (top, right), (bottom, right), (bottom, left)])


_READERS: dict[str, Callable[[Path], dict[str, list[Area]]]] = {
    ".geojson": _read_geojson,
    ".json": _read_geojson,
    ".xml": _read_imagescope,
    ".csv": _read_boxes,
}
ANNOTATION_SUFFIXES = tuple(_READERS)
