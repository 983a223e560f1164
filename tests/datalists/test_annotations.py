# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The three forms of annotations give the same areas; errors are messages of one line."""

from __future__ import annotations

import copy
import gzip
import json

import numpy as np
import pytest
from annotation_files import feature, layer, region, write, xml, xy

from monai_jsma.datalists.annotations import match_annotations, parse_annotations, read_annotations
from monai_jsma.datalists.regions import Area, merge_areas, place_regions
from monai_jsma.geometry import Box

BOX = np.array([(20, 10), (20, 40), (70, 40), (70, 10)], dtype=float)  # (row, col)


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
        ("a.json", [1], "expected a FeatureCollection"),
        ("a.json", {"training": []}, "expected a FeatureCollection"),
        ("a.xml", "<Annotations><Annotation>", "not an XML file"),
        ("a.xml", '<?xml version="1.0" encoding="none"?><Annotations/>', "not an XML file"),
        ("a.xml", "", "not an XML file"),
        ("a.xml", "<html/>", "begins with 'Annotations', but this file with 'html'"),
        ("a.xml", BOMB, "a document type .* is not accepted"),
        ("a.xml", BOMB.encode("utf-16"), "a document type .* is not accepted"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", b"\xff\xd8\xff", "a.csv: this is a JPEG image, not a CSV file"),
        ("a.csv", "a,b\n1,2\n", "expected rows with the columns slide, label, row"),
        ("a.csv", "slide,label,row,col,height\na,b,1,2,3\n", "expected rows with the columns"),
        ("a.csv", 'slide,label,row,col,height,width\n"a,b', "unexpected end of data"),
        ("a.txt", "", "annotations are .geojson, .geojson.gz, .json, .json.gz, .xml, .csv files"),
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


GOOD = feature([xy(BOX)])
SECOND = "layer 0, region 1"
HEAD = "slide,label,row,col,height,width\na,Gleason 3,20,10,50,30\n"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (feature([[[1, 2], [3, 4]]]), "feature 1 (Gleason 3): an outline needs at least 3 points, but has 2"),
        (feature([[]]), "feature 1 (Gleason 3): an outline needs at least 3 points, but has 0"),
        (feature([[[1, 2], [3, 4], [5, 6], [1, 2]]]), "an outline whose points lie on one line encloses no area"),
        (feature([[[5, 5], [5, 5], [5, 5]]]), "an outline whose points lie on one line encloses no area"),
        (feature([[[1, 2], [3, "x"], [4, 5]]]), "feature 1 (Gleason 3): an outline is a list of (x, y) numbers"),
        (feature([[[1, 2], [3], [4, 5]]]), "an outline is a list of (x, y) numbers"),
        (feature([[[1, 2], [10**400, 3], [4, 5]]]), "an outline is a list of (x, y) numbers"),
        (feature([[[1, 2], [3, float("nan")], [4, 5]]]), "an outline needs finite coordinates"),
        (feature([[[1, 2], [3, 1e300], [4, 5]]]), "an outline with a coordinate of 1e+300 is not in pixels of a slide"),
        (feature([None]), "an outline is a list of (x, y) numbers"),
        (feature([]), "a polygon is a list of outlines"),
        (feature(None), "geometry 'Polygon' is not a Polygon or MultiPolygon with coordinates"),
        (feature([], kind="MultiPolygon"), "its MultiPolygon is empty"),
        (feature([], kind="Circle"), "geometry 'Circle' is not a Polygon or MultiPolygon with coordinates"),
        ({"type": "Feature", "geometry": None, "properties": {"name": "mine"}}, "feature 1 (mine): it has no geometry"),
        ({"type": "Feature"}, "feature 1: it has no geometry"),
        ({"type": "Feature", "geometry": "Polygon"}, "feature 1: expected a GeoJSON Feature with a geometry"),
        ({"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": []}}, "its GeometryCollection"),
        (None, "feature 1: expected a GeoJSON Feature with a geometry"),
        ({"type": "Polygon", "coordinates": [xy(BOX)]}, "feature 1: expected a GeoJSON Feature with a geometry"),
    ],
)  # fmt: skip
def test_a_bad_object_is_left_out_and_the_others_are_used(tmp_path, caplog, bad, reason):
    path = write(tmp_path, "a.geojson", {"type": "FeatureCollection", "features": [GOOD, bad, GOOD]})
    content = parse_annotations(path)
    assert [area.ring[:4].tolist() for area in content.areas["a"]] == [BOX.tolist()] * 2
    (fault,) = content.faults
    assert (fault.where, fault.stage) == ("a", "object")
    assert fault.reason.startswith(f"{path}: feature 1")
    assert reason in fault.reason
    assert fault.reason.endswith("; it is left out.")
    assert len(read_annotations(path)["a"]) == 2
    assert caplog.messages == [fault.reason]


