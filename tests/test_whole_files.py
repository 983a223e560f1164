# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from monai_jsma._io import name_full_disk, replace_file, write_whole
from monai_jsma.predictions.log import RecordLog


@pytest.mark.parametrize("shared", [False, True])
def test_an_interrupted_write_leaves_the_file_before_it(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "new" / "a.txt"
    with replace_file(path, shared=shared) as unfinished:
        assert unfinished.suffix == ".txt"
        assert unfinished.name.startswith(".")  # no search for images finds it
        unfinished.write_text("whole")
        assert not path.exists()

    def fail() -> None:
        with replace_file(path, shared=shared) as unfinished:
            unfinished.write_text("ha")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "whole"


def test_the_rest_of_a_killed_write_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".a.part.txt").write_text("ha")
    write_whole(tmp_path / "a.txt", "whole")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_shared_files_are_written_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with replace_file(path, shared=True) as one, replace_file(path, shared=True) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one"  # the block that ended last


def test_text_keeps_its_line_ends_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a", "ä\n").read_bytes() == b"\xc3\xa4\n"
    assert write_whole(tmp_path / "a", b"\x00\r\n").read_bytes() == b"\x00\r\n"


def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = RecordLog(tmp_path / "predictions.jsonl", dict)
    log.begin()
    monkeypatch.setattr(os, "fsync", fail)
    message = r"No space left on device; make room, and give the same command again: '.*/{}'$"
    with pytest.raises(OSError, match=message.format("a.csv")):
        write_whole(tmp_path / "a.csv", "text")
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(OSError, match=message.format(r"predictions\.jsonl\.part")):
        log.append([])


def test_an_error_that_names_its_file_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/other'$"), name_full_disk(tmp_path / "a.csv"):
        (tmp_path / "other").read_bytes()


def test_a_file_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="a.csv: cannot be written, as .*/file is a file; name a folder"):
        write_whole(tmp_path / "file" / "a.csv", "text")
