# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A folder with a table of labels becomes a datalist, or one error that names what is wrong."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from dicom_files import write_dicom_slide
from PIL import Image
from places import SHARED
from slide_files import levels_of, picture, write_pyramid

from monai_jsma._io import file_sha256
from monai_jsma.datalists.folder import folder_datalist
from monai_jsma.datalists.schema import load_datalist, save_datalist
from monai_jsma.datalists.splits import SPLITS, check_groups
from monai_jsma.datalists.verify import verify_datalist
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import slide_sha256

OSTEOSARCOMA = SHARED / "data" / "osteosarcoma"
needs_osteosarcoma = pytest.mark.skipif(not OSTEOSARCOMA.is_dir(), reason="the osteosarcoma tiles are not here")


def write_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


@pytest.fixture
def rows(tmp_path):
    """Six patients with a picture of each of two classes, written to ``tmp_path`` with their table."""
    rows = []
    for i in range(12):
        name = f"{i:02d}.png"
        Image.new("RGB", (4, 3), (i, 0, 0)).save(tmp_path / name)
        rows.append({"image": name, "label": ("tumor", "benign")[i % 2], "group": f"P{i // 2}"})
    write_table(tmp_path, rows)
    return rows


def test_datalist_of_a_folder(tmp_path, rows):
    content = folder_datalist(tmp_path, mpp=0.5, folds=3, fold=1)
    assert content["labels"] == {"0": "benign", "1": "tumor"}
    assert (content["mpp"], content["mpp_source"]) == (0.5, "given")
    assert content["settings"] == {"folds": 3, "fold": 1, "seed": 0}
    items = {item["image"]: item for split in SPLITS for item in content[split]}
    for row in rows:
        item = items[row["image"]]
        assert item["label"] == int(row["label"] == "tumor")
        assert item["group"] == row["group"]
        assert item["sha256"] == file_sha256(tmp_path / row["image"])
    assert [len(content[split]) for split in SPLITS] == [4, 4, 4]
    check_groups({split: content[split] for split in SPLITS})
    path = save_datalist(content, tmp_path / "datalist.json")
    assert len(load_datalist(path, "training", num_classes=2)) == 4


def test_the_order_of_the_rows_does_not_matter(tmp_path, rows):
    first = save_datalist(folder_datalist(tmp_path, folds=3), tmp_path / "1.json").read_bytes()
    write_table(tmp_path, rows[::-1])
    assert save_datalist(folder_datalist(tmp_path, folds=3), tmp_path / "2.json").read_bytes() == first


def test_class_order(tmp_path, rows):
    content = folder_datalist(tmp_path, folds=3, class_order=["tumor", "benign"])
    assert content["labels"] == {"0": "tumor", "1": "benign"}
    tumors = {row["image"] for row in rows if row["label"] == "tumor"}
    assert {item["image"] for split in SPLITS for item in content[split] if item["label"] == 0} == tumors


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["benign"], r"00\.png: label 'tumor' is none of the classes \['benign'\]"),
        (["benign", "tumor", "other"], "the classes must be .* each once"),
        (["benign", "tumor", "tumor"], "the classes must be .* each once"),
    ],
)
@pytest.mark.usefixtures("rows")
def test_wrong_class_order(tmp_path, order, message):
    with pytest.raises(ValueError, match=message):
        folder_datalist(tmp_path, folds=3, class_order=order)


def relabel(folder, rows, names):
    """Write the table of ``rows`` with other labels, in turn, and without groups."""
    table = []
    for i, row in enumerate(rows):
        table.append({"image": row["image"], "label": names[i % len(names)]})
    write_table(folder, table)


@pytest.mark.parametrize(
    "names",
    [
        ["2", "10"],
        ["-1", "0.5", "3", "20"],
        ["1e-3", "1"],
        ["grade 2", "grade 10"],
        ["ISUP2-a", "ISUP2-b", "ISUP10"],
        ["2nd", "10th", "other"],
        ["B", "a"],
    ],
)
def test_numbers_in_class_names_sort_by_value(tmp_path, rows, names):
    relabel(tmp_path, rows, names[::-1])
    content = folder_datalist(tmp_path, mpp=0.5, folds=3)
    assert content["labels"] == {str(i): name for i, name in enumerate(names)}
    relabel(tmp_path, rows, names)
    order = names[1:] + names[:1]
    assert list(folder_datalist(tmp_path, mpp=0.5, folds=3, class_order=order)["labels"].values()) == order


