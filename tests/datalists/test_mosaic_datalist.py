# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mosaics on disk: every pixel is that of its core or white, no core is in two splits, and the truth is told."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_jsma.datalists import mosaic_files, read_annotations, verify_datalist
from monai_jsma.datalists.annotations import find_annotations, match_annotations
from monai_jsma.datalists.mosaic import MosaicSettings
from monai_jsma.datalists.mosaic_datalist import MosaicOutput, make_mosaics
from monai_jsma.geometry import Box, orient
from monai_jsma.slides import area_resample, inspect_slide, open_slide

SIZE = (60, 52)
FEW = {"num_train": 4, "num_validation": 2, "num_test": 2, "quality": None}


def write_cores(folder: Path, num_groups: int = 12, *, mpp: float = 1.0) -> Path:
    """Cores of two images for each group, each in two colors of its own, with a datalist in three splits."""
    content: dict = {"labels": {"0": "cancer", "1": "benign"}, "mpp": mpp, "training": [], "validation": [], "test": []}
    splits = ["training", "training", "validation", "test"]
    for i in range(2 * num_groups):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        pixels[:20] = (10 + 9 * i, 40, 90)
        pixels[20:, :30] = (100, 10 + 9 * i, 200)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        group = i // 2
        item = {"image": f"{i}.png", "label": i % 2, "group": f"P{group}"}
        content[splits[group % 4]].append(item)
    path = folder / "cores.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def cores(tmp_path):
    return write_cores(tmp_path)


def make(cores: Path, out: Path, *, positive_class: str = "cancer", base_dir=None, output=None, **settings):
    return make_mosaics(
        cores,
        out,
        positive_class=positive_class,
        settings=MosaicSettings(**settings),
        output=MosaicOutput(**{**FEW, **(output or {})}),
        base_dir=base_dir,
    )


