# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From BACH's folders, as people have them, to a datalist: the paper's split, the labels, and the bundle on it."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bach_cases import CLASSES, TEST, images, make_bach, truth, write_truth
from bundle_runs import copy_bundle, predicted, run

from monai_jsma.__main__ import main
from monai_jsma._io import file_sha256
from monai_jsma.data import inspect_slide
from monai_jsma.datalists.bach import bach_datalist
from monai_jsma.datalists.schema import class_names, load_datalist, save_datalist
from monai_jsma.datalists.splits import SPLITS, check_groups

LABELS = {"n": 0, "b": 1, "is": 2, "iv": 3}


@pytest.fixture
def root(tmp_path):
    return make_bach(tmp_path)


def test_the_papers_split_by_value(tmp_path, caplog):
    """400 pictures: 80 and 20 of each class, and 100 unlabelled ones."""
    content = bach_datalist(make_bach(tmp_path, 100, (2, 3)))
    assert content["labels"] == {"0": "Normal", "1": "Benign", "2": "InSitu", "3": "Invasive"}
    assert Counter(item["label"] for item in content["training"]) == dict.fromkeys(range(4), 80)
    assert Counter(item["label"] for item in content["validation"]) == dict.fromkeys(range(4), 20)
    assert [item["image"] for item in content["test"]] == [f"../{TEST}/Photos/test{i}.tif" for i in range(100)]
    assert all(set(item) == {"image", "sha256"} for item in content["test"])
    for item in content["training"] + content["validation"]:
        assert LABELS[Path(item["image"]).stem.rstrip("0123456789")] == item["label"]
    assert [record.message[:23] for record in caplog.records] == ["Not 1536 x 2048 pixels:"]


def test_items_spacing_and_settings(root):
    content = bach_datalist(root, folds=5, fold=2, seed=3)
    assert content["mpp"] == 0.42
    assert "description of the challenge" in content["mpp_source"]
    assert content["settings"] == {
        "command": "prepare bach", "folds": 5, "fold": 2, "seed": 3, "patients": None, "tiled": None,
    }  # fmt: skip
    path = save_datalist(content, root / "datalist.json")
    assert class_names(path) == list(CLASSES)
    for side, number in (("training", 32), ("validation", 8), ("test", 10)):
        loaded = load_datalist(path, side, num_classes=None if side == "test" else 4)
        assert len(loaded) == number
        for item in loaded:
            assert item["sha256"] == file_sha256(item["image"])
            assert item["mpp"] == 0.42  # not the 72 dpi of the file
    with pytest.raises(ValueError, match=r"test\[0\]: the label must be .* but is None"):
        load_datalist(path, "test", num_classes=4)  # as training and evaluation do


def test_every_picture_is_validated_in_one_fold(root):
    contents = [bach_datalist(root, folds=4, fold=fold) for fold in range(4)]
    validated = Counter(image for content in contents for image in images(content, "validation"))
    assert set(validated) == images(contents[0], "training") | images(contents[0], "validation")
    assert set(validated.values()) == {1}
    assert len(validated) == 40
    for fold, content in enumerate(contents):
        assert {item["fold"] for item in content["validation"]} == {fold}
        assert fold not in {item["fold"] for item in content["training"]}
    with pytest.raises(ValueError, match="fold=4 of 4 folds"):
        bach_datalist(root, folds=4, fold=4)


def test_the_seed_decides(root):
    assert bach_datalist(root, seed=1) == bach_datalist(root, seed=1)
    assert len({frozenset(images(bach_datalist(root, seed=seed), "validation")) for seed in range(4)}) > 1


def write_patients(path: Path, patient_of: dict[str, str]) -> Path:
    path.write_text("image,patient\n" + "".join(f"{image},{patient}\n" for image, patient in patient_of.items()))
    return path


def test_patients_are_on_one_side(tmp_path, root):
    """Three pictures of each patient, of two classes; without the table they would be divided."""
    names = sorted(name for name, _ in truth(root))
    patient_of = {name: f"P{i // 3}" for i, name in enumerate(names)}
    alone = bach_datalist(root)
    divided = {patient_of[Path(image).name] for image in images(alone, "training")} & {
        patient_of[Path(image).name] for image in images(alone, "validation")
    }
    assert divided
    table = write_patients(tmp_path / "patients.csv", patient_of)
    for fold in range(5):
        content = bach_datalist(root, patients=table, fold=fold)
        sides = [{item["patient"] for item in content[split]} for split in ("training", "validation")]
        assert not sides[0] & sides[1]
        assert sides[0] | sides[1] == set(patient_of.values())
        for item in content["training"] + content["validation"]:
            assert item["patient"] == patient_of[Path(item["image"]).name]
        check_groups({split: content[split] for split in SPLITS})
    assert content["settings"]["patients"] == {"sha256": file_sha256(table)}


