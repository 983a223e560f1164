# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The three forms of annotations give the same areas; errors are messages of one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monai_jsma.datalists.annotations import read_annotations

BOX = np.array([(20, 10), (20, 40), (70, 40), (70, 10)], dtype=float)  # (row, col)


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


def test_all_forms_give_the_same_area(tmp_path):
    files = {
        "s.geojson": {"type": "FeatureCollection", "features": [feature([xy(BOX)])]},
        "s.json": [feature([xy(BOX)])],
        "s.GeoJSON": feature([xy(BOX)]),
        "s.xml": xml(layer(region(BOX))),
        "s.csv": "slide,label,row,col,height,width\ns,Gleason 3,20,10,50,30\n",
    }
    for name, content in files.items():
        (slide, areas), *rest = read_annotations(write(tmp_path, name, content)).items()
        assert (slide, rest, len(areas)) == ("s", [], 1)
        assert areas[0].names == ("Gleason 3",)
        assert areas[0].holes == ()
        assert areas[0].ring[:4].tolist() == BOX.tolist()


def test_geojson_parts_and_holes(tmp_path):
    hole, island = BOX / 2 + 10, BOX / 4 + 15
    content = [
        feature([[xy(BOX), xy(hole)], [xy(island)]], kind="MultiPolygon"),
        feature([1.0, 2.0], kind="Point"),
        feature([[1, 2], [3, 4]], kind="LineString"),
        feature([xy(BOX)], name=None),
        {**feature([xy(BOX)]), "properties": None},
        {**feature([xy(BOX)]), "properties": {"classification": {"names": ["Tumor", "G3"]}}},
    ]
    (areas,) = read_annotations(write(tmp_path, "s.geojson", content)).values()
    assert [a.names for a in areas] == [("Gleason 3",)] * 2 + [()] * 2 + [("Tumor: G3",)]
    assert areas[0].holes[0][:4].tolist() == hole.tolist()
    assert areas[1].ring[:4].tolist() == island.tolist()
    assert areas[1].holes == ()


def test_imagescope_layers(tmp_path):
    text = xml(
        layer(region(BOX, Text=" G4 "), region(BOX + 5, NegativeROA="1"), region(BOX[:2], Type="4"), name=""),
        layer(region(BOX[:2], Type="3"), region(BOX), name="", description="benign"),
        layer(region(BOX, Text="look here")),
    )
    (areas,) = read_annotations(write(tmp_path, "s.xml", text)).values()
    assert [a.names for a in areas] == [("G4",), ("benign",), ("look here", "Gleason 3")]
    assert [len(a.holes) for a in areas] == [1, 0, 0]
    assert areas[0].holes[0].tolist() == (BOX + 5).tolist()


def test_imagescope_ellipse(tmp_path):
    """Two corners of its box; its area is pi times both half axes."""
    text = xml(layer(region(BOX[[0, 2]], Type="2")))
    ((area,),) = read_annotations(write(tmp_path, "s.xml", text)).values()
    r, c = area.ring.T
    assert abs(np.dot(r, np.roll(c, 1)) - np.dot(c, np.roll(r, 1))) / 2 == pytest.approx(np.pi * 25 * 15, rel=1e-3)
    assert area.ring.min(0) == pytest.approx([20, 10])
    assert area.ring.max(0) == pytest.approx([70, 40])


def test_table_of_several_slides(tmp_path):
    text = (
        "\ufeffslide, label ,row,col,height,width,by\r\nb.svs,G3,1,2,3,4,x\r\na,,5,6,7.5,8,y\r\nb.svs,G4,9,9,9,9,z\r\n"
    )
    found = read_annotations(write(tmp_path, "boxes.csv", text))
    assert {s: [a.names for a in areas] for s, areas in found.items()} == {"b.svs": [("G3",), ("G4",)], "a": [()]}
    assert found["a"][0].ring.max(0).tolist() == [12.5, 14]


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><Annotations>&c;</Annotations>'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"type": ', "not a JSON file"),
        ("a.json", "[" * 100_000, "recursion"),
        ("a.json", b"\xff\xfe\x00", "not a JSON file"),
        ("a.json", "7", "expected a FeatureCollection"),
        ("a.json", '{"type": "FeatureCollection"}', "expected a FeatureCollection"),
        ("a.json", [1], "feature 0: expected a GeoJSON Feature"),
        ("a.json", [{"type": "Feature", "geometry": None}], "feature 0: expected a GeoJSON Feature with a geometry"),
        ("a.json", {"training": []}, "feature 0: expected a GeoJSON Feature"),
        ("a.json", [feature([], kind="Circle")], "geometry 'Circle' is not a Polygon"),
        ("a.json", [feature(None)], "not a Polygon or MultiPolygon with coordinates"),
        ("a.json", [feature([])], "a polygon is a list of outlines"),
        ("a.json", [feature([[[1, 2], [3, 4]]])], "feature 0: an outline needs at least 3 points, but has 2"),
        ("a.json", [feature([xy(BOX)]), feature([[[1, 2], [3, "x"], [4, 5]]])], "feature 1: an outline is a list"),
        ("a.json", [feature([[[1, 2], [3, float("nan")], [4, 5]]])], "finite coordinates"),
        ("a.xml", "<Annotations><Annotation>", "not an XML file"),
        ("a.xml", '<?xml version="1.0" encoding="none"?><Annotations/>', "not an XML file"),
        ("a.xml", "", "not an XML file"),
        ("a.xml", "<html/>", "begins with 'Annotations', but this file with 'html'"),
        ("a.xml", BOMB, "a document type .* is not accepted"),
        ("a.xml", BOMB.encode("utf-16"), "a document type .* is not accepted"),
        ("a.xml", xml(layer(region(BOX[:2]))), "layer 0, region 0: an outline needs at least 3 points"),
        ("a.xml", xml(layer(region(BOX).replace("X=", "Q="))), "layer 0, region 0: an outline is a list"),
        ("a.csv", "", "expected rows with the columns slide, label, row"),
        ("a.csv", "slide,label,row,col,height\na,b,1,2,3\n", "expected rows with the columns"),
        ("a.csv", "slide,label,row,col,height,width\na,b,1,2,3\n", "row 1: row, col, height and width must be numbers"),
        ("a.csv", "slide,label,row,col,height,width\na,b,1,2,3,x\n", "row 1: .* must be numbers"),
        ("a.csv", "slide,label,row,col,height,width\na,b,1,2,3,4\na,b,1,2,0,4\n", "row 2: a box needs"),
        ("a.csv", "slide,label,row,col,height,width\na,b,nan,2,3,4\n", "row 1: a box needs a finite location"),
        ("a.csv", "slide,label,row,col,height,width\n,b,1,2,3,4\n", "row 1: the slide is not named"),
        ("a.csv", 'slide,label,row,col,height,width\n"a,b', "unexpected end of data"),
        ("a.txt", "", "annotations are .geojson, .json, .xml, .csv files"),
    ],
)  # fmt: skip
def test_one_line_for_what_is_wrong(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.json", "a.xml", "a.csv"])
def test_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError):
        read_annotations(tmp_path / name)