def test_folders_of_classes_sort_by_value(tmp_path):
    for name in ("10", "9", "2"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (4, 3), (i, int(name), 0)).save(tmp_path / name / f"{i}.png")
    content = folder_datalist(tmp_path, mpp=0.5, folds=3)
    assert content["labels"] == {"0": "2", "1": "9", "2": "10"}
    items = [item for split in SPLITS for item in content[split]]
    assert {(item["image"].split("/")[0], item["label"]) for item in items} == {("2", 0), ("9", 1), ("10", 2)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["tumor", "nan"],
            r"'nan' is how programs write a missing label, but 6 images have it: 01\.png, .*--class-order",
        ),
        (["tumor", "NaN"], "'NaN' is how programs write a missing label"),
        (["NA", "tumor"], "'NA' is how programs write a missing label"),
        (["None", "tumor"], "'None' is how programs write a missing label"),
    ],
)
def test_a_missing_label_is_no_class_unless_it_is_named(tmp_path, rows, names, message):
    relabel(tmp_path, rows, names)
    with pytest.raises(ValueError, match=message):
        folder_datalist(tmp_path, mpp=0.5, folds=3)
    content = folder_datalist(tmp_path, mpp=0.5, folds=3, class_order=names)
    assert list(content["labels"].values()) == names


@pytest.mark.parametrize("names", [["none", "tumor"], ["3+4", "4+3"], ["inf", "tumor"]])
def test_names_that_are_classes(tmp_path, rows, names):
    relabel(tmp_path, rows, names)
    assert list(folder_datalist(tmp_path, mpp=0.5, folds=3)["labels"].values()) == names


def test_spacing_column(tmp_path, rows):
    write_table(tmp_path, [{**row, "mpp": "0.25" if i == 0 else ""} for i, row in enumerate(rows)])
    content = folder_datalist(tmp_path, folds=3, mpp=1.0)
    spacing = {i["image"]: (i.get("mpp"), i.get("mpp_source")) for split in SPLITS for i in content[split]}
    assert spacing.pop("00.png") == (0.25, "labels.csv")
    assert set(spacing.values()) == {(None, None)}  # the top level tells it
    write_table(tmp_path, [{**row, "mpp": "0,25"} for row in rows])  # a decimal comma
    content = folder_datalist(tmp_path, folds=3)
    assert {item["mpp"] for split in SPLITS for item in content[split]} == {0.25}
    for wrong, message in (
        ("1.000,5", "mpp '1.000,5' is not a number with one decimal point or comma"),
        ("fine", "mpp 'fine' is not a number"),
        ("0", "mpp must be a positive number"),
    ):
        write_table(tmp_path, [{**row, "mpp": wrong} for row in rows])
        with pytest.raises(ValueError, match=rf"00\.png: {message}"):
            folder_datalist(tmp_path, folds=3)
    write_table(tmp_path, rows)
    with pytest.raises(ValueError, match="mpp must be a positive number"):
        folder_datalist(tmp_path, folds=3, mpp=-1.0)