STRANGE = [
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**400, "", "x", "12", "\ud800", [], {}, [[]], [None],
    ["12"], [1, 2], [[1, 2]], {"type": "Polygon"}, {"type": "GeometryCollection", "geometries": 5},
]  # fmt: skip


def list_places(value, place=()):
    yield place
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from list_places(value[key], (*place, key))


@pytest.mark.parametrize("strange", STRANGE, ids=[f"{i}" for i in range(len(STRANGE))])
def test_nothing_in_one_object_spoils_the_others(tmp_path, strange):
    """Every part of the middle object in turn is something strange."""
    hole = xy(BOX / 4 + 15)
    middle = feature([[xy(BOX), hole], [xy(BOX + 100)]], kind="MultiPolygon", name="G4")
    for place in list(list_places(middle))[1:]:
        spoiled = copy.deepcopy(middle)
        part = spoiled
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = strange
        content = parse_annotations(write(tmp_path, "a.json", [GOOD, spoiled, GOOD]))
        items = [area.item for area in content.areas["a"]]
        assert [item for item in items if "feature 1" not in item] == ["feature 0 (Gleason 3)", "feature 2 (Gleason 3)"]
        assert all(np.isfinite(area.ring).all() for area in content.areas["a"])
        num_parts = sum(1 + len(area.holes) for area in content.areas["a"] if "feature 1" in area.item)
        assert num_parts == 3 or content.faults, place


def test_only_the_bad_part_of_an_object_is_left_out(tmp_path):
    line = [[1, 1], [2, 2]]
    collection = {"type": "GeometryCollection", "geometries": [
        GOOD["geometry"], {"type": "Point", "coordinates": [1, 2]}, None,
        {"type": "GeometryCollection", "geometries": [GOOD["geometry"]]},
    ]}  # fmt: skip
    content = [
        feature([[line], [xy(BOX)]], kind="MultiPolygon"),
        feature([xy(BOX), line, xy(BOX / 2 + 10)]),
        {**GOOD, "geometry": collection},
    ]
    found = parse_annotations(write(tmp_path, "a.geojson", content))
    assert [len(area.holes) for area in found.areas["a"]] == [0, 1, 0, 0]
    assert [fault.item for fault in found.faults] == [
        "feature 0 (Gleason 3)", "feature 1 (Gleason 3), hole 1", "feature 2 (Gleason 3)",
    ]  # fmt: skip


def test_an_outline_that_crosses_or_touches_itself_is_used(tmp_path):
    bow_tie = [[0, 0], [40, 40], [40, 0], [0, 40], [0, 0]]
    touching = [[0, 0], [40, 0], [20, 20], [40, 40], [0, 40], [20, 20], [0, 0]]
    content = parse_annotations(write(tmp_path, "a.geojson", [feature([bow_tie]), feature([touching])]))
    assert content.faults == []
    assert [merge_areas([area.on_canvas(None)]).area for area in content.areas["a"]] == [800, 800]