def test_wrong_patients(tmp_path, root):
    table, patient_of = tmp_path / "patients.csv", {name: name for name, _ in truth(root)}
    cases = {
        "images without a patient could leak between splits: Photos/Benign/b003.tif;": {**patient_of, "b003.tif": None},
        "names that are not images: b999": {**patient_of, "b999.tif": "P"},
        "named more than once: b003": {**patient_of, "Photos/Benign/B003.tif": "P"},
        "group, patient, image or slide must lie in one split only, but found b003.tif in": {
            **patient_of,
            "test3": "b003.tif",
        },
    }
    for message, rows_ in cases.items():
        write_patients(table, {image: patient for image, patient in rows_.items() if patient})
        with pytest.raises(ValueError, match=message):
            bach_datalist(root, patients=table)


def test_patients_in_two_spellings(tmp_path, root):
    patient_of = {name: name for name, _ in truth(root)}
    first, second, *_ = patient_of
    table = write_patients(tmp_path / "patients.csv", {**patient_of, first: "Pat-001", second: "pat 1"})
    with pytest.raises(ValueError, match=r"patients\.csv: .*patient 'Pat-001' and 'pat 1'.*--names-as-written"):
        bach_datalist(root, patients=table)
    assert bach_datalist(root, patients=table, names_as_written=True)["names_as_written"] is True


def test_tiled(tmp_path, root, caplog):
    flat, out = bach_datalist(root), tmp_path / "tiled"
    content = bach_datalist(root, tiled=out)
    assert content["settings"]["tiled"] == {"compression": "none", "tile": 256, "reductions": [1, 2, 4]}
    assert images(content, "test") == {f"test/test{i}.tif" for i in range(10)}
    for split in SPLITS:
        for item, source in zip(content[split], flat[split], strict=True):
            assert (item["source"], item["source_sha256"]) == (source["image"], source["sha256"])
            assert item.get("label") == source.get("label")
            assert item["sha256"] == file_sha256(out / item["image"])
            assert inspect_slide(out / item["image"]).mpp == pytest.approx(0.42)
            np.testing.assert_array_equal(
                tifffile.imread(out / item["image"], key=0), tifffile.imread(root / item["source"])
            )
    (out / "Benign" / "b004.tif").unlink()  # stopped before this one
    caplog.set_level(logging.INFO)
    assert bach_datalist(root, tiled=out) == content
    assert [r.message for r in caplog.records if r.message.endswith(": written")] == [f"{out}/Benign/b004.tif: written"]
    with pytest.raises(ValueError, match="need a folder of their own"):
        bach_datalist(root, tiled=root)
    with pytest.raises(ValueError, match="would overwrite the image itself"):
        bach_datalist(root, tiled=root / "Photos")


def test_command_twice_gives_the_same_bytes(tmp_path, root, capsys):
    first = []
    for _ in range(2):
        assert main(["prepare", "bach", str(root)]) == 0
        assert main(["prepare", "bach", str(root), f"--tiled={tmp_path / 'tiled'}", "--folds=2", "--fold=1"]) == 0
        first.append([path.read_bytes() for path in (root / "datalist.json", tmp_path / "tiled" / "datalist.json")])
    assert first[0] == first[1]
    assert [len(json.loads(data)["validation"]) for data in first[0]] == [8, 20]
    table = capsys.readouterr().out.splitlines()[:5]
    assert [line.split() for line in table] == [
        ["Normal", "Benign", "InSitu", "Invasive", "unlabelled", "groups"],
        ["training", "8", "8", "8", "8", "0", "32"],
        ["validation", "2", "2", "2", "2", "0", "8"],
        ["test", "0", "0", "0", "0", "10", "10"],
        [str(root / "datalist.json")],
    ]


@pytest.mark.parametrize("tiled", [False, True])
def test_the_bundle_trains_on_it_and_predicts_the_unlabelled(tmp_path, tiled):
    root = make_bach(tmp_path, 4, (192, 256))
    data = tmp_path / "tiled" if tiled else root
    assert main(["prepare", "bach", str(root), "--folds=4", *([f"--tiled={data}"] if tiled else [])]) == 0
    bundle = copy_bundle(tmp_path)
    small = {"dataset_dir": str(data), "thumbnail_size": [48, 64], "patch_size": 48}
    run(bundle, "train", epochs=1, **small)
    run(bundle, "inference", workflow_type="infer", **{**small, "max_pictures": None})
    table = predicted(bundle / "predictions")
    assert {Path(name).name for name in table} == {f"test{i}.tif" for i in range(4)}
    assert all(sum(p) == pytest.approx(1, abs=1e-4) and len(p) == 4 for p in table.values())
    drawn = {path.stem.rsplit("_", 1)[0] for path in (bundle / "predictions" / "attention").glob("*.png")}
    assert drawn == {f"test{i}" for i in range(4)}


def test_odd_files_are_left_out_and_named(root, caplog):
    content = bach_datalist(root)
    for name in ("Thumbs.db", "Normal/Thumbs.db", "Benign/._b001.tif", "InSitu/is001 (1).tif", "Unsure/b777.tif"):
        (root / "Photos" / name).parent.mkdir(exist_ok=True)
        (root / "Photos" / name).write_bytes(b"x")
    (root / "__MACOSX" / "Photos" / "Normal").mkdir(parents=True)
    caplog.clear()
    assert bach_datalist(root) == content
    assert "left out, not named like BACH's images: Benign/._b001.tif, InSitu/is001 (1).tif, " in caplog.text
    assert "(5 in all)" in caplog.text


