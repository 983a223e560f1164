# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotated slides become a balanced, leak-free datalist of regions; slides that fail are listed."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from annotation_files import box, covered, feature, layer, region, xml
from dicom_files import write_dicom_slide
from slide_files import picture, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma._io import file_sha256
from monai_jsma.datalists.prostate import RegionSettings
from monai_jsma.datalists.regions import Area
from monai_jsma.datalists.schema import load_datalist
from monai_jsma.datalists.splits import SPLITS
from monai_jsma.slides.identity import slide_sha256
from monai_jsma.transforms import LoadPyramidd

MPP = 0.5
SIDE = 64  # of a region, in pixels
OPTIONS = (f"--size-um={SIDE * MPP}", "--folds=3")
# The place of each class on every slide, and a hole in the last; no lattice point lies on an outline.
PLACES = {
    "Gleason 3": box(10.5, 10.5, 140, 140),
    "benign": box(10.5, 170.5, 140, 130),
    "gleason_4": box(160.5, 5.5, 140, 290),
}
HOLE = box(170.5, 150.5, 120, 60)


def slide_name(i: int) -> str:
    return f"TCGA-2A-{i // 2:04d}-01Z-00-DX{i % 2 + 1}.0A1B{i}.svs"


def write_form(folder: Path, form: str, stem: str) -> None:
    """The same areas in each form; the table of boxes has no hole but the two boxes that it leaves."""
    if form == "geojson":
        parts = [[ring[:, ::-1].tolist()] for ring in PLACES.values()]
        parts[-1].append(HOLE[:, ::-1].tolist())
        (folder / f"{stem}.geojson").write_text(json.dumps([feature(p, name) for p, name in zip(parts, PLACES)]))
    elif form == "xml":
        layers = [layer(region(ring), name=name) for name, ring in list(PLACES.items())[:2]]
        layers.append(layer(region(PLACES["gleason_4"], Text="G4"), region(HOLE, NegativeROA="1"), name="benign"))
        (folder / f"{stem}.xml").write_text(xml(*layers))
    else:
        whole = [(name, *ring[0], *(ring[2] - ring[0])) for name, ring in PLACES.items()]
        around = [(160.5, 5.5, 140, 145), (160.5, 210.5, 140, 85), (160.5, 5.5, 10, 290), (290.5, 5.5, 10, 290)]
        with open(folder / f"{stem}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("slide", "label", "row", "col", "height", "width")])
            csv.writer(file).writerows([(stem, *row) for row in (*whole[:2], *(("5", *b) for b in around))])


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for i in range(6):
        (folder / str(i)).mkdir()  # as they are downloaded
        write_pyramid(folder / str(i) / slide_name(i), [picture(310, 310, i)], aperio_mpp=MPP, compression="jpeg")
    return folder


@pytest.fixture
def slides(originals, tmp_path) -> Path:
    """Six slides of three patients, with annotations in all three forms."""
    shutil.copytree(originals, tmp_path / "slides")
    (tmp_path / "notes").mkdir()
    for i in range(6):
        write_form(tmp_path / "notes", ("geojson", "xml", "csv")[i % 3], slide_name(i).split(".")[0])
    return tmp_path / "slides"


def prepare(slides: Path, *options: str) -> int:
    return main(["prepare", "tcga_prad", str(slides), str(slides.parent / "notes"), *OPTIONS, *options])


def content_of(slides: Path) -> dict:
    return json.loads((slides / "datalist.json").read_text())


def items_of(slides: Path) -> list[dict]:
    content = content_of(slides)
    return [item for split in SPLITS for item in content[split]]


def failures_of(slides: Path) -> list[dict[str, str]]:
    with open(slides / "failed.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_regions_of_annotated_slides(slides, capsys):
    assert prepare(slides, "--cover=0.7") == 0
    content, items = content_of(slides), items_of(slides)
    assert content["labels"] == {"0": "benign", "1": "Gleason 3", "2": "Gleason 4/5"}
    assert failures_of(slides) == []
    counts = Counter(item["label"] for item in items)
    assert len(counts) == 3
    assert len(set(counts.values())) == 1
    areas = {
        0: [Area((), PLACES["benign"])], 1: [Area((), PLACES["Gleason 3"])],
        2: [Area((), PLACES["gleason_4"], (HOLE,))],
    }  # fmt: skip
    for item in items:
        i = int(Path(item["image"]).parent.name)
        assert item["image"] == f"{i}/{slide_name(i)}"
        assert item["patient"] == f"TCGA-2A-{i // 2:04d}"
        assert item["sha256"] == file_sha256(slides / item["image"])
        assert (item["mpp"], item["mpp_source"], item["size"]) == (MPP, "Aperio MPP", [SIDE, SIDE])
        assert item["cover"] >= 0.7
        assert item["cover"] == pytest.approx(covered(areas[item["label"]], *item["location"], SIDE), abs=0.05)
    assert len({tuple(x % (SIDE // 8) for x in item["location"]) for item in items}) > 1  # each slide its own offset
    table = capsys.readouterr().out
    assert sum(content["placed"].values()) >= len(items)
    assert f"placed: {content['placed']['benign']} benign, " in table
    assert table.splitlines()[-1] == str(slides / "datalist.json")


def test_the_split_is_by_patient_with_every_class(slides):
    assert prepare(slides) == 0
    content = content_of(slides)
    patients = [{item["patient"] for item in content[split]} for split in SPLITS]
    assert [len(p) for p in patients] == [1, 1, 1]
    assert len(set.union(*patients)) == 3
    for split in SPLITS:
        assert {item["label"] for item in content[split]} == {0, 1, 2}


def test_regions_are_read_from_the_slide(slides):
    """The datalist is what the transforms take: the pixels are those of the slide at the item's place."""
    assert prepare(slides) == 0
    item = load_datalist(slides / "datalist.json", "test", num_classes=3)[0]
    loaded = LoadPyramidd("image", magnifications=(2.0, 1.0, 0.5), patch_size=32)(dict(item))
    pyramid = loaded["image"]
    assert tuple(pyramid.origin) == tuple(item["location"])
    assert pyramid.geometry.size == (SIDE, SIDE)
    assert pyramid.geometry.grids == ((1, 1), (1, 1), (2, 2))


def test_all_forms_give_the_same_regions(slides):
    notes, found = slides.parent / "notes", []
    for form in ("geojson", "xml", "csv"):
        shutil.rmtree(notes)
        notes.mkdir()
        for i in range(6):
            write_form(notes, form, slide_name(i).split(".svs")[0])
        assert prepare(slides) == 0
        found.append(items_of(slides))
    assert found[0] == found[1] == found[2]
    boxes = "".join(p.read_text() if not i else p.read_text().split("\n", 1)[1] for i, p in enumerate(notes.iterdir()))
    (notes.parent / "all.csv").write_text(boxes)  # one table of all slides
    assert main(["prepare", "tcga_prad", str(slides), str(notes.parent / "all.csv"), *OPTIONS]) == 0
    assert items_of(slides) == found[0]


def test_twice_gives_the_same_bytes_and_the_seed_counts(slides):
    made = []
    for seed in (0, 0, 1):
        assert prepare(slides, f"--seed={seed}") == 0
        made.append((slides / "datalist.json").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert content_of(slides)["settings"]["seed"] == 1
    assert content_of(slides)["settings"]["mapping"]["gleason45"] == 2


def test_another_slide_changes_no_place(slides):
    assert prepare(slides, "--per-class=99") == 0
    before = defaultdict(set, {i["image"]: set() for i in items_of(slides)})
    for item in items_of(slides):
        before[item["image"]].add(tuple(item["location"]))
    (slides.parent / "notes" / f"{slide_name(5).split('.')[0]}.csv").unlink()
    assert prepare(slides, "--per-class=99") == 0
    for image in {i["image"] for i in items_of(slides)}:
        assert {tuple(i["location"]) for i in items_of(slides) if i["image"] == image} & before[image]


def test_limits(slides):
    assert prepare(slides, "--per-class=8", "--per-slide=5") == 0
    items = items_of(slides)
    assert Counter(i["label"] for i in items) == {0: 8, 1: 8, 2: 8}
    assert max(Counter(i["image"] for i in items).values()) <= 5


def test_annotations_beside_the_slides(slides):
    """The results of an earlier run are no annotations."""
    for note in (slides.parent / "notes").iterdir():
        shutil.move(note, slides / note.name)
    for _ in range(2):
        assert main(["prepare", "tcga_prad", str(slides), str(slides), *OPTIONS]) == 0
        assert failures_of(slides) == []


def test_hidden_files_are_no_data(slides):
    """macOS writes ._name beside each file on other file systems."""
    assert prepare(slides) == 0
    items = items_of(slides)
    for folder in (slides / "0", slides.parent / "notes"):
        for path in list(folder.iterdir()):
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert prepare(slides) == 0
    assert items_of(slides) == items
    assert failures_of(slides) == []


def break_slides(slides: Path) -> dict[str, str]:
    """One slide or annotation for each way to fail; what is to be told of it."""
    notes, paths = slides.parent / "notes", [slides / str(i) / slide_name(i) for i in range(6)]
    paths[0].write_text("no slide")
    shutil.copy(paths[1], slides / "copy.svs")
    write_form(notes, "xml", "copy")
    write_pyramid(slides / "unknown.tif", [picture(310, 310)])
    write_form(notes, "csv", "unknown")
    write_pyramid(slides / "small.tif", [picture(50, 310)], mpp=MPP)
    (notes / "small.geojson").write_text(json.dumps([feature([box(0, 0, 50, 300).tolist()], "G3")]))
    write_pyramid(slides / "other.tif", [picture(310, 310)], mpp=MPP)
    (notes / "other.geojson").write_text(json.dumps([feature([box(900, 0, 50, 300).tolist()], "G3")]))
    write_pyramid(slides / "named.tif", [picture(310, 310)], mpp=MPP)
    (notes / "named.geojson").write_text(json.dumps([feature([box(0, 0, 99, 99).tolist()], "Stroma")]))
    (notes / "nobody.geojson").write_text("[]")
    (notes / "broken.xml").write_text("<Annotations>\n<")
    return {
        f"0/{slide_name(0)}": rf"slide: {slides}/0/.*\.svs: ",
        "copy.svs": rf"copy: the same slide as 1/{slide_name(1)}, which is kept\.",
        "unknown.tif": r"slide: .*unknown\.tif: its um per pixel are unknown.*--mpp",
        "small.tif": r"regions: no region of 64x64 pixels in the slide of \(50, 310\) has 50% of its area",
        "other.tif": r"regions: .*other\.geojson: feature 0 \(G3\) at row 0, column 900 is outside the slide",
        "named.tif": "class: no annotated area has a known class, only Stroma; name its class with --map",
        "nobody": r"match: .*nobody\.geojson: no slide has this name",
        "broken.xml": r"annotation: .*broken\.xml: not an XML file",
    }


def test_what_fails_is_listed_and_the_rest_goes_on(slides, capsys):
    expected = break_slides(slides)
    assert prepare(slides) == 1
    failed = failures_of(slides)
    assert [f["slide"] for f in failed] == sorted(expected)
    for failure in failed:
        assert re.match(expected[failure["slide"]], f"{failure['stage']}: {failure['reason']}"), failure
        assert "\n" not in failure["reason"]
    assert len({i["sha256"] for i in items_of(slides)}) == len({i["image"] for i in items_of(slides)}) >= 4
    error = capsys.readouterr()
    assert re.fullmatch(r"error: 8 slides or annotations failed, listed in .*failed\.csv; .* the rest\.\n", error.err)
    assert "not used, as --map names no class for them: Stroma (1)" in error.out


def test_strict_writes_no_datalist(slides, capsys):
    (slides.parent / "notes" / "broken.json").write_text("{")
    assert prepare(slides, "--strict") == 1
    assert "no datalist was written" in capsys.readouterr().err
    assert not (slides / "datalist.json").exists()
    assert [f["slide"] for f in failures_of(slides)] == ["broken.json"]
    (slides.parent / "notes" / "broken.json").unlink()
    assert prepare(slides, "--strict") == 0
    assert failures_of(slides) == []


def test_a_class_without_regions(slides, capsys):
    assert prepare(slides, "--map=benign=ignore") == 1
    error = capsys.readouterr().err
    assert re.match(r"error: every class needs a region, but there are 0 of benign, [1-9]\d* of Gleason 3, ", error)
    assert failures_of(slides) == []


def test_given_spacing(slides):
    assert prepare(slides, "--mpp=1.0") == 0
    assert {(i["mpp"], i["mpp_source"], *i["size"]) for i in items_of(slides)} == {(1.0, "given", 32, 32)}


def test_missing_folders(slides, capsys):
    (slides.parent / "empty").mkdir()
    for args in ((slides, slides.parent / "empty"), (slides.parent / "empty", slides), (slides / "x", slides)):
        assert main(["prepare", "tcga_prad", *map(str, args)]) == 1
        told = r"empty: holds no (slides|annotations)|x: there is no such folder; name the folder with slides"
        assert re.match(f"error: .*({told})", capsys.readouterr().err)


@pytest.mark.parametrize("option", ["--size-um=0", "--cover=0", "--mpp=-1", "--map=x"])
def test_wrong_options(slides, option, capsys):
    assert prepare(slides, option) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("option", ["--per-class=0", "--per-slide=0", "--seed=-1", "--folds=2"])
def test_wrong_numbers(slides, option, capsys):
    with pytest.raises(SystemExit):
        prepare(slides, option)
    assert f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"per_slide": 0}, {"seed": -1}])
def test_wrong_settings_of_regions(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be at least [01], but is {value}"):
        RegionSettings(**wrong)


def write_dicom_slides(slides: Path) -> list[Path]:
    """The six slides as DICOM, two files each, named by numbers as archives do, all in one folder."""
    shutil.rmtree(slides)
    first = []
    for i in range(6):
        pixels = picture(320, 320, i)
        names = {"PatientID": f"TCGA-2A-{i // 2:04d}", "ContainerIdentifier": slide_name(i).split(".")[0]}
        paths = write_dicom_slide(slides, [pixels, pixels[::5, ::5]], stem=f"{i:04x}-", **names)
        first.append(paths[0])
    return first


@pytest.mark.parametrize("named_after", ["first file", "second file", "glass"])
def test_dicom_slides(slides, named_after):
    first = write_dicom_slides(slides)
    for i, path in enumerate(first):
        form = ("geojson", "xml", "csv")[i % 3]
        notes = slides.parent / "notes"
        if named_after != "glass":
            for note in notes.glob(f"{slide_name(i).split('.')[0]}.*"):
                note.unlink()
            write_form(notes, form, path.stem if named_after == "first file" else path.stem[:-1] + "1")
    assert prepare(slides) == 0
    items = items_of(slides)
    assert {item["image"] for item in items} == {path.name for path in first}
    assert {item["patient"] for item in items} == {"TCGA-2A-0000", "TCGA-2A-0001", "TCGA-2A-0002"}
    assert {item["mpp"] for item in items} == {0.5}
    for item in items:
        assert item["sha256"] == slide_sha256(slides / item["image"].replace("-0.dcm", "-1.dcm"))


def test_an_incomplete_copy_of_a_dicom_slide(slides):
    first = write_dicom_slides(slides)
    (slides / "copy").mkdir()
    shutil.copy(first[0], slides / "copy" / "x.dcm")
    write_form(slides.parent / "notes", "geojson", "x")
    assert prepare(slides) == 1
    [failure] = failures_of(slides)
    assert (failure["stage"], failure["slide"]) == ("copy", "copy/x.dcm")
    assert failure["reason"] == f"the same slide as {first[0].name}, which is kept."


def test_hidden_annotations_are_no_failures(slides, caplog):
    for note in list((slides.parent / "notes").iterdir()):
        note.with_name(f"._{note.name}").write_bytes(b"\0\5\x16\7")
    assert prepare(slides) == 0
    assert failures_of(slides) == []
    assert "notes: left out, hidden or of the system: ._TCGA" in caplog.text


def test_two_dicom_slides_of_one_glass(slides):
    """Scanned twice: which one the annotation is of cannot be known."""
    write_dicom_slides(slides)
    write_dicom_slide(slides, [picture(320, 320, 9)], stem="again", ContainerIdentifier=slide_name(0).split(".")[0])
    assert prepare(slides) == 1
    [failure] = failures_of(slides)
    assert (failure["stage"], failure["slide"]) == ("match", slide_name(0).split(".")[0])
    assert "2 slides have this name: 0000-0.dcm, again0.dcm; name the annotation as its slide." in failure["reason"]


def test_patients_in_two_spellings(slides, capsys):
    """Slides without a barcode: the patient is the name of the file."""
    for i, name in ((0, "Case-1"), (3, "case_01")):
        (slides / str(i) / slide_name(i)).rename(slides / str(i) / f"{name}.svs")
        notes = slides.parent / "notes"
        (notes / f"{slide_name(i).split('.')[0]}.geojson").rename(notes / f"{name}.geojson")
    assert prepare(slides) == 1
    assert "patient 'Case-1' and 'case_01'" in capsys.readouterr().err
    assert not (slides / "datalist.json").exists()
    assert prepare(slides, "--names-as-written") == 0
    assert content_of(slides)["names_as_written"] is True