@pytest.mark.parametrize(
    "classification", [None, 7, {}, {"names": 5}, {"names": None}, {"name": None}, {"name": {}}, {"name": ""}, []]
)
def test_a_strange_class_is_no_class(tmp_path, classification):
    content = [GOOD, {**GOOD, "properties": {"classification": classification}}]
    areas = read_annotations(write(tmp_path, "a.geojson", content))["a"]
    assert [area.names for area in areas] == [("Gleason 3",), ()]


@pytest.mark.parametrize(
    ("name", "content", "item", "reason"),
    [
        ("a.xml", xml(layer(region(BOX), region(BOX[:2]))), f"{SECOND} (Gleason 3)", "at least 3 points"),
        ("a.xml", xml(layer(region(BOX), region(BOX, Text="G4").replace("X=", "Q="))), f"{SECOND} (G4)", "list"),
        ("a.xml", xml(layer(region(BOX), region(BOX).replace('"40.0"', '"nan"'))), f"{SECOND} (Gleason 3)", "fin"),
        ("a.xml", xml(layer(region(BOX), region(BOX[[0, 0]], Type="2"))), f"{SECOND} (Gleason 3)", "an ellipse"),
        ("a.xml", xml(layer(region(BOX), region(BOX[:1], NegativeROA="1"))), f"{SECOND} (Gleason 3)", "has 1"),
        ("a.csv", HEAD + "a,b,1,2,3\n", "row 2 (b)", "row, col, height and width must be numbers"),
        ("a.csv", HEAD + "a,b,1,2,3,x\n", "row 2 (b)", "must be numbers"),
        ("a.csv", HEAD + "a,,1,2,0,4\n", "row 2", "a positive height and width"),
        ("a.csv", HEAD + "a,b,nan,2,3,4\n", "row 2 (b)", "a finite location"),
        ("a.csv", HEAD + "a,b,1e200,2,3,4\n", "row 2 (b)", "is not in pixels of a slide"),
        ("a.csv", HEAD + ",b,1,2,3,4\n", "row 2", "the slide is not named"),
        ("a.csv", HEAD + 'a,"b,1,2,3,4\n', "row 2", "a quotation mark in it is not closed"),
        ("a.csv", HEAD + "a,b,1,5,2,5,3,4\n", "row 2 (b)", "it has 8 cells, but there are 6 columns"),
        ("a.csv", HEAD + "a,b,1_0,2,3,4\n", "row 2 (b)", "must be numbers"),
        ("a.xml", xml(layer(region(BOX)), layer(region(BOX, NegativeROA="1"))), "layer 1, region 0 (Gleason 3)", "cut"),
    ],
)  # fmt: skip
def test_a_bad_region_or_row_is_left_out_and_the_others_are_used(tmp_path, name, content, item, reason):
    found = parse_annotations(write(tmp_path, name, content))
    (area,) = found.areas["a"]
    assert area.ring[:4].tolist() == BOX.tolist()
    assert area.holes == ()
    assert [fault.item for fault in found.faults] == [item]
    assert reason in found.faults[0].reason


def test_decimal_commas_are_read(tmp_path):
    """As ImageScope and spreadsheets write them in many countries."""
    ring = np.array([[10.5, 20.5], [10.5, 60.5], [50.5, 60.5], [50.5, 20.5]])
    with_commas = region(ring).replace(".5", ",5")
    (area,) = parse_annotations(write(tmp_path, "a.xml", xml(layer(with_commas)))).areas["a"]
    assert area.ring[:4].tolist() == ring.tolist()
    row = 'a,b,"10,5","20,5",40,40\n'
    (area,) = parse_annotations(write(tmp_path, "a.csv", "slide,label,row,col,height,width\n" + row)).areas["a"]
    assert area.ring[:4].tolist() == ring.tolist()


