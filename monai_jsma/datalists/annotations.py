# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotations of slides as pathologists' tools write them: QuPath GeoJSON, Aperio ImageScope XML, CSV of boxes.

All three give coordinates in level-0 pixels. The files say (x, y), the areas read from them (row, column).

* GeoJSON: a FeatureCollection, a list of features or one feature; the class is ``properties.classification.name``
  (QuPath writes ``names`` for a derived class). Points and lines have no area and are not used.
* XML: the class is the text of a region, else the name or the description of its layer. A region with ``NegativeROA``
  is cut out of its layer. Arrows and rulers are not used. A document type, where entities are declared, is refused.
* CSV: ``slide,label,row,col,height,width``, a box each row.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from monai_jsma.datalists.regions import Area

__all__ = ["ANNOTATION_SUFFIXES", "read_annotations"]

_BOX = ("row", "col", "height", "width")
_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_ELLIPSE, _ARROW, _RULER = "2", "3", "4"  # ImageScope's numbers of region types


def read_annotations(path: str | Path) -> dict[str, list[Area]]:
    """Read the annotated areas of a file.

    Args:
        path: ``.geojson`` or ``.json``, ``.xml`` or ``.csv``.

    Returns:
        the areas of each slide; GeoJSON and XML name none, so that theirs is the stem of the file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not what its suffix says, or an area is not; the message begins with the path.
    """
    path = Path(path)
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"{path}: annotations are {', '.join(_READERS)} files.")
    try:
        return _READERS[path.suffix.lower()](path)
    except (ValueError, csv.Error, ElementTree.ParseError, RecursionError) as error:
        raise ValueError(f"{path}: {str(error).rstrip('.')}.") from error


def _ring(points: Any, what: str) -> np.ndarray:
    """Outline of (x, y) points as an array of (row, column)."""
    try:
        ring = np.array([(float(y), float(x)) for x, y, *_ in points])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: an outline is a list of (x, y) numbers") from error
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError(f"{what}: an outline needs at least 3 points with finite coordinates, but has {len(ring)}")
    return ring


def _geojson(path: Path) -> dict[str, list[Area]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"not a JSON file: {error}") from error
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list):
        raise ValueError("needed are a FeatureCollection, a list of features or one feature")
    return {path.stem: [area for i, feature in enumerate(content) for area in _areas(feature, f"feature {i}")]}


def _areas(feature: Any, what: str) -> Iterator[Area]:
    if (
        not isinstance(feature, dict)
        or feature.get("type") != "Feature"
        or not isinstance(feature.get("geometry"), dict)
    ):
        raise ValueError(f"{what}: needed is a GeoJSON Feature with a geometry")
    names = _class_of(feature.get("properties"))
    kind, parts = feature["geometry"].get("type"), feature["geometry"].get("coordinates")
    if kind in _NO_AREA:
        return
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(parts, list):
        raise ValueError(f"{what}: geometry '{kind}' is no Polygon or MultiPolygon with coordinates")
    for part in [parts] if kind == "Polygon" else parts:
        if not isinstance(part, list) or not part:
            raise ValueError(f"{what}: a polygon is a list of outlines")
        ring, *holes = (_ring(points, what) for points in part)
        yield Area(names, ring, tuple(holes))


def _class_of(properties: Any) -> tuple[str, ...]:
    found = properties.get("classification") if isinstance(properties, dict) else None
    if not isinstance(found, dict):
        return ()
    name = found.get("name") or ": ".join(map(str, found.get("names") or ()))
    return (str(name),) if name else ()


class _NoDoctype(ElementTree.TreeBuilder):
    """Entities are declared in a document type only, and no annotation needs one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type (DOCTYPE) is not accepted")


def _imagescope(path: Path) -> dict[str, list[Area]]:
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_NoDoctype())).getroot()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"not an XML file: {error}") from error
    if root.tag != "Annotations":
        raise ValueError(f"ImageScope's XML begins with 'Annotations', this with '{root.tag}'")
    return {path.stem: [area for i, layer in enumerate(root.iter("Annotation")) for area in _layer(layer, i)]}


def _layer(layer: ElementTree.Element, index: int) -> list[Area]:
    described = [a.get("Value", "") for a in layer.iter("Attribute") if a.get("Name") == "Description"]
    names = [layer.get("Name", ""), *described]
    found: dict[bool, list[tuple[str, np.ndarray]]] = {False: [], True: []}
    for i, region in enumerate(layer.iter("Region")):
        if region.get("Type") not in (_ARROW, _RULER):
            outline = _region_ring(region, f"layer {index}, region {i}")
            found[region.get("NegativeROA") == "1"].append((region.get("Text", ""), outline))
    holes = tuple(ring for _, ring in found[True])
    return [Area(tuple(n.strip() for n in (text, *names) if n.strip()), ring, holes) for text, ring in found[False]]


def _region_ring(region: ElementTree.Element, what: str) -> np.ndarray:
    points = [(v.get("X"), v.get("Y")) for v in region.iter("Vertex")]
    if region.get("Type") != _ELLIPSE or len(points) != 2:
        return _ring(points, what)
    (top, left), _, (bottom, right) = _ring([points[0], points[0], points[1]], what)  # two corners of its box
    angle = np.arange(128) * (2 * np.pi / 128)
    middle, half = ((top + bottom) / 2, (left + right) / 2), ((bottom - top) / 2, (right - left) / 2)
    return np.stack([middle[0] + half[0] * np.sin(angle), middle[1] + half[1] * np.cos(angle)], axis=1)


def _boxes(path: Path) -> dict[str, list[Area]]:
    with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
        rows = [{str(k).strip(): v for k, v in row.items()} for row in csv.DictReader(file, strict=True)]
    if not rows or not {"slide", "label", *_BOX} <= set(rows[0]):
        raise ValueError(f"needed are rows with the columns slide, label, {', '.join(_BOX)}")
    found: dict[str, list[Area]] = {}
    for number, row in enumerate(rows, 1):
        slide, label = ((row[key] or "").strip() for key in ("slide", "label"))
        if not slide:
            raise ValueError(f"row {number}: the slide is not named")
        found.setdefault(slide, []).append(Area((label,) if label else (), _box_ring(row, f"row {number}")))
    return found


def _box_ring(row: Mapping[str, str | None], what: str) -> np.ndarray:
    try:
        top, left, height, width = (float(row[key] or "") for key in _BOX)
    except ValueError as error:
        raise ValueError(f"{what}: row, col, height and width must be numbers") from error
    if not (math.isfinite(top + left + height + width) and height > 0 and width > 0):
        raise ValueError(f"{what}: a box needs a finite place and a positive height and width")
    return np.array([(top, left), (top, left + width), (top + height, left + width), (top + height, left)])


_READERS: dict[str, Callable[[Path], dict[str, list[Area]]]] = {
    ".geojson": _geojson,
    ".json": _geojson,
    ".xml": _imagescope,
    ".csv": _boxes,
}
ANNOTATION_SUFFIXES = tuple(_READERS)
