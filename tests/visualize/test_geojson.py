# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
import json
import uuid
from dataclasses import replace

import jsonschema
import numpy as np
import openslide
import pytest
import shapely
import tifffile
from attention_cases import make_pyramid
from record_cases import pyramid_of, record_of
from slide_files import write_pyramid

from monai_jsma.datalists.annotations import read_annotations
from monai_jsma.predictions.measures import covered_shares
from monai_jsma.visualize import feature_collection

RED, GREY = (250, 10, 10), 100
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_COLOUR = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "minItems": 3, "maxItems": 3}
# What QuPath's reader of objects demands: a class has both name and colour, measurements are numbers by name.
SCHEMA = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {"type": {"const": "FeatureCollection"}, "features": {"items": {"$ref": "#/$defs/feature"}}},
    "$defs": {
        "feature": {
            "type": "object",
            "required": ["type", "id", "geometry", "properties"],
            "properties": {
                "type": {"const": "Feature"},
                "id": {"type": "string"},
                "geometry": {
                    "required": ["type", "coordinates"],
                    "properties": {
                        "type": {"const": "Polygon"},
                        "coordinates": {
                            "items": {
                                "type": "array",
                                "items": {**_NUMBERS, "minItems": 2, "maxItems": 2},
                                "minItems": 4,
                            }
                        },
                    },
                },
                "properties": {
                    "required": ["objectType", "measurements"],
                    "additionalProperties": False,
                    "properties": {
                        "objectType": {"enum": ["annotation", "tile"]},
                        "name": {"type": "string"},
                        "color": _COLOUR,
                        "classification": {
                            "required": ["name", "color"],
                            "properties": {"name": {"type": "string", "minLength": 1}, "color": _COLOUR},
                        },
                        "isLocked": {"type": "boolean"},
                        "measurements": {"type": "object", "additionalProperties": {"type": "number"}},
                        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                },
            },
        }
    },
}


def grey_record(size=(60, 100), attention=None, weights=None, **options):
    pyramid = make_pyramid(np.full((160, 200, 3), 100, np.uint8), origin=(10, 30), size=size)
    return record_of(pyramid, attention or {1: 0.25, 4: 0.75}, weights, **options)


def bounds(feature):
    """First x, first y, last x, last y."""
    return shapely.geometry.shape(feature["geometry"]).bounds


def test_objects_say_what_was_predicted_and_where():
    region, first, second = feature_collection([grey_record(label=0)])["features"]
    assert bounds(region) == (30, 10, 130, 70)
    assert region["properties"] == {
        "objectType": "annotation",
        "name": "predicted tumour, viable (0.75)",
        "classification": {"name": "tumour, viable", "color": [213, 94, 0]},
        "isLocked": True,
        "measurements": {
            "probability benign": 0.25, "probability tumour, viable": 0.75,
            "attention 100X": 0.25, "attention 200X": 0.75,
        },
        "metadata": {"file": "slides/a.png", "group": "slides/a.png", "true class": "benign"},
    }  # fmt: skip
    assert bounds(first) == (90, 10, 130, 50)
    assert first["properties"]["name"] == "1: 200X, weight 0.75"
    assert first["properties"]["measurements"] == {"attention": 0.75, "weight": 0.75, "mpp": 0.5, "magnification": 200}
    assert first["properties"]["classification"] == region["properties"]["classification"]
    assert bounds(second) == (50, 10, 130, 70), "80 pixels wide and high, but cut off at the region's edge"
    assert second["properties"]["name"] == "2: 100X, weight 0.25"


