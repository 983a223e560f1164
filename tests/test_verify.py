# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``verify`` finds every fault of a datalist, each at its stage, and none in a good one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from slide_files import levels_of, overwrite, picture, shared_slide, tile_range, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma.data.datalist import check_groups, file_sha256, load_datalist, on_two_sides, sides_of
from monai_jsma.data.item_regions import read_region, region_of
from monai_jsma.data.slides import inspect_slide
from monai_jsma.data.verify import STAGES, fault_table, verify_datalist

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four different slides of 700 x 900 pixels, 0.5 um/px, two levels; and a PNG without spacing."""
    folder = tmp_path_factory.mktemp("files")
    for i, name in enumerate("abcd"):
        levels = levels_of(picture(700, 900, i), [2])
        write_pyramid(folder / f"{name}.tif", levels, tile=(128, 128), compression="jpeg", mpp=0.5)
    Image.fromarray(picture(80, 90)).save(folder / "e.png")
    return folder


class Case:
    """A good datalist of these slides in a folder of its own, to be spoilt."""

    def __init__(self, files: Path, folder: Path) -> None:
        shutil.copytree(files, folder)
        self.folder = folder
        self.content: dict[str, Any] = {
            "labels": {"0": "benign", "1": "tumor"},
            "training": [
                self.item("a.tif", label=0, patient="P1"),
                self.item("b.tif", label=1, patient="P2", location=[100, 200], size=[512, 600]),
                self.item("b.tif", label=1, patient="P2", location=[140, 140], size=[50, 60]),
            ],
            "validation": [self.item("c.tif", label=1, patient="P3")],
            "test": [self.item("d.tif", patient="P4"), self.item("e.png", patient="P5", mpp=0.5)],
        }

    def item(self, image: str, **keys: Any) -> dict[str, Any]:
        return {"image": image, "sha256": file_sha256(self.folder / image), **keys}

    def run(self, **options: Any) -> list[tuple[str, str]]:
        """(key, stage) of all faults; none of them is without a reason that names a file or an item."""
        path = self.folder / "datalist.json"
        path.write_text(json.dumps(self.content))
        self.faults, _ = verify_datalist(path, **options)
        assert all(fault.reason and fault.stage in STAGES for fault in self.faults)
        return [(fault.key, fault.stage) for fault in self.faults]


@pytest.fixture
def case(files: Path, tmp_path: Path) -> Case:
    return Case(files, tmp_path / "case")


@pytest.mark.parametrize("everything", [False, True])
def test_a_good_datalist_has_no_fault(case, everything):
    assert case.run(everything=everything, magnifications=("50X", "100X", 0.5)) == []


ITEM_CASES = {  # what is spoilt: the stage that sees it
    "unknown label": ({"label": 2}, "label"),
    "name for a label": ({"label": "tumor"}, "label"),
    "no label to learn": ({"label": None}, "label"),
    "spacing is text": ({"mpp": "0.5"}, "mpp"),
    "spacing is no number": ({"mpp": float("nan")}, "mpp"),
    "spacing of 72 dpi": ({"mpp": 352.8}, "mpp"),
    "spacing too coarse": ({"mpp": 1.2}, "magnification"),
    "box beyond the right edge": ({"location": [0, 500], "size": [10, 401]}, "box"),
    "box above": ({"location": [-1, 0], "size": [10, 10]}, "box"),
    "box of nothing": ({"location": [0, 0], "size": [0, 10]}, "box"),
    "box of half pixels": ({"location": [0.5, 0], "size": [10, 10]}, "box"),
    "box of three numbers": ({"location": [0, 0, 0], "size": [10, 10]}, "box"),
    "place beyond the picture": ({"location": [700, 0]}, "box"),
    "size of another picture": ({"size": [900, 700]}, "box"),
    "checksum of another file": ({"sha256": "0" * 64}, "sha256"),
    "no such file": ({"image": "none.tif"}, "file"),
    "a folder": ({"image": "."}, "file"),
    "half a character": ({"image": "\ud800.tif"}, "file"),
    "a zero byte": ({"image": "a\0.tif"}, "file"),
    "no image": ({"image": 3}, "item"),
}


@pytest.mark.parametrize("name", ITEM_CASES)
def test_fault_of_an_item(case, name):
    change, stage = ITEM_CASES[name]
    case.content["training"][0].update(change)
    assert case.run(magnifications=("100X",)) == [("training[0]", stage)]
    assert len(list(csv.reader(fault_table(case.faults).encode().decode().splitlines()))) == 2
    assert case.faults[0].image == ("3" if name == "no image" else case.content["training"][0]["image"])


def flip(path: Path) -> None:
    """One bit in the compressed data of a JPEG tile: what decodes all the same."""
    first, count = tile_range(path, 0, 0)
    at = first + count - 40
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3000)


def zero(path: Path) -> None:
    """The bytes of the last tile of level 0, which no patch of the middle touches."""
    first, count = tile_range(path, 0, 47)
    overwrite(path, first, bytes(count))


FILE_CASES = {  # what is done to the file: stages without its checksum, of a patch and of everything
    "flipped bit": (flip, [], []),
    "cut short": (cut, ["open"], ["open"]),
    "zeroed tile": (zero, [], ["read"]),
    "no bytes": (lambda path: path.write_bytes(b""), ["file"], ["file"]),
    "text": (lambda path: path.write_text("no picture"), ["open"], ["open"]),
}


@pytest.mark.parametrize("name", FILE_CASES)
def test_fault_of_a_file(case, name):
    spoil, patch, everything = FILE_CASES[name]
    spoil(case.folder / "c.tif")
    checksum = [] if patch == ["file"] else ["sha256"]
    assert [stage for _, stage in case.run()] == checksum + patch
    assert {key for key, _ in case.run(everything=True)} == {"validation[0]"}
    del case.content["validation"][0]["sha256"]
    assert [stage for _, stage in case.run()] == patch
    assert [stage for _, stage in case.run(everything=True)] == everything


def test_damaged_picture_that_is_decoded_whole(case):
    os.truncate(case.folder / "e.png", 2000)
    assert case.run() == [("test[1]", "sha256"), ("test[1]", "read")]


def test_region_is_read_where_it_lies(case):
    """A zeroed tile in one region is no fault of another, and read in the middle of the region."""
    first, count = tile_range(case.folder / "b.tif", 0, 9)  # rows and columns 128 to 255
    overwrite(case.folder / "b.tif", first, bytes(count))
    for item in case.content["training"]:
        del item["sha256"]
    assert case.run() == [("training[2]", "read")]
    assert "tile 9 of level 0" in case.faults[0].reason


def test_reading_everything_covers_every_pixel_of_the_region_once(case, monkeypatch):
    info = inspect_slide(case.folder / "a.tif")
    seen = [np.zeros(size, int) for size in info.level_sizes]

    class Counting:
        def read(self, level, row, col, height, width):
            seen[level][row : row + height, col : col + width] += 1

    monkeypatch.setattr("monai_jsma.data.item_regions.open_reader", lambda info: Counting())
    monkeypatch.setattr("monai_jsma.data.item_regions._BLOCK", 128)
    read_region(info, ((101, 203), (311, 399)), everything=True)
    expected = [np.zeros(size, int) for size in info.level_sizes]
    expected[0][101:412, 203:602] = 1
    expected[1][50:206, 101:301] = 1
    for level in (0, 1):
        np.testing.assert_array_equal(seen[level], expected[level])


@pytest.mark.parametrize(
    ("item", "region"),
    [
        ({}, ((0, 0), (700, 900))),
        ({"location": [10, 20]}, ((10, 20), (690, 880))),
        ({"location": [10, 20], "size": [30, 40]}, ((10, 20), (30, 40))),
        ({"size": [700, 900]}, ((0, 0), (700, 900))),
    ],
)
def test_region_of_an_item(case, item, region):
    origin, size = region_of(item, inspect_slide(case.folder / "a.tif"))
    assert (tuple(origin), tuple(size)) == region


def test_spacing_unknown_unless_given(case):
    del case.content["test"][1]["mpp"]
    assert case.run() == [("test[1]", "mpp")]
    assert case.run(mpp=0.5) == []
    assert case.run(mpp=0.9, magnifications=("200X",)) == [("test[1]", "magnification")]
    case.content["mpp"] = 0.5
    assert case.run() == []


LEAKS = {  # what is changed in the validation item: the words that tell
    "patient": ({"patient": "P1"}, "group P1 lies in training and validation; patient P1 lies"),
    "group": ({"group": "P1", "patient": "P9"}, "group P1 lies in training and validation"),
    "patient behind a group": ({"group": "G", "patient": "P1"}, "patient P1 lies in training and validation"),
    "picture by another name": ({"image": "./a.tif"}, "picture a.tif lies in training and validation"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_leak(case, name):
    change, words = LEAKS[name]
    case.content["validation"][0].update(change)
    case.content["validation"][0].pop("sha256")
    assert case.run() == [("training[0]", "split"), ("validation[0]", "split")]
    assert all(words in fault.reason for fault in case.faults)
    with pytest.raises(ValueError, match=r"in \['training', 'validation'\]"):
        load_datalist(case.folder / "datalist.json", "training")


def test_copy_of_a_file_on_another_side(case):
    shutil.copy(case.folder / "a.tif", case.folder / "copy.tif")
    case.content["test"].append({"image": "copy.tif"})
    assert case.run() == [("training[0]", "split"), ("test[2]", "split")]
    assert (
        f"file of equal bytes {file_sha256(case.folder / 'a.tif')} lies in test and training" in case.faults[0].reason
    )


def test_leak_in_a_list_of_another_name(case):
    case.content["holdout"] = [case.content["validation"][0]]
    assert case.run() == [("validation[0]", "split"), ("holdout[0]", "split")]


def test_kinds_of_identity_are_kept_apart():
    pairs = [
        ("training", ("group", "a")),
        ("test", ("group", "a")),
        ("test", ("patient", "a")),
        ("test", ("group", "b")),
    ]
    assert on_two_sides(pairs) == {("group", "a"): ["test", "training"]}
    check_groups({"training": [{"image": "x", "group": 1, "patient": 7}], "test": [{"image": "y", "group": 7}]})
    assert list(sides_of({"training": [], "mpp": 1, "names": ["a"], "more": [{"image": "a"}]})) == ["training", "more"]


def test_faults_of_the_datalist_itself(case):
    case.content["labels"] = {"1": "benign", "2": "tumor"}
    assert case.run() == [("", "datalist")]
    case.content.update(labels=["benign", "tumor"], mpp=-1)
    assert [stage for _, stage in case.run()][:2] == ["datalist", "datalist"]


def test_everything_is_attempted(case):
    """Faults of all kinds in one datalist are all found, and every one is in failed.csv."""
    case.content["training"][0].update(label=9, mpp=-1, sha256="0", location=[9999, 0])
    case.content["training"][1]["image"] = "none.tif"
    cut(case.folder / "c.tif")
    case.content["test"][1]["patient"] = "P3"
    found = [
        *[("training[0]", stage) for stage in ("label", "mpp", "sha256", "box")],
        ("training[1]", "file"),
        *[("validation[0]", stage) for stage in ("sha256", "open")],
        *[(key, "split") for key in ("validation[0]", "test[1]")],
    ]
    assert case.run() == found
    assert main(["verify", str(case.folder / "datalist.json")]) == 1
    with open(case.folder / "failed.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "image", "stage", "reason"]
    assert rows[1:] == [[" ".join(value.split()) for value in fault] for fault in case.faults]
    assert not list(case.folder.glob("*.part"))


def test_command(case, tmp_path, capsys):
    assert case.run() == []
    datalist, table = case.folder / "datalist.json", tmp_path / "new" / "faults.csv"
    command = ["verify", str(datalist), f"--failed={table}"]
    assert main([*command, "--read=all", "--magnifications=50X, 0.5"]) == 0
    assert capsys.readouterr().out == f"{datalist}: 6 items, no fault\n"
    assert table.read_text() == "key,image,stage,reason\n"
    assert main([*command, "--magnifications=400X"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{datalist}: 6 faults in 6 of 6 items (magnification 6); all of them are in ")
    assert len(table.read_text().splitlines()) == 7
    datalist.rename(tmp_path / "moved.json")
    assert main(["verify", str(tmp_path / "moved.json"), f"--base-dir={case.folder}"]) == 0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[", [], "not a JSON file"),
        ("{}", [], "no items under any of training, validation, test"),
        ('{"test": [{"image": "a"}]}', ["--magnifications=big"], "'big' is no magnification"),
        ('{"test": [{"image": "a"}]}', ["--mpp=352"], "mpp=352.0 is outside"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, text, options, message):
    (tmp_path / "datalist.json").write_text(text)
    assert main(["verify", str(tmp_path / "datalist.json"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "failed.csv").exists()


def test_killed_in_the_middle_leaves_no_half_file(case):
    case.content["training"] *= 2000
    (case.folder / "datalist.json").write_text(json.dumps(case.content))
    (case.folder / "failed.csv").write_text("of the last time")
    command = [sys.executable, "-m", "monai_jsma", "verify", str(case.folder / "datalist.json"), "--read=all"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    before = set(case.folder.iterdir())
    time.sleep(6)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert set(case.folder.iterdir()) == before
    assert (case.folder / "failed.csv").read_text() == "of the last time"


def test_real_slides(tmp_path):
    names = ("cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "os_unreadable.svs", "broken.svs")
    items = [{"image": shared_slide(name), "label": 0} for name in names]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
    faults, number = verify_datalist(tmp_path / "datalist.json")
    found = [(Path(fault.image).name, fault.stage) for fault in faults]
    assert found == [(names[1], "mpp"), (names[2], "read"), (names[3], "open")]
    assert number == 4
