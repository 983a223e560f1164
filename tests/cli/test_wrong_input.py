# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Wrong input of every command: one line with the file or option, the value and the way out, and nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from monai_jsma.__main__ import main
from monai_jsma._io import decode_text, replace_file

BUNDLE = str(Path(__file__).parents[2] / "bundles" / "bach")


def encode_image(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, kind)
    return content.getvalue()


CONTENTS = {  # what is given by mistake: a part of the message
    "image.jpg": (encode_image("JPEG"), "this is a JPEG image, not"),
    "image.png": (encode_image("PNG"), "this is a PNG image, not"),
    "slide.tif": (encode_image("TIFF"), "this is a TIFF image or slide, not"),
    "table.xlsx": (b"PK\x03\x04 and so on", "workbook of a spreadsheet (save its sheet as CSV)"),
    "report.pdf": (b"%PDF-1.7", "this is a PDF document, not"),
    "utf16.txt": ("a,b".encode("utf-16"), "in UTF-8, but in UTF-16; save it in this encoding"),
    "latin #1, ü.txt": ("image,label\nä,b".encode("latin-1"), "in UTF-8 (byte 0xe4 at 12); save it in this encoding"),
    "zeros.txt": (b"\0" * 100, "it holds bytes that are no text"),
    "empty.txt": (b"", "the file is empty (0 bytes)"),
}
COMMANDS = {  # that read a file of text
    "verify": ["verify", "{}"],
    "prepare folder": ["prepare", "folder", "{}"],
    "prepare folder --labels": ["prepare", "folder", "images", "--labels={}"],
    "report": ["report", "{}", "--output=report"],
    "draw": ["draw", "{}", "--output=drawn"],
    "compare": ["compare", "{}", f"--bundle={BUNDLE}", "--out=compare"],
    "crossval": ["crossval", "{}", f"--bundle={BUNDLE}", "--out=crossval"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with images of two classes and the contents above."""
    for name, (content, _) in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), (i * 20, 9, ord(label))).save(tmp_path / "images" / label / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fail(capsys, *arguments: str) -> str:
    """The one line of an error of a command."""
    try:
        code = main(list(arguments))
    except SystemExit as error:
        code = error.code
    assert code in (1, 2)
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert "error: " in last
    assert "Errno" not in last
    assert "codec" not in last
    return last


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_another_kind(folder, capsys, command):
    for name, (content, told) in CONTENTS.items():
        if command in ("report", "draw") and not content:
            continue  # a run may have nothing to predict
        line = fail(capsys, *[part.format(name) for part in COMMANDS[command]])
        assert line.startswith(f"error: {name}: "), line
        assert told in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_missing_and_a_folder(folder, capsys, command):
    (folder / "hä # 50%, x").mkdir()
    for name in ("missing.txt", "hä # 50%, x"):
        line = fail(capsys, *[part.format(name) for part in COMMANDS[command]])
        assert line.startswith((f"error: {name}: ", f"error: {name}/")), line


@pytest.mark.parametrize(
    ("target", "told"), [("images", "images: this is a folder"), ("image.jpg/x/y", "as image.jpg is a file")]
)
@pytest.mark.parametrize(
    "command", [["verify", "list.json", "--mpp=0.5", "--failed"], ["prepare", "folder", "images", "--folds=3", "--out"]]
)
def test_a_file_that_cannot_be_written(folder, capsys, command, target, told):
    (folder / "list.json").write_text(json.dumps({"test": [{"image": "images/a/0.png"}]}))
    line = fail(capsys, *command[:-1], f"{command[-1]}={target}")
    assert told in line
    assert list(folder.glob(".*")) == []


def test_a_whole_file_is_written_into_a_folder(folder):
    with pytest.raises(NotADirectoryError, match=r"image\.jpg is a file"), replace_file(folder / "image.jpg" / "a"):
        pass
    with pytest.raises(IsADirectoryError, match="images: this is a folder"), replace_file(folder / "images"):
        pass


def test_synthetic_images_in_a_file(folder, capsys):
    line = fail(capsys, "synthetic", "image.jpg", "--train=1", "--validation=1", "--test=1")
    assert line.startswith("error: image.jpg/training: Not a directory; a part of this path is a file")


NUMBERS = {  # option: the command, and values that are wrong
    "--folds": (["prepare", "folder", "images"], ["2", "1", "0", "-1", "2.5", "2,5", "many", ""]),
    "--fold": (["prepare", "folder", "images"], ["-1", "x"]),
    "--seed": (["prepare", "folder", "images"], ["-1", "1e3"]),
    "--jobs": (["crossval", "list.json"], ["0", "-1", "1.5"]),
    "--split-seed": (["crossval", "list.json"], ["-1"]),
    "--epochs": (["demo"], ["0", "-3", "1,5"]),
    "--train": (["synthetic", "out"], ["0", "-1"]),
    "--classes": (["synthetic", "out"], ["1", "-1"]),
    "--patch-size": (["info", "image.png"], ["0", "-1", "1e3"]),
    "--per-slide": (["prepare", "tcga_prad", "images", "images"], ["0"]),
    "--resamples": (["report", "list.jsonl"], ["-1", "1.5"]),
    "--mpp": (["info", "image.png"], ["0,5,1", "nan", "inf", ""]),
    "--cover": (["prepare", "tcga_prad", "images", "images"], ["half", "nan"]),
}


@pytest.mark.parametrize("option", NUMBERS)
def test_numbers_of_options_are_refused_before_anything_is_read(folder, capsys, option):
    command, values = NUMBERS[option]
    for value in values:
        line = fail(capsys, *command, f"{option}={value}")
        assert f"argument {option}" in line
        assert f"'{value}' is no" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--size-um=0"], "size_um must be above 0 um, but is 0.0"),
        (["--cover=1,5"], "cover must be a share above 0 and at most 1, but is 1.5"),
    ],
)
def test_a_share_with_a_decimal_comma_is_a_number(folder, capsys, options, told):
    assert told in fail(capsys, "prepare", "tcga_prad", "images", "images", *options)


@pytest.mark.parametrize("text", ["0,25", "0,5,0,25", "1,68", "2,5", "1,68,0,84", "10,15"])
@pytest.mark.parametrize("command", [["info", "image.png"], ["verify", "list.json"]])
def test_magnifications_with_decimal_commas_are_asked_for(folder, capsys, command, text):
    (folder / "list.json").write_text(json.dumps({"test": [{"image": "images/a/0.png"}]}))
    line = fail(capsys, *command, "--mpp=0.5", f"--magnifications={text}")
    assert f"--magnifications {text}: commas separate magnifications" in line
    assert "write decimal points" in line


@pytest.mark.parametrize("text", ["4,2,1", "1.68,0.84", "2.0,5.0", "50X,100X", "1", "100X,1"])
def test_lists_of_magnifications(folder, capsys, text):
    assert main(["info", "image.png", "--mpp=0.5", f"--magnifications={text}"]) == 0
    assert "cells in all" in capsys.readouterr().out


def test_one_magnification_with_a_decimal_comma(folder, capsys):
    assert "'0,25' is no magnification; write a decimal point: 0.25." in fail(
        capsys, "info", "image.png", "--mpp=0.5", "--finest=0,25"
    )


def test_folds_that_the_groups_cannot_make(folder, capsys):
    assert "8 groups cannot make 9 folds: use 3 to 8." in fail(capsys, "prepare", "folder", "images", "--folds=9")
    for label in "ab":
        (folder / "images" / label / "0.png").rename(folder / "images" / f"{label}.png")
    (folder / "few.csv").write_text("image,label,group\na.png,a,P\nb.png,b,Q\n")
    line = fail(capsys, "prepare", "folder", "images", "--labels=few.csv", "--folds=3")
    assert "2 groups cannot make 3 folds, which are needed: add images of others." in line


def test_a_table_with_a_byte_order_mark():
    assert decode_text("image,ä".encode("utf-8-sig"), "a CSV file") == "image,ä"
    assert decode_text(b"PKID,label", "a CSV file") == "PKID,label"