def read_table(out: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each mosaic."""
    rows = defaultdict(list)
    with open(out / "cores.csv", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["image"]].append(row)
    return rows


def read_pixels(path: Path, level: int = 0) -> np.ndarray:
    info = inspect_slide(path)
    return open_slide(info).read(level, (0, 0), info.level_sizes[level])


def list_items(content) -> list[tuple[str, dict]]:
    return [(split, item) for split in ("training", "validation", "test") for item in content[split]]


def test_every_pixel_is_that_of_a_core_or_white(cores, tmp_path):
    content = make(cores, tmp_path / "out", grid=(3, 2))
    rows = read_table(tmp_path / "out")
    for _, item in list_items(content):
        pixels = read_pixels(tmp_path / "out" / item["image"])
        expected = np.full((3 * 128, 2 * 128, 3), 255, np.uint8)
        for row in rows[item["image"]]:
            core = np.array(Image.open(tmp_path / row["source"]))
            top, left, height, width = (int(row[name]) for name in ("row", "col", "height", "width"))
            expected[top : top + height, left : left + width] = orient(core, int(row["orientation"]))
        np.testing.assert_array_equal(pixels, expected)


def test_labels_numbers_and_no_core_in_two_splits(cores, tmp_path):
    content = make(cores, tmp_path / "out", grid=(3, 3), positive=(2,))
    source = json.loads(cores.read_text())
    split_of = {item["image"]: split for split in ("training", "validation", "test") for item in source[split]}
    label_of = {item["image"]: item["label"] for split in ("training", "validation", "test") for item in source[split]}
    rows = read_table(tmp_path / "out")
    for split, item in list_items(content):
        names = [row["source"] for row in rows[item["image"]]]
        assert {split_of[name] for name in names} == {split}
        num_cancer = sum(label_of[name] == 0 for name in names)  # label 0 of the cores is the class that is looked for
        assert num_cancer == item["num_positive"] == (2 if item["label"] else 0)
        assert len(names) == item["num_cores"] == 6
    for split in ("training", "validation", "test"):
        used = {
            row["source"]
            for _, item in list_items(content)
            if item["image"].startswith(split)
            for row in rows[item["image"]]
        }
        assert content["distinct_cores"][split] == {
            "cancer": sum(label_of[name] == 0 for name in used),
            "other": sum(label_of[name] == 1 for name in used),
        }
    assert content["labels"] == {"0": "no cancer", "1": "cancer"}
    assert verify_datalist(tmp_path / "out" / "datalist.json", everything=True) == ([], 8)


def test_annotations_are_the_boxes_of_the_deciding_cores(cores, tmp_path):
    content = make(cores, tmp_path / "out", positive=(2,))
    rows = read_table(tmp_path / "out")
    for _, item in list_items(content):
        areas = read_annotations(tmp_path / "out" / item["annotations"])[Path(item["image"]).stem]
        found = set()
        for area in areas:
            assert area.names == ("cancer",)
            assert area.frame == "canvas"
            low, high = area.ring.min(0), area.ring.max(0)
            found.add((*low, *(high - low)))
        boxes = [
            tuple(int(r[n]) for n in ("row", "col", "height", "width"))
            for r in rows[item["image"]]
            if r["decides"] == "1"
        ]
        assert found == set(boxes)
        assert len(found) == (2 if item["label"] else 0)
        area = sum(height * width for _, _, height, width in boxes)
        assert item["deciding_share"] == pytest.approx(area / (3 * 128) ** 2, abs=1e-6)


def test_draw_finds_the_annotations_of_a_split(cores, tmp_path):
    content = make(cores, tmp_path / "out", output={"num_test": 4})
    images = [Path(item["image"]) for item in content["test"]]
    areas, faults = match_annotations(find_annotations(tmp_path / "out" / "test"), images)
    assert faults == []
    num_areas = [len(areas.get(image, [])) for image in images]
    assert num_areas == [0, 1, 0, 1]


def test_majority(cores, tmp_path):
    content = make(cores, tmp_path / "out", rule="majority", positive=(4,))
    assert content["labels"] == {"0": "mostly not cancer", "1": "mostly cancer"}
    for _, item in list_items(content):
        assert item["num_positive"] == (4 if item["label"] else 2)
        areas = read_annotations(tmp_path / "out" / item["annotations"])[Path(item["image"]).stem]
        assert [area.names for area in areas] == [("cancer",) if item["label"] else ("not cancer",)] * 4


def read_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.*"))}


def test_the_same_twice_and_nothing_is_written_again(cores, tmp_path, monkeypatch):
    for name in ("a", "b"):
        make(cores, tmp_path / name)
    first = read_files(tmp_path / "a")
    assert first == read_files(tmp_path / "b")
    assert len(first) == 2 + 2 * 8

    # An interrupted run continues: only what is missing is read and written.
    removed = tmp_path / "b" / "test" / "test_0001.tif"
    removed.unlink()
    (tmp_path / "b" / "datalist.json").unlink()
    written = []
    write = mosaic_files.write_levels
    monkeypatch.setattr(
        mosaic_files, "write_levels", lambda path, *a, **k: (written.append(path), write(path, *a, **k))
    )
    make(cores, tmp_path / "b")
    assert [path.name for path in written] == [".test_0001.part.tif"]
    assert first == read_files(tmp_path / "b")


def test_folds_have_their_own_cores_and_can_be_divided_again(cores, tmp_path):
    from monai_jsma.datalists.splits import make_fold_datalists

    content = make(cores, tmp_path / "out", output={"folds": 4, "fold": 1, "num_test": 4})
    rows = read_table(tmp_path / "out")
    groups_of = defaultdict(set)
    for _, item in list_items(content):
        groups_of[item["group"]] |= {row["group"] for row in rows[item["image"]]}
    assert len(groups_of) == 4
    all_groups = [group for groups in groups_of.values() for group in groups]
    assert len(all_groups) == len(set(all_groups)) == 12
    assert {item["group"] for item in content["test"]} == {"cores of fold1"}

    for number, divided in enumerate(make_fold_datalists(content, 4)):
        assert {item["group"] for item in divided["test"]} == {f"cores of fold{number}"}
        assert {len(divided[split]) for split in ("validation", "test")} == {4}
        assert len({item["group"] for item in divided["test"]}) == 1
    assert verify_datalist(tmp_path / "out" / "datalist.json") == ([], 16)


def test_cores_of_another_spacing_are_resampled_or_refused(cores, tmp_path):
    content = json.loads(cores.read_text())
    for item in content["training"][:4]:
        item["mpp"] = 0.5
    cores.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"different spacings: .*0\.5 .* 1 um .*--to-mpp 1"):
        make(cores, tmp_path / "out")
    with pytest.raises(ValueError, match=r"finer than the file's 1 um/px"):
        make(cores, tmp_path / "out", output={"to_mpp": 0.5})

    made = make(cores, tmp_path / "out", output={"to_mpp": 1.0})
    assert inspect_slide(tmp_path / "out" / "training" / "training_0000.tif").mpp == pytest.approx(1.0)
    small = {item["image"] for item in content["training"][:4]}
    seen = set()
    rows = read_table(tmp_path / "out")
    for _, item in list_items(made):
        pixels = read_pixels(tmp_path / "out" / item["image"])
        for row in rows[item["image"]]:
            top, left, height, width = (int(row[name]) for name in ("row", "col", "height", "width"))
            core = np.array(Image.open(tmp_path / row["source"]))
            if row["source"] in small:
                seen.add(row["source"])
                core = area_resample(core, Box(0, 0, *SIZE), (30, 26))
            np.testing.assert_array_equal(
                pixels[top : top + height, left : left + width], orient(core, int(row["orientation"]))
            )
    assert seen


def test_regions_of_an_image_are_cores(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (120, 240, 3), dtype=np.uint8)
    content: dict = {"labels": {"0": "benign", "1": "cancer"}, "mpp": 1.0}
    for split in ("training", "validation", "test"):
        Image.fromarray(pixels + len(split)).save(tmp_path / f"{split}.png")
        content[split] = [
            {"image": f"{split}.png", "label": i % 2, "location": [60 * (i // 4), 60 * (i % 4)], "size": [50, 40]}
            for i in range(8)
        ]
    (tmp_path / "regions.json").write_text(json.dumps(content))
    make(tmp_path / "regions.json", tmp_path / "out")
    for image, rows in read_table(tmp_path / "out").items():
        mosaic = read_pixels(tmp_path / "out" / image)
        for row in rows:
            name, _, place = row["source"].partition(" at row ")
            core_row, core_col = (int(text) for text in place.split(", column "))
            source = np.array(Image.open(tmp_path / name))[core_row : core_row + 50, core_col : core_col + 40]
            top, left, height, width = (int(row[n]) for n in ("row", "col", "height", "width"))
            np.testing.assert_array_equal(
                mosaic[top : top + height, left : left + width], orient(source, int(row["orientation"]))
            )


def change(cores: Path, **changes) -> None:
    content = json.loads(cores.read_text())
    content.update(changes)
    cores.write_text(json.dumps(content))


def test_what_is_wrong_is_named(cores, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"cores\.json: 'tumor' is none of its classes, which are cancer, benign"):
        make(cores, out, positive_class="tumor")

    content = json.loads(cores.read_text())
    leaking = [{**content["test"][0], "group": content["training"][0]["group"]}, *content["test"][1:]]
    change(cores, test=leaking)
    with pytest.raises(ValueError, match="one split only"):
        make(cores, out)
    change(cores, test=[{"image": item["image"], "label": 1, "group": item["group"]} for item in content["test"]])
    with pytest.raises(ValueError, match=r"test: there are 0 positive and 6 other cores"):
        make(cores, out)
    change(cores, test=[{"image": "0.png", "label": 1, "group": "new"}])
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    change(cores, test=[*content["test"], {"image": "copy.png", "label": 1, "group": "new"}])
    with pytest.raises(ValueError, match=r"0\.png and copy\.png are the same pixels"):
        make(cores, out)
    change(cores, test=[{**content["test"][0], "sha256": "0" * 64}, *content["test"][1:]])
    with pytest.raises(ValueError, match=r"1 of 24 images cannot be used: .*6\.png: the file has changed"):
        make(cores, out)
    change(cores, test=content["test"])
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cores\.json: 1 of 24 images cannot be used: .*3\.png"):
        make(cores, out)
    assert not out.exists()


def test_no_spacing_is_an_error(cores, tmp_path):
    content = json.loads(cores.read_text())
    del content["mpp"]
    cores.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"24 of 24 images cannot be used: .*does not tell its spacing"):
        make(cores, tmp_path / "out")


def test_other_mosaics_in_the_folder_are_not_replaced(cores, tmp_path):
    out = tmp_path / "out"
    make(cores, out)
    with pytest.raises(ValueError, match=r"datalist\.json: was made with blank = 0\.3, not 0\.1"):
        make(cores, out, blank=0.1)
    (out / "datalist.json").unlink()
    with pytest.raises(ValueError, match=r"training_0000\.tif: is another image"):
        make(cores, out, seed=1)
    make(cores, out)
    path = out / "training" / "training_0000.tif"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"training_0000\.tif: has changed since it was written"):
        make(cores, out)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"training_0000\.tif: is no mosaic"):
        make(cores, out)


def test_unlabeled_items_are_not_used(cores, tmp_path):
    content = json.loads(cores.read_text())
    unlabeled = {"image": content["test"][0]["image"], "group": content["test"][0]["group"]}
    change(cores, test=[unlabeled, *content["test"][1:]])
    make(cores, tmp_path / "out", grid=(6, 6), blank=0, positive=(12,))
    used = {row["source"] for rows in read_table(tmp_path / "out").values() for row in rows}
    assert len(used) == 23
    assert unlabeled["image"] not in used


@pytest.mark.parametrize("arguments", [{"num_train": 1}, {"quality": 0}, {"folds": 2}, {"folds": 3, "fold": 3}])
def test_output_out_of_range(arguments):
    with pytest.raises(ValueError, match="at least 2|quality|folds; the three"):
        MosaicOutput(**arguments)
