# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
import csv
import json

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from PIL import Image
from record_cases import pyramid_of, record_of
from slide_files import picture, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma.datalists.annotations import read_annotations
from monai_jsma.datalists.regions import Area
from monai_jsma.visualize import figure_image, open_record, record_figure

TUMOUR = [(20, 20), (60, 20), (60, 60), (20, 60)]  # x, y


@pytest.fixture
def slide(tmp_path):
    """A picture of 120 x 200 pixels."""
    return write_pyramid(tmp_path / "slides" / "a.tif", [picture(120, 200)], compression="deflate")


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "slides").mkdir()
    return tmp_path


def regions(path):
    """All of the picture, with cells 2 x 3 and 3 x 5, and a region of it with cells 1 x 2 and 2 x 3."""
    whole = record_of(pyramid_of(path), {0: 0.25, 6: 0.75}, label=1)
    region = record_of(pyramid_of(path, origin=(10, 30), size=(60, 100)), {1: 0.5, 4: 0.5})
    return [whole, region]


def saved(folder, records):
    path = folder / "predictions.jsonl"
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return str(path)


def annotate(path, *outlines, name="tumour"):
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*outline, outline[0]]]},
            "properties": {"classification": {"name": name, "color": [1, 2, 3]}},
        }
        for outline in outlines
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(features), encoding="utf-8")
    return str(path)


def test_a_picture_a_region_and_objects_a_file(folder, slide, capsys):
    out = folder / "out"
    argv = ["draw", saved(folder, regions(slide)), "--output", str(out)]
    assert main(argv) == 0
    names = sorted(path.name for path in out.iterdir())
    plain = [name.replace("_map", "") for name in names]
    assert sorted(name.rpartition("_")[0] for name in plain) == ["a", "a", "a", "a_r10_c30"]
    assert sum("_map" in name for name in names) == 1
    assert sorted(capsys.readouterr().out.split()) == [str(out / name) for name in names]
    (objects,) = out.glob("*.geojson")
    content = json.loads(objects.read_text(encoding="utf-8"))
    assert [
        f["properties"]["metadata"].get("true class")
        for f in content["features"]
        if "file" in f["properties"]["metadata"]
    ] == ["tumour, viable", None]
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 800
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main(argv) == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_few_of_many_regions_are_drawn(folder, slide):
    out = folder / "out"
    assert main(["draw", saved(folder, regions(slide)), "--output", str(out), "--max-pictures", "1"]) == 0
    assert len(list(out.glob("*_map.png"))) == 1
    assert len(list(out.glob("*.png"))) == 2
    assert len(list(out.glob("*.geojson"))) == 1


def test_the_figure_shows_the_patches_of_the_record_and_the_annotations(folder, slide):
    whole, region = regions(slide)
    areas = read_annotations(annotate(folder / "a.geojson", TUMOUR))["a"]
    figure = record_figure(region, areas=areas)
    boxes, *maps = figure.axes[:3]
    crops = [np.asarray(axes.images[0].get_array()).transpose(2, 0, 1) for axes in figure.axes[3:]]
    np.testing.assert_array_equal(crops, open_record(region).read([1, 4]))
    assert [axes.get_title(loc="left").split(":")[0] for axes in maps] == ["100X (1 µm/px)", "200X (0.5 µm/px)"]
    for axes in (boxes, *maps):
        (lines,) = (c for c in axes.collections if isinstance(c, LineCollection))
        assert set(map(tuple, lines.get_segments()[0])) == set(TUMOUR)
        assert (axes.get_xlim(), axes.get_ylim()) == ((30, 130), (70, 10))
        assert axes.texts[0].get_text() == "10 µm"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tumour"]
    assert [text.get_text() for text in figure.texts] == [
        "a.tif at row 10, column 30",
        "predicted tumour, viable 0.75, benign 0.25",
        "0.0% of all attention inside the annotations (20.0% of the area): enrichment 0.00",
    ]
    assert "true tumour, viable; predicted" in record_figure(whole).texts[1].get_text()