def test_spacing_of_the_row_then_given_then_of_the_file(tmp_path, rows, caplog):
    levels = levels_of(picture(96, 128), [2])
    for name, options in (("00.tif", {"mpp": 0.4}), ("01.svs", {"aperio_mpp": 0.25}), ("02.tif", {"mpp": 352.8})):
        row = rows[int(name[:2])]
        row["image"] = Path(write_pyramid(tmp_path / name, levels, **options)).name
        levels = [255 - level // (2 + len(name)) for level in levels]  # no two alike

    def spacings(**given):
        content = folder_datalist(tmp_path, folds=3, **given)
        items = {item["image"]: item for split in SPLITS for item in content[split]}
        return {
            name: (items[name].get("mpp"), items[name].get("mpp_source")) for name in ("00.tif", "01.svs", "02.tif")
        }

    write_table(tmp_path, rows)
    found = spacings()
    assert found["00.tif"] == (pytest.approx(0.4), "TIFF resolution")
    assert found["01.svs"] == (0.25, "Aperio MPP")
    assert found["02.tif"] == (None, None)  # 72 dpi is no spacing
    statement = r"02\.tif \(TIFF resolution 352\.8 um/px rejected: outside 0\.05-20\)"
    assert re.search(rf"No credible spacing is stated for .*{statement}", caplog.text)
    assert set(spacings(mpp=0.5).values()) == {(None, None)}  # the top level tells it
    assert re.search(rf"mpp=0\.5 takes the place of what files state: {statement}\.", caplog.text)
    write_table(tmp_path, [{**row, "mpp": "0.3"} for row in rows])
    assert set(spacings(mpp=0.5).values()) == {(0.3, "labels.csv")}


def test_an_unknown_spacing_is_told(tmp_path, rows, caplog):
    folder_datalist(tmp_path, folds=3)
    assert "No credible spacing is stated for 00.png, 01.png, 02.png, ... (12 in all); give it with" in caplog.text
    caplog.clear()
    folder_datalist(tmp_path, folds=3, mpp=1.0)
    assert not caplog.records


def test_what_is_no_picture_is_refused(tmp_path, rows):
    (tmp_path / rows[4]["image"]).write_bytes(b"not a picture")
    with pytest.raises(SlideError, match=r"04\.png: no reader can open it"):
        folder_datalist(tmp_path, folds=3)


def test_a_folder_for_each_class(tmp_path, caplog):
    for i in range(9):
        folder = tmp_path / "abc"[i % 3]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (i, 0, 0)).save(folder / f"{i}.PNG")
    for name in ("a/Thumbs.db", "b/._4.png", "c/notes.txt", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    content = folder_datalist(tmp_path, folds=3, mpp=1.0)
    assert content["labels"] == {"0": "a", "1": "b", "2": "c"}
    items = {item["image"]: item["label"] for split in SPLITS for item in content[split]}
    assert items == {f"{'abc'[i % 3]}/{i}.PNG": i % 3 for i in range(9)}
    assert "left out, in no class or not named like images or slides: c/notes.txt." in caplog.text
    assert "left out, hidden or of the system: a/Thumbs.db, b/._4.png." in caplog.text


def test_a_table_in_place_of_the_folder(tmp_path, rows):
    write_table(tmp_path, rows).rename(tmp_path / "mine.csv")
    assert folder_datalist(tmp_path / "mine.csv", folds=3) == folder_datalist(tmp_path, tmp_path / "mine.csv", folds=3)


def test_a_patient_in_two_groups_is_a_leak(tmp_path, rows):
    """The group is the slide; a patient with two slides would lie in two splits."""
    write_table(tmp_path, [{**row, "patient": f"Q{i % 5}"} for i, row in enumerate(rows)])
    with pytest.raises(ValueError, match=r"group, patient, image or slide must lie in one split only, but found Q"):
        folder_datalist(tmp_path, folds=3)


def test_checksum_column(tmp_path, rows):
    write_table(tmp_path, [{**row, "sha256": file_sha256(tmp_path / row["image"]).upper()} for row in rows])
    folder_datalist(tmp_path, folds=3)
    (tmp_path / "07.png").write_bytes(b"picture 8!")
    with pytest.raises(ValueError, match=r"07\.png: the file has changed: its sha256 is"):
        folder_datalist(tmp_path, folds=3)


def test_two_names_of_one_picture(tmp_path, rows):
    shutil.copy(tmp_path / rows[0]["image"], tmp_path / rows[5]["image"])
    with pytest.raises(ValueError, match=r"files of the same image: 00\.png = 05\.png; keep one of each"):
        folder_datalist(tmp_path, folds=3)


def test_missing_pictures(tmp_path, rows):
    (tmp_path / "03.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels\.csv: 1 of 12 images are not in .*: 03\.png"):
        folder_datalist(tmp_path, folds=3)
    with pytest.raises(FileNotFoundError, match=r"none\.csv: there is no such table"):
        folder_datalist(tmp_path, tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such folder of images\.$"):
        folder_datalist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"image,label\n\n , \n", "no rows"),
        (b"image\na.png\n", "the header needs 'image' and 'label'"),
        (b"image,label,label\na.png,x,y\n", "each column once"),
        (b"image,label\na.png,x\nb.png\n", r"row 2: needed are 2 cells, but got \['b\.png'\]"),
        (b"image,label\na.png,\n", "row 1: needed is a value of 'label'"),
        (b"image,label\na.png,x\na.png,y\n", r"named more than once: a\.png"),
        (b"image,label\n\xff.png,x\n", "not a CSV file in UTF-8"),
    ],
)
def test_wrong_table(tmp_path, text, message):
    (tmp_path / "labels.csv").write_bytes(text)
    with pytest.raises(ValueError, match=rf"labels\.csv: .*{message}"):
        folder_datalist(tmp_path)


