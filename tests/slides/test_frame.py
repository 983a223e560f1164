# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the image lies on the canvas of a slide, and outlines and objects that count from its corner as in QuPath."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotation_files import box, feature, layer, region, xml
from mirax_files import write_mirax
from record_cases import pyramid_of, record_of
from slide_files import picture, write_pyramid, write_scn

from monai_jsma.__main__ import main
from monai_jsma.datalists.annotations import read_annotations
from monai_jsma.datalists.splits import SPLITS
from monai_jsma.geometry import Box
from monai_jsma.predictions.measures import pointing_scores
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides.frame import read_bounds
from monai_jsma.slides.open import inspect_slide
from monai_jsma.visualize import feature_collection, record_figure

LOCATION = (256, 512)
CANVAS = (1024, 1280)
SIZE = (512, 640)
BOUNDS = Box(*LOCATION, *SIZE)
PLACES = {"benign": box(10, 10, 180, 280), "G3": box(10, 310, 180, 280), "G4": box(210, 10, 180, 580)}


def in_qupath(ring: np.ndarray) -> list[list[float]]:
    return ring[:, ::-1].tolist()


def on_canvas(ring: np.ndarray) -> np.ndarray:
    return ring + LOCATION


def write_slide(path: Path, seed: int = 0) -> str:
    """A Leica or MIRAX slide."""
    write = write_mirax if path.suffix == ".mrxs" else write_scn
    return write(path, picture(*SIZE, seed), location=LOCATION, canvas=CANVAS)


@pytest.fixture(scope="module", params=[".scn", ".mrxs"])
def slide(request, tmp_path_factory) -> str:
    return write_slide(tmp_path_factory.mktemp("slide") / f"a{request.param}")


def test_the_bounds_are_known(slide, tmp_path):
    info = inspect_slide(slide)
    assert info.size == CANVAS
    assert info.bounds == BOUNDS
    assert pyramid_of(slide).bounds == BOUNDS
    plain = write_pyramid(tmp_path / "a.tif", [picture(60, 70)])
    assert inspect_slide(plain).bounds is None
    assert pyramid_of(plain).bounds is None


def test_bounds_that_are_no_numbers_are_told(caplog):
    names = ("y", "x", "height", "width")
    properties = dict(zip([f"openslide.bounds-{name}" for name in names], "1234", strict=True))
    assert read_bounds(properties, path="a") == Box(1, 2, 3, 4)
    assert read_bounds({**properties, "openslide.bounds-x": "2,5"}, path="a.mrxs") is None
    assert caplog.messages == [
        "a.mrxs: openslide.bounds-* are ['1', '2,5', '3', '4'], no whole numbers; they are not used."
    ]
    del properties["openslide.bounds-width"]
    assert read_bounds(properties, path="a") is None