def test_unexpected_numbers_are_warned_of(root, caplog):
    (root / "Photos" / "InSitu" / "is004.tif").unlink()
    write_truth(root, [line for line in truth(root) if line[0] != "b002.tif"])
    assert sum(len(bach_datalist(root)[side]) for side in ("training", "validation")) == 39
    messages = "\n".join(record.message for record in caplog.records)
    assert "9 InSitu images, but BACH has 100" in messages
    assert "10 unlabeled test images, but BACH has 100" in messages
    assert "in the table only: is004" in messages
    assert "not in the table: b002" in messages
    (root / "Photos" / "microscopy_ground_truth.csv").unlink()
    bach_datalist(root)
    assert "has no microscopy_ground_truth.csv, so the labels are those of the folders alone" in caplog.text


def test_words_of_the_table_and_folders(root):
    """Other copies write the classes otherwise."""
    content = bach_datalist(root)
    (root / "Photos" / "InSitu").rename(root / "Photos" / "in situ")
    write_truth(
        root, [[name.removesuffix(".tif").upper(), label.replace("InSitu", "In_Situ")] for name, label in truth(root)]
    )
    again = bach_datalist(root)
    for split in SPLITS:
        assert [{**i, "image": i["image"].replace("in situ", "InSitu")} for i in again[split]] == content[split]


def test_disagreement_is_an_error(root):
    lines = truth(root)
    write_truth(root, [[name, "Benign" if name == "iv007.tif" else label] for name, label in lines])
    with pytest.raises(ValueError, match=r"disagree on iv007 \(folder Invasive, table Benign\); correct the wrong one"):
        bach_datalist(root)
    write_truth(root, [*lines, ["b001.tif", "Normal"]])
    with pytest.raises(ValueError, match=r"row 41: b001\.tif has two labels"):
        bach_datalist(root)
    write_truth(root, [["b001.tif", "Malign"]])
    with pytest.raises(
        ValueError, match=r"row 1: a row needs the name of a file and one of .* but is \['b001\.tif', 'Malign'\]"
    ):
        bach_datalist(root)
    write_truth(root, lines)
    photos = root / "Photos"
    shutil.move(photos / "InSitu" / "is001.tif", photos / "Invasive" / "is001.tif")
    with pytest.raises(ValueError, match=r"is001\.tif: begins with 'is', but the images of Invasive with 'iv'"):
        bach_datalist(root)


def test_missing_parts_are_errors(tmp_path, root):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        bach_datalist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no folder Photos with the folders Normal, Benign, InSitu, Inv"):
        bach_datalist(tmp_path / TEST)
    shutil.rmtree(root / "Photos" / "Benign")
    with pytest.raises(ValueError, match="Photos: no images of Benign; unzip"):
        bach_datalist(root)


def test_copies_are_errors(tmp_path, root):
    shutil.copy(root / "Photos" / "Normal" / "n001.tif", tmp_path / TEST / "Photos" / "test3.tif")
    with pytest.raises(ValueError, match=r"files of the same image: Photos/Normal/n001\.tif = .*test3\.tif; keep one"):
        bach_datalist(root)


def test_test_folder_inside_or_given_or_absent(tmp_path, root, caplog):
    shutil.move(tmp_path / TEST / "Photos", root / "Test set")
    (tmp_path / TEST).rmdir()
    assert len(bach_datalist(root)["test"]) == 10
    shutil.move(root / "Test set", tmp_path / "elsewhere")
    assert len(bach_datalist(root, test=tmp_path / "elsewhere")["test"]) == 10
    caplog.clear()
    assert bach_datalist(root)["test"] == []
    assert "No unlabeled test images in or beside" in caplog.text
    shutil.copytree(tmp_path / "elsewhere", root / "Photos" / "test")
    assert len(bach_datalist(root)["test"]) == 10
    with pytest.raises(FileNotFoundError, match=r"InSitu: holds no test0\.tif"):
        bach_datalist(root, test=root / "Photos" / "InSitu")
    for name in ("test_a", "test_b"):
        shutil.copytree(tmp_path / "elsewhere", root / name)
    with pytest.raises(ValueError, match="Several folders have test images: .*test_a.*test_b; choose one with --test"):
        bach_datalist(root)


@pytest.mark.parametrize("place", ["root", "above", "photos"])
def test_the_folder_that_people_name(tmp_path, root, place):
    named = {"root": root, "above": tmp_path, "photos": root / "Photos"}[place]
    content = bach_datalist(named)
    assert len(load_datalist(save_datalist(content, named / "d.json"), "training")) == 32
    assert len(load_datalist(named / "d.json", "test")) == 10


def test_relative_root_gives_the_same(root, monkeypatch):
    content = bach_datalist(root)
    monkeypatch.chdir(root)
    assert bach_datalist(".") == content