def test_table_of_a_spreadsheet(tmp_path, rows):
    text = (tmp_path / "labels.csv").read_text(encoding="utf-8")
    (tmp_path / "labels.csv").write_text("\ufeff" + text.replace(",", " , ").replace("\n", "\r\n"), encoding="utf-8")
    assert sum(len(folder_datalist(tmp_path, folds=3)[split]) for split in SPLITS) == len(rows)


@needs_osteosarcoma
@pytest.mark.parametrize("fold", range(4))
def test_osteosarcoma_by_patient(fold):
    content = folder_datalist(OSTEOSARCOMA, mpp=1.0, folds=4, fold=fold)
    assert list(content["labels"].values()) == ["Non-Tumor", "Non-Viable-Tumor", "Viable"]
    items = [item for split in SPLITS for item in content[split]]
    assert Counter(item["label"] for item in items) == {0: 20, 1: 20, 2: 20}
    patients = [{item["group"] for item in content[split]} for split in SPLITS]
    assert sorted(len(p) for p in patients) == [1, 1, 2]
    assert len(set.union(*patients)) == 4
    assert {item["label"] for item in content["training"]} == {0, 1, 2}


@needs_osteosarcoma
def test_one_changed_byte_of_a_tile_is_found(tmp_path):
    shutil.copytree(OSTEOSARCOMA, tmp_path / "tiles", copy_function=shutil.copyfile)
    (tmp_path / "tiles").chmod(0o755)
    tile = sorted((tmp_path / "tiles").glob("*.jpg"))[30]
    data = bytearray(tile.read_bytes())
    data[len(data) // 2] ^= 1
    tile.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{tile.name}: the file has changed"):
        folder_datalist(tmp_path / "tiles", folds=4)


# ------------------------------------------------------------------------------------------------ slides of many files


def write_dicom_classes(folder: Path, number: int = 6) -> None:
    """Slides of two files each, in the folders of two classes."""
    for i in range(number):
        pixels = picture(128, 128, i)
        stem = f"s{i}_level"
        write_dicom_slide(folder / "AB"[i % 2], [pixels, pixels[::2, ::2]], stem=stem, PatientID=f"P{i}")


def test_dicom_slides_of_two_files_are_one_item_each(tmp_path, caplog):
    write_dicom_classes(tmp_path)
    content = folder_datalist(tmp_path, folds=3)
    items = [item for split in SPLITS for item in content[split]]
    assert sorted(item["image"] for item in items) == sorted(f"{'AB'[i % 2]}/s{i}_level0.dcm" for i in range(6))
    assert {(item["mpp"], item["mpp_source"]) for item in items} == {(0.5, "openslide.mpp-x")}
    for item in items:
        assert item["sha256"] == slide_sha256(tmp_path / item["image"].replace("level0", "level1"))
    assert "12 files are 6 images or slides, some of several files." in caplog.text
    path = save_datalist(content, tmp_path / "datalist.json")
    assert verify_datalist(path) == ([], 6)


def test_a_folder_for_each_dicom_slide(tmp_path):
    for i in range(6):
        write_dicom_slide(tmp_path / "AB"[i % 2] / f"s{i}", [picture(128, 128, i)], PatientID=f"P{i}")
    content = folder_datalist(tmp_path, folds=3)
    items = [item for split in SPLITS for item in content[split]]
    assert sorted(item["image"] for item in items) == sorted(f"{'AB'[i % 2]}/s{i}" for i in range(6))
    path = save_datalist(content, tmp_path / "datalist.json")
    assert load_datalist(path, "training")[0]["image"] == str(tmp_path / content["training"][0]["image"])
    assert verify_datalist(path) == ([], 6)


def test_two_files_of_one_dicom_slide_in_a_table(tmp_path):
    write_dicom_classes(tmp_path)
    names = [f"{'AB'[i % 2]}/s{i}_level{level}.dcm" for i in range(6) for level in (0, 1)]
    write_table(tmp_path, [{"image": name, "label": name[0]} for name in names])
    same = r"files of the same image: A/s0_level0\.dcm = A/s0_level1\.dcm, "
    with pytest.raises(ValueError, match=same):
        folder_datalist(tmp_path, folds=3)


def test_a_dicom_slide_and_a_copy_that_lacks_a_level(tmp_path):
    write_dicom_classes(tmp_path)
    (tmp_path / "B" / "copy").mkdir()
    shutil.copy(tmp_path / "A" / "s0_level0.dcm", tmp_path / "B" / "copy" / "x.dcm")
    with pytest.raises(ValueError, match=r"one slide \(DICOM series [\d.]+\) under 2 names: A/s0_level0\.dcm, B/copy"):
        folder_datalist(tmp_path, folds=3)


def test_dicom_slides_of_one_patient_without_a_group_are_told(tmp_path, caplog):
    write_dicom_classes(tmp_path)
    write_dicom_slide(tmp_path / "A", [picture(128, 128, 9)], stem="s9_level", PatientID="P0")
    folder_datalist(tmp_path, folds=3)
    assert "2 DICOM slides state the patient 'P0', but have no group and may come into two splits: A/s0_" in caplog.text
    assert "'P1'" not in caplog.text


def test_tiles_of_a_hamamatsu_slide_are_no_images(tmp_path, caplog):
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "s.vms").write_text("[Virtual Microscope Specimen]\nImageFile=s.jpg\nMapFile=map.jpg\n")
    for name in ("s.jpg", "map.jpg"):
        Image.fromarray(picture(64, 64)).save(tmp_path / "A" / name)
    with pytest.raises(SlideError, match=r"A/s\.vms: "):  # the only item; OpenSlide finds these tiles incomplete
        folder_datalist(tmp_path, folds=3)
    assert "3 files are 1 images or slides" in caplog.text


