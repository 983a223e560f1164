# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotations as programs write them: QuPath's GeoJSON, ImageScope's XML, and outlines of boxes."""

from __future__ import annotations

import json

import numpy as np
from matplotlib.path import Path as Outline

from monai_jsma.datalists.regions import Area


def feature(coordinates, name="Gleason 3", kind="Polygon"):
    found = {"classification": {"name": name, "color": [1, 2, 3]}} if name else {}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", **found},
    }


def xy(ring: np.ndarray) -> list[list[float]]:
    return [[float(c), float(r)] for r, c in [*ring, ring[0]]]


def region(ring: np.ndarray, **attributes: str) -> str:
    vertices = "".join(f'<Vertex X="{c}" Y="{r}" Z="0"/>' for r, c in ring)
    fields = " ".join(f'{k}="{v}"' for k, v in {"Type": "0", "NegativeROA": "0", "Text": "", **attributes}.items())
    return f"<Region {fields}><Vertices>{vertices}</Vertices></Region>"


def layer(*regions: str, name: str = "Gleason 3", description: str = "") -> str:
    attributes = f'<Attributes><Attribute Name="Description" Id="0" Value="{description}"/></Attributes>'
    return f'<Annotation Id="1" Name="{name}">{attributes}<Regions>{"".join(regions)}</Regions></Annotation>'


def xml(*layers: str) -> str:
    return f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>'


def write(folder, name: str, content) -> str:
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(folder / name)


def box(row: float, col: float, height: float, width: float) -> np.ndarray:
    return np.array([(row, col), (row, col + width), (row + height, col + width), (row + height, col)], dtype=float)


def covered(areas: list[Area], row: int, col: int, side: int) -> float:
    """Share of 32x32 points of a region that lie in an area, each point asked by itself."""
    centres = (np.arange(32) + 0.5) * side / 32
    points = np.stack(np.meshgrid(row + centres, col + centres, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.zeros(len(points), dtype=bool)
    for area in areas:
        one = Outline(area.ring).contains_points(points)
        for hole in area.holes:
            one &= ~Outline(hole).contains_points(points)
        inside |= one
    return inside.mean()
