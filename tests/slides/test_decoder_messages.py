# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What cuCIM's decoder prints of damage is heard, by the thread and the process that read the damaged tile."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from corpus_files import retag
from slide_files import needs_cucim, overwrite, picture, tile_range, write_pyramid

from monai_jsma.slides.codec import scan_jpeg
from monai_jsma.slides.decoder_messages import Heard, listen
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such variable")

SAID = b"ERROR in line 205 while decompressing JPEG image:\nCorrupt JPEG data: bad Huffman code\n"


def printing(*texts: bytes) -> Callable[[], str]:
    """A function that prints as C code does, and returns "done"."""

    def run() -> str:
        for text in texts:
            ctypes.CDLL(None).printf(b"%s", text)
        return "done"

    return run


@pytest.mark.parametrize("alone", [False, True])
def test_messages_are_heard_and_the_rest_is_printed(alone: bool, capfd: pytest.CaptureFixture[str]) -> None:
    hear = partial(listen, alone=alone)
    assert hear(printing()) == ("done", Heard((), True))
    assert hear(printing(b"other\n", SAID, b"text\n")) == (
        "done",
        Heard(("Corrupt JPEG data: bad Huffman code",), True),
    )
    assert hear(printing()) == ("done", Heard((), True))  # nothing is left
    assert capfd.readouterr().out == "other\ntext\n"


def test_afterwards_c_code_prints_as_before() -> None:
    code = (
        "import ctypes; from monai_jsma.slides.decoder_messages import listen\n"
        "libc = ctypes.CDLL(None)\n"
        "def fail(): raise KeyError('x')\n"
        "for function in (lambda: libc.printf(b'ERROR in line 1 while decompressing JPEG image:\\nbad\\n'), fail):\n"
        "    try: listen(function)\n"
        "    except KeyError: pass\n"
        "libc.printf(b'after\\n'); libc.fflush(None)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "after\n"


def test_a_thread_hears_all_that_run_with_it_and_alone_only_itself() -> None:
    is_inside = threading.Event()
    may_leave = threading.Event()

    def wait() -> None:
        is_inside.set()
        may_leave.wait(10)

    with ThreadPoolExecutor(2) as pool:
        silent = pool.submit(listen, wait)
        is_inside.wait(10)
        loud = listen(printing(SAID))[1]
        alone = pool.submit(listen, printing(), alone=True)
        may_leave.set()
        assert loud == Heard(("Corrupt JPEG data: bad Huffman code",), False)
        assert silent.result()[1] == Heard(("Corrupt JPEG data: bad Huffman code",), False)
        assert alone.result()[1] == Heard((), True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_hears_itself(tmp_path: Path) -> None:
    answer = tmp_path / "heard"

    def fork() -> int:
        process = os.fork()
        if process == 0:
            _, heard = listen(printing(SAID))
            answer.write_text(" ".join(heard.messages) + str(heard.was_alone))
            os._exit(0)
        return os.waitpid(process, 0)[1]

    status, heard = listen(fork)  # forked while this process listens
    assert status == 0
    assert heard == Heard((), True)
    assert answer.read_text() == "Corrupt JPEG data: bad Huffman codeTrue"


# -------------------------------------------------------------------------------------------------------------- slides

TILES = 4  # a side


def write_slide(path: Path) -> str:
    return write_pyramid(path, [picture(64 * TILES, 64 * TILES)], tile=(64, 64), compression="jpeg", mpp=0.5)


def shorten_tile(path: str, tile: int) -> None:
    """Let the coded pixels of a tile end in its last block."""
    begin, size = tile_range(path, 0, tile)
    data = Path(path).read_bytes()[begin : begin + size]
    short = data[:-5].rstrip(b"\xff") + b"\xff\xd9"
    overwrite(path, begin, short)
    retag("TileByteCounts", lambda counts: (*counts[:tile], len(short), *counts[tile + 1 :]))(Path(path))


def add_bytes(path: str, tile: int) -> None:
    """Give a tile a copy of itself with bytes too many before its end, at the end of the file."""
    begin, size = tile_range(path, 0, tile)
    data = Path(path).read_bytes()[begin : begin + size]
    longer = data[:-2] + b"\x55" * 9 + data[-2:]
    assert scan_jpeg(longer) == scan_jpeg(data)
    end = Path(path).stat().st_size
    with open(path, "ab") as file:
        file.write(longer)
    retag("TileOffsets", lambda offsets: (*offsets[:tile], end, *offsets[tile + 1 :]))(Path(path))
    retag("TileByteCounts", lambda counts: (*counts[:tile], len(longer), *counts[tile + 1 :]))(Path(path))


@needs_cucim
def test_an_early_end_is_seen_in_every_window_of_its_tile_and_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_slide(tmp_path / "a.tif")
    sound = open_slide(inspect_slide(path, reader="cucim")).read(0, (0, 0), (256, 256))
    shorten_tile(path, 6)  # rows 64 to 127, columns 128 to 191
    reader = open_slide(inspect_slide(path, reader="cucim"))
    for row in range(0, 256, 32):
        for col in range(0, 256, 32):
            if row // 64 == 1 and col // 64 == 2:
                with pytest.raises(SlideError, match=r"tile 6 of level 0 .* is damaged: the coded pixels .* end early"):
                    reader.read(0, (row, col), (8, 8))
            else:
                part = sound[row : row + 8, col : col + 8]
                np.testing.assert_array_equal(reader.read(0, (row, col), (8, 8)), part)
    assert capfd.readouterr().out == ""


@needs_cucim
def test_threads_that_read_at_the_same_time(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif")
    shorten_tile(path, 6)
    reader = open_slide(inspect_slide(path, reader="cucim"))

    def read(tile: int) -> None:
        location = (tile // TILES * 64, tile % TILES * 64)
        if tile != 6:
            reader.read(0, location, (64, 64))
            return
        with pytest.raises(SlideError, match="tile 6 of level 0"):
            reader.read(0, location, (64, 64))

    tiles = np.random.default_rng(0).integers(TILES**2, size=400).tolist()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, tiles))


@needs_cucim
def test_bytes_too_many_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_slide(tmp_path / "a.tif")
    sound = open_slide(inspect_slide(path, reader="cucim")).read(0, (0, 0), (256, 256))
    for tile in (5, 6):
        add_bytes(path, tile)
    reader = open_slide(inspect_slide(path, reader="cucim"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(reader.read(0, (0, 0), (256, 256)), sound)
    (record,) = caplog.records  # once for a slide
    assert f"{path}: tile 5 of level 0 is read, but changed bits are likely in it" in record.getMessage()
    assert " extraneous bytes before marker 0xd9" in record.getMessage()
