# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which files are data: one filter for all commands, which says what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_jsma._io import IMAGE_SUFFIXES, find_data_files, is_system_name, list_data_folders
from monai_jsma.datalists.annotations import ANNOTATION_SUFFIXES


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def find_names(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_data_files(root, suffixes)]


def test_images_and_slides(tmp_path):
    names = ["a.TIF", "b.jpeg", "c.JPG", "d.dcm", "e.svs", "f/g.mrxs", "f/h/i.ndpi", "j.ome.tif", "k.jp2"]
    touch(tmp_path, *names, "notes.txt", "f/Data0000.dat", "l.tif.part", "m.dcm.bak", "tif")
    (tmp_path / "folder.svs").mkdir()
    assert find_names(tmp_path, IMAGE_SUFFIXES) == names


def test_annotations(tmp_path):
    names = ["a.geojson", "b.GEOJSON.GZ", "c.json.gz", "d.xml", "e/f.csv"]
    touch(tmp_path, *names, "g.gz", "h.tar.gz", "._a.geojson")
    assert find_names(tmp_path, ANNOTATION_SUFFIXES) == names


def test_what_looks_like_data_and_is_none_is_told_in_one_line(tmp_path, caplog):
    touch(tmp_path, "a.tif", "._a.tif", "@eaDir/a.tif/SYNOPHOTO.jpg", "b/.ipynb_checkpoints/c.png", "~$d.tif")
    touch(tmp_path, ".DS_Store", "Thumbs.db", "__MACOSX/._a.txt")
    assert find_names(tmp_path, IMAGE_SUFFIXES) == ["a.tif"]
    [record] = caplog.records
    assert record.message == (
        f"{tmp_path}: left out, hidden or of the system: ._a.tif, @eaDir/a.tif/SYNOPHOTO.jpg, "
        "b/.ipynb_checkpoints/c.png, ... (4 in all)."
    )


def test_nothing_is_told_where_nothing_is_left_out(tmp_path, caplog):
    touch(tmp_path, "a.tif", ".DS_Store", "b/notes.txt")
    assert find_names(tmp_path, IMAGE_SUFFIXES) == ["a.tif"]
    assert caplog.records == []


def test_what_was_copied_in_part_only_is_told(tmp_path, caplog):
    touch(tmp_path, "a.svs", "b.svs.part", "c/d.TIF.crdownload", "notes.txt.part", ".e.svs.Xy12", "@Recycle/f.svs.tmp")
    assert find_names(tmp_path, IMAGE_SUFFIXES) == ["a.svs"]
    [record] = caplog.records
    assert record.message == f"{tmp_path}: left out, copied in part only: b.svs.part, c/d.TIF.crdownload."


def test_linked_folders_are_searched_once(tmp_path):
    touch(tmp_path, "disk/a.svs", "slides/b.svs")
    (tmp_path / "slides" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "slides" / "again").symlink_to(tmp_path / "slides")
    assert find_names(tmp_path / "slides", IMAGE_SUFFIXES) == ["b.svs", "more/a.svs"]


def test_folders_of_data(tmp_path):
    for name in ("tumor", "benign", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found"):
        (tmp_path / name).mkdir()
    touch(tmp_path, "notes.txt")
    assert [folder.name for folder in list_data_folders(tmp_path)] == ["benign", "tumor"]


@pytest.mark.parametrize(
    "name",
    ["@Recycle", "@Recently-Snapshot", "@tmp", "~snapshot", "Network Trash Folder", "Temporary Items", "FOUND.000",
     "Icon\r", "ehthumbs_vista.db", ".Trash-1000", ".nfs0001", ".AppleDouble", "desktop.ini", "Lost+Found"],
)  # fmt: skip
def test_names_of_systems(name):
    assert is_system_name(name)


@pytest.mark.parametrize("name", ["tumor", "a.tif", "eaDir", "Recycle me.tif", "MACOSX", "thumbs"])
def test_ordinary_names(name):
    assert not is_system_name(name)