def test_info_shows_the_bounds(slide, capsys):
    assert main(["info", slide, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bounds"] == list(BOUNDS)
    assert main(["info", slide]) == 0
    assert "image    512 x 640 pixels from row 256, column 512 of the canvas" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- regions


def write_notes(folder: Path, stem: str, form: str) -> None:
    """The same areas as QuPath (bounds), ImageScope and a table (canvas) write them."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{stem}.*"):
        old.unlink()
    if form == "geojson":
        features = [feature([in_qupath(ring)], name) for name, ring in PLACES.items()]
        (folder / f"{stem}.geojson").write_text(json.dumps(features))
    elif form == "xml":
        (folder / f"{stem}.xml").write_text(xml(*(layer(region(on_canvas(r)), name=n) for n, r in PLACES.items())))
    else:
        rows = [(stem, name, *on_canvas(r)[0], *(r[2] - r[0])) for name, r in PLACES.items()]
        lines = [("slide", "label", "row", "col", "height", "width"), *rows]
        (folder / f"{stem}.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


@pytest.fixture
def cohort(tmp_path) -> Path:
    for i, suffix in enumerate((".scn", ".scn", ".mrxs")):
        write_slide(tmp_path / "slides" / f"s{i}{suffix}", i)
        write_notes(tmp_path / "notes", f"s{i}", "geojson")
    return tmp_path


def prepare(cohort: Path, *options: str) -> int:
    argv = ["prepare", "tcga_prad", str(cohort / "slides"), str(cohort / "notes"), "--size-um=40", "--folds=3"]
    return main([*argv, *options])


def items_of(cohort: Path) -> list[dict]:
    content = json.loads((cohort / "slides" / "datalist.json").read_text())
    return [item for split in SPLITS for item in content[split]]


def test_regions_lie_in_the_outlines_of_each_tool(cohort, capsys):
    found = []
    for form, words in (("geojson", "image (as in QuPath)"), ("xml", "canvas (level 0"), ("csv", "canvas (level 0")):
        for i in range(3):
            write_notes(cohort / "notes", f"s{i}", form)
        assert prepare(cohort) == 0
        assert f"9 areas of slides with a canvas count from the corner of the {words}" in capsys.readouterr().out
        found.append(items_of(cohort))
    assert found[0] == found[1] == found[2]
    rings = {label: on_canvas(ring) for label, ring in enumerate(PLACES.values())}
    assert len(found[0]) > 9
    for item in found[0]:
        ring = rings[item["label"]]
        center = np.add(item["location"], 40)
        assert (ring.min(0) < center).all()
        assert (center < ring.max(0)).all()


def test_another_frame_can_be_named(cohort):
    """QuPath with --no-crop writes outlines that count from the canvas."""
    assert prepare(cohort) == 0
    cropped = items_of(cohort)
    for i in range(3):
        features = [feature([in_qupath(on_canvas(ring))], name) for name, ring in PLACES.items()]
        (cohort / "notes" / f"s{i}.geojson").write_text(json.dumps(features))
    assert prepare(cohort, "--frame=canvas") == 0
    assert items_of(cohort) == cropped


def test_outlines_outside_the_image_are_left_out(cohort, capsys):
    """One on empty glass: it lies on the canvas, but not on the scanned part; the other far away."""
    stray = [feature([in_qupath(box(-200, 0, 150, 150))], "G3"), feature([in_qupath(box(9000, 0, 50, 50))], "G3")]
    features = [feature([in_qupath(ring)], name) for name, ring in PLACES.items()]
    assert prepare(cohort) == 0
    before = items_of(cohort)
    (cohort / "notes" / "s1.geojson").write_text(json.dumps([*features, *stray]))
    assert prepare(cohort) == 1
    assert items_of(cohort) == before
    error = capsys.readouterr().err
    assert "2 annotated objects were left out (s1.scn feature 3 (G3), s1.scn feature 4 (G3)), listed in" in error
    assert "the datalist holds the rest" in error
    with open(cohort / "slides" / "failed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["slide"], row["stage"]) for row in rows] == [("s1.scn", "object")] * 2
    assert "s1.geojson: feature 3 (G3) at row 56, column 512 of the canvas is outside the image" in rows[0]["reason"]
    assert "which is 512 x 640 pixels from row 256, column 512 of the canvas" in rows[0]["reason"]
    assert prepare(cohort, "--strict") == 1
    assert "no datalist was written" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------- there and back


def records_of(slide: str) -> list[PredictionRecord]:
    """A region of the image, whose place in QuPath is (40, 60)."""
    pyramid = pyramid_of(slide, origin=(296, 572), size=(60, 100))
    return [record_of(pyramid, {1: 0.5, 4: 0.5})]


def save(path: Path, records: list[PredictionRecord]) -> str:
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_records_keep_the_bounds(slide, tmp_path):
    (record,) = records_of(slide)
    assert record.bounds == record.evidence.bounds == BOUNDS
    assert PredictionRecord.from_json(record.to_json()) == record
    assert json.loads(record.to_json())["bounds"] == list(BOUNDS)
    (plain,) = (record_of(pyramid_of(write_pyramid(tmp_path / "a.tif", [picture(60, 100)])), {1: 1.0}),)
    assert "bounds" not in json.loads(plain.to_json())
    broken = json.dumps({**json.loads(record.to_json()), "bounds": [1, 2, "3", 4]})
    with pytest.raises(ValueError, match="bounds .* are not whole numbers"):
        PredictionRecord.from_json(broken)


def test_objects_count_as_in_qupath_and_come_back(slide, tmp_path):
    (record,) = records_of(slide)
    collection = feature_collection([record])
    assert collection["frame"] == "bounds"
    ring = collection["features"][0]["geometry"]["coordinates"][0]
    assert ring == [[60, 40], [160, 40], [160, 100], [60, 100], [60, 40]]
    on_level_0 = feature_collection([record], frame="canvas")
    assert on_level_0["frame"] == "canvas"
    assert on_level_0["features"][0]["geometry"]["coordinates"][0][0] == [572, 296]
    assert [f["id"] for f in collection["features"]] == [f["id"] for f in on_level_0["features"]]
    for content in (collection, on_level_0):
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps(content), encoding="utf-8")
        area = read_annotations(path)["a"][0].on_canvas(inspect_slide(slide).bounds)
        assert area.ring.min(0).tolist() == [296, 572]
    with pytest.raises(ValueError, match="but is 'file'"):
        feature_collection([record], frame="file")


def test_the_pointing_score_counts_from_the_same_corner(slide, tmp_path):
    (record,) = records_of(slide)
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature([in_qupath(box(40, 60, 60, 50))], "tumour")]), encoding="utf-8")
    areas = read_annotations(path)["a"]
    assert pointing_scores(record.evidence, areas)[""].expected == pytest.approx(0.5)
    figure = record_figure(replace(record, bounds=None), areas=areas)  # as a record of an earlier version
    assert "(50.0% of the area)" in figure.texts[2].get_text()


def test_draw_uses_the_frames(slide, tmp_path, capsys):
    notes = tmp_path / "notes"
    notes.mkdir()
    features = [feature([in_qupath(box(40, 60, 60, 50))], "tumour"), feature([in_qupath(box(900, 0, 9, 9))], "far")]
    (notes / "a.geojson").write_text(json.dumps(features), encoding="utf-8")
    out = tmp_path / "out"
    records = [replace(record, bounds=None) for record in records_of(slide)]  # of an earlier version
    argv = ["draw", save(tmp_path / "p.jsonl", records), "--output", str(out), "--geojson-only"]
    assert main([*argv, "--annotations", str(notes)]) == 1
    printed = capsys.readouterr()
    assert "annotations count from the corner of the image (as in QuPath)" in printed.out
    assert "a.geojson: feature 1 (far) at row 1156, column 512 of the canvas is outside the image" in printed.err
    with open(out / "pointing.csv", encoding="utf-8") as file:
        rows = {(row["annotation"], row["magnification"]): row for row in csv.DictReader(file)}
    assert float(rows["tumour", "(all)"]["expected"]) == pytest.approx(0.5)
    (objects,) = out.glob("*.geojson")
    assert json.loads(objects.read_text())["features"][0]["geometry"]["coordinates"][0][0] == [60, 40]

    assert main([*argv, "--geojson-frame=canvas"]) == 0
    assert json.loads(objects.read_text())["features"][0]["geometry"]["coordinates"][0][0] == [572, 296]

    features = [feature([in_qupath(box(296, 572, 60, 50))], "tumour")]
    (notes / "a.geojson").write_text(json.dumps(features), encoding="utf-8")
    assert main([*argv, "--annotations", str(notes), "--frame=canvas"]) == 0
    with open(out / "pointing.csv", encoding="utf-8") as file:
        assert [row["expected"] for row in csv.DictReader(file)][0] == "0.5"


def test_an_image_of_unknown_place_is_not_drawn_somewhere(slide, tmp_path, capsys):
    """Records of earlier versions do not say where the image lies; without the file nobody knows."""
    records = [replace(record, file="gone.scn", bounds=None) for record in records_of(slide)]
    notes = tmp_path / "gone.geojson"
    notes.write_text(json.dumps([feature([in_qupath(box(40, 60, 60, 50))], "tumour")]), encoding="utf-8")
    out = tmp_path / "out"
    argv = ["draw", save(tmp_path / "p.jsonl", records), "--output", str(out), "--geojson-only"]
    assert main([*argv, "--annotations", str(notes)]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: gone.scn: the prediction does not say where the image lies on the canvas")
    assert not list(out.glob("*.geojson"))
    assert len((out / "pointing.csv").read_text().splitlines()) == 1
    assert main([*argv, "--annotations", str(notes), "--geojson-frame=canvas", "--frame=canvas"]) == 0
    assert len(list(out.glob("*.geojson"))) == 1
    assert len((out / "pointing.csv").read_text().splitlines()) > 1
    known = [replace(record, bounds=BOUNDS) for record in records]
    assert main([*argv[:1], save(tmp_path / "k.jsonl", known), *argv[2:]]) == 0