def test_names_are_no_mathematics(folder):
    path = folder / "slides" / "a $x_1$ <b>.png"
    Image.fromarray(picture(30, 50)).save(path)
    square = np.array(TUMOUR, float)
    figure = record_figure(record_of(pyramid_of(path), {0: 1.0}), areas=[Area(("$\\frac{$",), square / 4)])
    figure_image(figure)
    assert figure.texts[0].get_text() == "a $x_1$ <b>.png"


def test_classes_of_annotations_look_different_and_as_in_the_legend(slide):
    square = np.array(TUMOUR, float)
    areas = [Area((f"class {i:02}",), square) for i in (*range(12), 3)]
    figure = record_figure(regions(slide)[0], areas=areas)
    drawn = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert [len(lines.get_segments()) for lines in drawn] == [1, 1, 1, 2] + [1] * 8
    looks = [(to_hex(lines.get_color()[0]), lines.get_linestyle()[0]) for lines in drawn]
    assert len({str(look) for look in looks}) == 12
    named = figure.legends[0]
    assert [text.get_text() for text in named.get_texts()] == [f"class {i:02}" for i in range(12)]
    assert [line.get_color() for line in named.get_lines()] == [colour for colour, _ in looks]


def test_pointing_scores_are_written(folder, slide):
    table, out = annotate(folder / "notes" / "a.geojson", TUMOUR, [(0, 0), (20, 0), (20, 120), (0, 120)]), folder / "o"
    annotate(folder / "notes" / "of_another_slide.geojson", TUMOUR)
    stroma = folder / "notes" / "boxes.csv"
    stroma.write_text("slide,label,row,col,height,width\na.tif,stroma,0,100,120,100\n", encoding="utf-8")
    argv = ["draw", saved(folder, regions(slide)[:1]), "--output", str(out), "--geojson-only", "--annotations"]
    assert main([*argv, str(folder / "notes")]) == 0
    with open(out / "pointing.csv", encoding="utf-8") as file:
        rows = {(row["annotation"], row["magnification"]): row for row in csv.DictReader(file)}
    whole = 120 * 200
    cell = 60 * 200 / 3  # the first at 100X; its columns 0 to 20, and 20 to 60 of rows 20 to 60, are annotated
    first, second = (20 * 60 + 40 * 40) / cell, (20 * 40 + 20 * 20) / (40 * 40)  # of cell 6: 40 x 40 pixels
    expected = (20 * 120 + 40 * 40) / whole
    share = 0.25 * first + 0.75 * second
    want = {
        ("tumour", "100X"): (first, expected),
        ("tumour", "200X"): (second, expected),
        ("tumour", "(all)"): (share, expected),
        ("stroma", "(all)"): (0, 0.5),
        ("(all)", "(all)"): (share, expected + 0.5),
    }
    for key, values in want.items():
        found = [float(rows[key][name]) for name in ("share", "expected", "enrichment")]
        assert found == pytest.approx([*values, values[0] / values[1]], rel=1e-5)
    assert {row["file"] for row in rows.values()} == {slide}
    assert len(rows) == 9
    assert main([*argv, table]) == 0
    assert len((out / "pointing.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6


@pytest.mark.parametrize("output", ["notes", "notes/drawn", "."])
def test_results_among_the_annotations_are_not_taken_for_some(folder, slide, monkeypatch, output):
    annotate(folder / "notes" / "a.geojson", TUMOUR)
    monkeypatch.chdir(folder)
    argv = ["draw", saved(folder, regions(slide)), "--geojson-only", "--output", output, "--annotations"]
    for _ in range(2):
        assert main([*argv, str(folder / "notes")]) == 0
        assert len((folder / output / "pointing.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2 * 6


def test_tables_and_lists_of_another_kind_are_no_annotations(folder, slide, caplog, capsys):
    """As ``prepare mosaic`` and a prediction write them beside; a broken table of boxes stays an error."""
    notes = folder / "notes"
    annotate(notes / "a.geojson", TUMOUR)
    (notes / "datalist.json").write_text('{"test": [{"image": "a.tif"}]}')
    (notes / "cores.csv").write_text("image,label,source,group,row,col,height,width\na,0,b,c,0,0,9,9\n")
    (notes / "failed.csv").write_text("where,stage,reason\n")
    argv = ["draw", saved(folder, regions(slide)), "--geojson-only", "--output", str(folder / "out"), "--annotations"]
    assert main([*argv, str(notes)]) == 0
    assert caplog.records[-1].message == f"{notes}: left out, no annotations: cores.csv, datalist.json, failed.csv."
    assert len((folder / "out" / "pointing.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2 * 6

    (notes / "broken.json").write_text('{"test": [')
    assert main([*argv, str(notes)]) == 1
    assert "broken.json: not a JSON file" in capsys.readouterr().err
    (notes / "broken.json").unlink()
    (notes / "boxes.csv").write_text("Slide,Label,row,col,height,width\na,tumour,0,0,9,9\n")
    assert main([*argv, str(notes)]) == 1
    assert "boxes.csv: expected rows with the columns slide" in capsys.readouterr().err
    assert main([*argv, str(notes / "cores.csv")]) == 1
    assert "cores.csv: expected rows with the columns slide" in capsys.readouterr().err


def test_what_fails_is_told_and_the_rest_goes_on(folder, slide, capsys):
    gone, smaller = folder / "slides" / "gone.tif", folder / "slides" / "smaller.tif"
    records = []
    for path in (gone, smaller):
        write_pyramid(path, [picture(120, 200)], compression="deflate")
        records += regions(path)[:1]
    gone.unlink()
    write_pyramid(smaller, [picture(100, 200)], compression="deflate")
    out = folder / "out"
    argv = ["draw", saved(folder, [*records, *regions(slide)]), "--output", str(out)]
    assert main(argv) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [e.split(":")[1].strip() for e in errors] == [str(gone), str(smaller)]
    assert "no such file" in errors[0]
    assert "(100, 200)" in errors[1]
    assert "predict the changed file again" in errors[1]
    assert len(list(out.glob("*.geojson"))) == 3
    assert len(list(out.glob("*_map.png"))) == 1
    assert len(list(out.glob("*.png"))) == 3
    assert not list(out.glob(".*.part*"))
    assert main([*argv, "--geojson-only"]) == 0


def test_relative_paths_start_at_the_base_folder(folder, slide, monkeypatch):
    monkeypatch.chdir(folder / "slides")
    predictions = saved(folder, regions("a.tif"))
    monkeypatch.chdir(folder)
    argv = ["draw", predictions, "--output", "out"]
    assert main(argv) == 1
    assert main([*argv, "--base-dir", "slides"]) == 0


def test_a_changed_spacing_is_noticed(folder):
    path = folder / "slides" / "a.tif"
    write_pyramid(path, [picture(120, 200)], mpp=0.5)
    (record, _) = regions(path)
    record = record.from_json(json.dumps({**json.loads(record.to_json()), "mpp_source": "TIFF resolution"}))
    assert open_record(record).mpp == 0.5
    write_pyramid(path, [picture(120, 200)], mpp=0.25)
    with pytest.raises(RuntimeError, match=r"a\.tif: is .* at 0\.25 um/px, .* at 0\.5 um/px; predict"):
        open_record(record)


@pytest.mark.parametrize(
    ("name", "outline", "error"),
    [
        ("b", TUMOUR, "holds no annotation of a file that was predicted"),
        (
            "a",
            [(x + 900, y) for x, y in TUMOUR],
            "feature 0 (tumour) at row 20, column 920 is outside the slide of (120, 200)",
        ),
        ("a", [(1, 1)], "an outline needs at least 3 points"),
    ],
)
def test_annotations_that_cannot_be_used(folder, slide, capsys, name, outline, error):
    table = annotate(folder / f"{name}.geojson", outline)
    argv = ["draw", saved(folder, regions(slide)[:1]), "--output", str(folder / "out"), "--annotations", table]
    assert main(argv) == 1
    assert error in capsys.readouterr().err
    assert len(list((folder / "out").glob("*.geojson"))) == 1


def test_predictions_that_are_none_end_in_one_line(folder, capsys):
    (folder / "p.jsonl").write_text("{}\n", encoding="utf-8")
    assert main(["draw", str(folder / "p.jsonl"), "--output", str(folder / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {folder / 'p.jsonl'}, line 1: not a prediction record")
    assert not (folder / "out").exists()