def test_all_objects_are_valid_and_have_lasting_identifiers():
    regions = [grey_record(), grey_record(size=(60, 101))]
    made = feature_collection(regions, cells=True)
    jsonschema.validate(json.loads(json.dumps(made)), SCHEMA)
    for feature in made["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.exterior.is_ccw, "RFC 7946: the right-hand rule"
        assert feature["geometry"]["coordinates"][0][0] == feature["geometry"]["coordinates"][0][-1]
    identifiers = [feature["id"] for feature in made["features"]]
    assert len({uuid.UUID(i) for i in identifiers}) == len(identifiers) == 2 * (1 + 2 + 8)
    assert feature_collection(regions, cells=True) == made
    assert [f["id"] for f in feature_collection(regions[1:])["features"]] == identifiers[11:14]


def test_cells_tile_the_region_with_their_attention():
    record = grey_record()
    tiles = feature_collection([record], cells=True)["features"][3:]
    assert {t["properties"]["objectType"] for t in tiles} == {"tile"}
    shapes = [shapely.geometry.shape(t["geometry"]) for t in tiles]
    for part in (shapes[:2], shapes[2:]):
        assert shapely.union_all(part).equals(shapely.box(30, 10, 130, 70))
        assert sum(s.area for s in part) == pytest.approx(60 * 100)
    found = [t["properties"]["measurements"] for t in tiles]
    assert found == [{"attention 100X": a} for a in (0, 0.25)] + [{"attention 200X": a} for a in (0, 0, 0.75, 0, 0, 0)]


def test_numbers_of_equal_weights_are_those_of_the_pictures():
    record = grey_record(attention={4: 0.5, 1: 0.5})
    names = [f["properties"]["name"] for f in feature_collection([record])["features"]]
    assert names[1:] == ["1: 100X, weight 0.5", "2: 200X, weight 0.5"]


def test_the_package_reads_its_objects_back(tmp_path):
    record, path = grey_record(), tmp_path / "a.geojson"
    path.write_text(json.dumps(feature_collection([record])), encoding="utf-8")
    region, *patches = [area.on_canvas(None) for area in read_annotations(path)["a"]]
    assert region.names == ("tumour, viable",)
    np.testing.assert_allclose(covered_shares(record.geometry, record.location, [region]), 1)
    assert [ring.min(0).tolist() for ring in (p.ring for p in patches)] == [[10, 90], [10, 50]]


@pytest.mark.parametrize("change", [{"row": 5}, {"col": 0}, {"magnification": "400X"}, {"box": (10, 91, 40, 40)}])
def test_a_patch_beside_its_cell_is_refused(change):
    record = grey_record()
    moved = replace(record, patches=(replace(record.patches[0], **change),))
    with pytest.raises(ValueError, match=r"slides/a\.png at \(10, 30\).*does not lie at a cell"):
        feature_collection([moved])


def tifffile_window(path, row, col, height, width):
    return tifffile.imread(path, level=0)[row : row + height, col : col + width]


def openslide_window(path, row, col, height, width):
    with openslide.OpenSlide(path) as slide:
        return np.array(slide.read_region((col, row), 0, (width, height)))[..., :3]


@pytest.mark.parametrize("window", [tifffile_window, openslide_window])
@pytest.mark.parametrize(
    ("magnifications", "region"),
    [
        ((1.0, 0.5), ((0, 0), (611, 903))),
        ((1.7, 0.61), ((0, 0), (611, 903))),
        ((1.7, 0.61), ((101, 57), (433, 731))),
        ((3.3, 1.3), ((37, 203), (571, 431))),
    ],
)
def test_the_polygon_of_a_patch_holds_what_the_patch_shows(tmp_path, window, magnifications, region):
    """A red rectangle lies in the pixels of a patch where it lies in the polygon, for whoever else reads the slide."""
    pixels, red = np.full((611, 903, 3), GREY, np.uint8), shapely.box(411, 303, 437, 345)
    pixels[303:345, 411:437] = RED
    path = write_pyramid(tmp_path / "s.tif", [pixels], compression="deflate")
    pyramid = pyramid_of(path, magnifications, 64, origin=region[0], size=region[1])
    redness = (pyramid.read(range(pyramid.geometry.num_cells))[:, 0] - float(GREY)) / (RED[0] - GREY)
    ends = pyramid.geometry.offsets
    chosen = [a + int(redness[a:b].sum((1, 2)).argmax()) for a, b in zip(ends, ends[1:])]  # one a magnification
    made = feature_collection([record_of(pyramid, dict.fromkeys(chosen, 0.5))])
    for seen, feature in zip(redness[chosen], made["features"][1:], strict=True):
        polygon = shapely.geometry.shape(feature["geometry"])
        (x0, y0, x1, y1), there = polygon.bounds, red.intersection(polygon)
        down, right = (y1 - y0) / 64, (x1 - x0) / 64
        assert seen.sum() * down * right == pytest.approx(there.area, rel=0.02)
        assert y0 + (seen.sum(1) @ (np.arange(64) + 0.5)) / seen.sum() * down == pytest.approx(
            there.centroid.y, abs=0.3
        )
        assert x0 + (seen.sum(0) @ (np.arange(64) + 0.5)) / seen.sum() * right == pytest.approx(
            there.centroid.x, abs=0.3
        )
        left, top, end, bottom = np.array(there.bounds).round().astype(int).tolist()
        found = window(path, top, left, bottom - top, end - left)
        assert found.size
        assert (found == RED).all()