def test_a_column_that_is_there_twice_is_an_error(tmp_path):
    path = write(tmp_path, "a.csv", "slide,label,row,row,col,height,width\na,b,1,2,3,4,5\n")
    with pytest.raises(ValueError, match=r"a\.csv: the column row is there 2 times; leave one"):
        parse_annotations(path)


def test_bad_objects_are_named_with_their_slide(tmp_path):
    bad = feature([[[1, 2]]])
    slides = [tmp_path / "x" / "a.svs"]
    paths = [tmp_path / "a.geojson", tmp_path / "other.geojson", tmp_path / "t.csv"]
    for path in paths[:2]:
        write(tmp_path, path.name, [GOOD, bad])
    write(tmp_path, "t.csv", HEAD + ",b,1,2,3,4\n")
    areas, faults = match_annotations(paths, slides)
    assert [len(of_slide) for of_slide in areas.values()] == [2]
    assert [(fault.where, fault.stage) for fault in faults] == [
        (str(slides[0]), "object"), ("other", "match"), ("t.csv", "object"),
    ]  # fmt: skip


def test_each_tool_has_its_frame(tmp_path):
    contents = {
        "a.geojson": ([GOOD], "bounds"),
        "a.json": ({"type": "FeatureCollection", "frame": "canvas", "features": [GOOD]}, "canvas"),
        "a.xml": (xml(layer(region(BOX))), "canvas"),
        "a.csv": (HEAD, "canvas"),
    }
    bounds = Box(100, 200, 300, 400)
    for name, (content, frame) in contents.items():
        path = write(tmp_path, name, content)
        (area,) = read_annotations(path)["a"]
        assert area.frame == frame
        moved = area.on_canvas(bounds)
        shift = (100, 200) if frame == "bounds" else (0, 0)
        assert moved.ring[:4].tolist() == (BOX + shift).tolist()
        assert moved.on_canvas(bounds) is moved
        for other in ("bounds", "canvas"):
            (area,) = read_annotations(path, frame=other)["a"]
            assert area.frame == other
    with pytest.raises(ValueError, match="is 'bounds' .* or 'canvas' .*, but is 'qupath'"):
        read_annotations(path, frame="qupath")
    with pytest.raises(ValueError, match=r"b\.json: its member 'frame' is 7, not .*say with --frame"):
        read_annotations(write(tmp_path, "b.json", {**contents["a.json"][0], "frame": 7}))


def test_holes_move_with_their_area():
    area = Area((), BOX, (BOX / 2,), frame="bounds").on_canvas(Box(5, 7, 100, 100))
    assert area.holes[0].tolist() == (BOX / 2 + (5, 7)).tolist()
    assert area.frame == "canvas"


def test_an_area_of_another_frame_is_not_taken_for_pixels_of_the_file():
    area = Area((), BOX, frame="bounds")
    with pytest.raises(ValueError, match=r"count from the 'bounds' .* area\.on_canvas"):
        merge_areas([area])
    with pytest.raises(ValueError, match=r"count from the 'bounds'"):
        place_regions({0: [area]}, (100, 100), 20, cover=0.5, rng=np.random.default_rng(0))


@pytest.mark.parametrize("suffix", [".geojson.gz", ".GeoJSON.GZ", ".json.gz"])
def test_compressed_geojson(tmp_path, suffix):
    ring = [[10, 20], [60, 20], [60, 90], [10, 90]]
    path = tmp_path / f"TCGA-AA.v1{suffix}"
    path.write_bytes(gzip.compress(json.dumps([feature([ring])]).encode()))
    [(slide, [area])] = read_annotations(path).items()
    assert slide == "TCGA-AA.v1"
    np.testing.assert_array_equal(area.ring, np.array(ring)[:, ::-1])


@pytest.mark.parametrize("content", [b"", b"{}", gzip.compress(b"{}" * 99, mtime=0)[:-9]])
def test_compressed_file_that_is_none(tmp_path, content):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.geojson\.gz: (not a whole gzip file: .*|the file is empty .*)\."):
        read_annotations(path)