@pytest.mark.parametrize(
    "system", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", "System Volume Information"]
)
def test_a_folder_of_the_system_is_no_class(tmp_path, caplog, system):
    for i in range(9):
        folder = tmp_path / ("a", "b", system)[i % 3]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (25 * i, 0, 0)).save(folder / f"{i}.jpeg")
    content = folder_datalist(tmp_path, folds=3, mpp=1.0)
    assert content["labels"] == {"0": "a", "1": "b"}
    assert sum(len(content[split]) for split in SPLITS) == 6
    assert f"left out, hidden or of the system: {system}." in caplog.text


def test_what_is_in_no_class_is_told(tmp_path, caplog):
    """An image beside the folders of classes, an unfinished download, and a class without an image."""
    for i in range(6):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 3), (25 * i, 0, 0)).save(folder / f"{i}.PNG")
    Image.new("RGB", (4, 3)).save(tmp_path / "stray.png")
    (tmp_path / "a" / "7.svs.part").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    content = folder_datalist(tmp_path, folds=3, mpp=1.0)
    assert content["labels"] == {"0": "a", "1": "b"}
    assert sum(len(content[split]) for split in SPLITS) == 6
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: left out, in no class or not named like images or slides: stray.png, a/7.svs.part.",
        f"{tmp_path}: folders without images are no classes: empty.",
    ]


def test_data_below_a_hidden_folder_is_data(tmp_path):
    root = tmp_path / ".cache" / "@eaDir"
    for i in range(6):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (i, 0, 0)).save(root / "ab"[i % 2] / f"{i}.png")
    content = folder_datalist(root, folds=3, mpp=1.0)
    assert sum(len(content[split]) for split in SPLITS) == 6


def test_a_slide_that_no_reader_can_read_is_named(tmp_path):
    write_dicom_classes(tmp_path)
    (tmp_path / "A" / "x.vsi").write_bytes(b"II*\0 and so on")
    with pytest.raises(SlideError, match=r"A/x\.vsi: Olympus slides \(\.vsi\) cannot be read"):
        folder_datalist(tmp_path, folds=3)
