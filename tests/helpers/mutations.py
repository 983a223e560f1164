# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mutated files: every kind of file of the corpus, damaged in every way, each read in a process of its own.

The whole run: ``python tests/helpers/mutations.py [NUMBER] [FIRST_SEED]``; with ``vendors`` behind it, the same of the
slides of vendors. A mutant is named by its file, its damage and its seed; another first seed gives others.
"""

from __future__ import annotations

import collections
import json
import logging
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
import pydicom
import tifffile
from corpus import CASES, VENDOR_SLIDES, NoSpacing, Reads
from corpus_files import Sample
from PIL import Image

from monai_jsma.data import SlideError, inspect_slide
from monai_jsma.slides import open_slide
from monai_jsma.slides.identity import list_slide_files

__all__ = ["CORPUS", "MAX_BYTES", "Outcome", "list_mutants", "run_mutants"]

MAX_BYTES = 2 << 30  # of memory of a process
MAX_SECONDS = 60  # of the processor
_MAX_WAIT = 900  # seconds, on a busy machine
_DICOM_PIXELS = b"\xe0\x7f\x10\0OB"  # tag and type of PixelData
_DICOM_ITEM = b"\xfe\xff\0\xe0"  # tag of a frame

CORPUS = [name for name, (sample, kind) in CASES.items() if isinstance(kind, (Reads, NoSpacing)) and sample.levels]


class Mutant(NamedTuple):
    """A file of the corpus and what is done to it."""

    case: str
    damage: str
    seed: int


class Outcome(NamedTuple):
    """What became of a mutant: "right", "error", "warned", "hidden", "strict", "silent", "crash" or "hang".

    All but the first two have other pixels without an error. "warned": but a warning that bits have changed; "hidden":
    no reader refuses the file; "silent": another reader does; "strict": it does, and so does strict reading, as by
    ``verify --read all``. "hang" is more than a minute of the processor.
    """

    mutant: Mutant
    kind: str
    message: str
    peak_bytes: int


# ------------------------------------------------------------------------------------------------------------ damage


def _find_tile(path: Path, rng: np.random.Generator) -> tuple[int, int]:
    """First byte and length of a stored tile or strip; of a file that is no TIFF, of all after its first 64 bytes."""
    if path.suffix == ".dcm":
        return _find_frame(path.read_bytes(), rng)
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[int(rng.integers(len(tif.pages)))]
            assert isinstance(page, tifffile.TiffPage)
            index = int(rng.integers(len(page.dataoffsets)))
            return page.dataoffsets[index], page.databytecounts[index]
    except (tifffile.TiffFileError, ValueError):
        return 64, path.stat().st_size - 64


def _find_frame(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """First byte and length of a frame of a DICOM file; the first of them is the table of offsets."""
    places = []
    place = data.index(_DICOM_ITEM, data.rindex(_DICOM_PIXELS))
    while data[place : place + 4] == _DICOM_ITEM:
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        places.append((place + 8, length))
        place += 8 + length
    return places[int(rng.integers(len(places)))]


def _find_tags(path: Path, rng: np.random.Generator) -> tuple[int, int]:
    """First byte and length of the tags of a page; of a file that is no TIFF, of its first 64 bytes."""
    if path.suffix == ".dcm":
        data = path.read_bytes()
        begin = data.index(b"DICM") + 4
        return begin, data.rindex(_DICOM_PIXELS) - begin
    try:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[int(rng.integers(len(tif.pages)))]
            assert isinstance(page, tifffile.TiffPage)
            size = tif.tiff.tagnosize + tif.tiff.tagsize * len(page.tags)
            return page.offset, size
    except (tifffile.TiffFileError, ValueError):
        return 0, 64


def _flip_in(data: bytearray, begin: int, length: int, rng: np.random.Generator) -> None:
    place = min(begin + int(rng.integers(max(1, length))), len(data) - 1)
    data[place] ^= 1 << int(rng.integers(8))


def _flip_start(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    _flip_in(data, 0, 32, rng)


def _flip_tags(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    _flip_in(data, *_find_tags(path, rng), rng)


def _flip_tile_header(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    begin, length = _find_tile(path, rng)
    _flip_in(data, begin, min(length, 120), rng)


def _flip_tile_body(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    _flip_in(data, *_find_tile(path, rng), rng)


def _cut(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(1, len(data))) :]


def _zero_block(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    begin = int(rng.integers(len(data)))
    end = min(begin + int(rng.integers(1, 512)), len(data))
    data[begin:end] = bytes(end - begin)


def _zero_tile_end(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    begin, length = _find_tile(path, rng)
    half = length // 2
    data[begin + half : begin + length] = bytes(length - half)


def _swap_tiles(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    first, second = _find_tile(path, rng), _find_tile(path, rng)
    length = min(first[1], second[1], 64)
    a = bytes(data[first[0] : first[0] + length])
    b = bytes(data[second[0] : second[0] + length])
    data[first[0] : first[0] + len(b)] = b
    data[second[0] : second[0] + len(a)] = a


def _change_tag(path: Path, data: bytearray, rng: np.random.Generator) -> None:
    """Another number in one tag: its count, or its value or offset."""
    begin, length = _find_tags(path, rng)
    place = min(begin + 4 + 4 * int(rng.integers(max(1, length // 4))), len(data) - 4)
    data[place : place + 4] = int(rng.choice([0, 1, 255, 4096, 2**16, 2**31, 2**32 - 1])).to_bytes(4, "little")


DAMAGES: dict[str, Callable[[Path, bytearray, np.random.Generator], None]] = {
    "bit of the start": _flip_start,
    "bit of the tags": _flip_tags,
    "bit of a tile's header": _flip_tile_header,
    "bit of a tile": _flip_tile_body,
    "cut": _cut,
    "zeroed block": _zero_block,
    "zeroed end of a tile": _zero_tile_end,
    "swapped tiles": _swap_tiles,
    "changed tag": _change_tag,
}


def list_mutants(number: int, *, first_seed: int = 0, cases: Iterable[str] = CORPUS) -> list[Mutant]:
    """``number`` mutants, always the same: all files with all ways of damage in turn, then again with other seeds.

    Args:
        number: of mutants.
        first_seed: seed of the first of them; those of first seeds that are far apart have none in common.
        cases: names of the files.
    """
    mutants: list[Mutant] = []
    seed = first_seed
    while len(mutants) < number:
        for index, case in enumerate(cases):
            damage = list(DAMAGES)[(index + seed) % len(DAMAGES)]
            mutants.append(Mutant(case, damage, seed))
        seed += 1
    step = len(mutants) / number
    return [mutants[int(i * step)] for i in range(number)]


# ----------------------------------------------------------------------------------------------------------- reading


def _read_levels(path: Path, *, strict: bool = False) -> list[np.ndarray]:
    info = inspect_slide(path, strict=strict)
    reader = open_slide(info)
    return [reader.read(level, (0, 0), size) for level, size in enumerate(reader.level_sizes)]


def _read_by_tifffile(path: Path) -> None:
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:
            page.asarray()


def _read_by_pillow(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_by_openslide(path: Path) -> None:
    with openslide.OpenSlide(path) as slide:
        for level, size in enumerate(slide.level_dimensions):
            slide.read_region((0, 0), level, size)


def _read_by_pydicom(path: Path) -> None:
    for file in list_slide_files(str(path)):
        pydicom.dcmread(file).pixel_array  # noqa: B018  # decodes all frames


OTHER_READERS = {
    "tifffile": _read_by_tifffile,
    "Pillow": _read_by_pillow,
    "OpenSlide": _read_by_openslide,
    "pydicom": _read_by_pydicom,
}


def _find_refusals(path: Path) -> dict[str, str]:
    """What each reader that refuses a file says."""
    refusals = {}
    for name, read in OTHER_READERS.items():
        try:
            read(path)
        except Exception as e:
            refusals[name] = f"{type(e).__name__}: {e}"
    return refusals


def _find_sample(case: str) -> tuple[Sample, int]:
    """A file of the corpus, and its number among all."""
    samples = {name: sample for name, (sample, _) in CASES.items()} | VENDOR_SLIDES
    return samples[case], list(samples).index(case)


def _damage(path: Path, mutant: Mutant, number: int) -> Path:
    """The path of a copy with one damaged file, which no reader remembers."""
    rng = np.random.default_rng([mutant.seed, number])
    files = list_slide_files(str(path))
    if len(files) == 1:
        victim = copy = path.with_name(f"mutant{path.suffix}")
        shutil.copy(path, copy)
    else:
        folder = path.parent / "mutant"
        names = [Path(file).relative_to(path.parent) for file in files]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path.parent / name, folder / name)
        copy = folder / path.name
        victim = folder / names[int(rng.integers(len(names)))]
    data = bytearray(victim.read_bytes())
    DAMAGES[mutant.damage](victim, data, rng)
    victim.unlink()
    victim.write_bytes(data)
    return copy


def _read_mutant(mutant: Mutant, folder: Path) -> tuple[str, str]:
    sample, number = _find_sample(mutant.case)
    path = sample.make(folder, sound=True)
    sound = _read_levels(path)
    unable = _find_refusals(path)  # readers that do not know this kind of file even when it is sound
    path = _damage(path, mutant, number)

    limit = _count_memory() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings = _Warnings()
    logging.getLogger("monai_jsma.slides").addHandler(warnings)
    try:
        levels = _read_levels(path)
    except SlideError as e:
        return "error", str(e).replace(str(folder), "")
    is_same = len(levels) == len(sound) and all(map(np.array_equal, levels, sound))
    if is_same:
        return "right", ""
    refusals = {name: text for name, text in _find_refusals(path).items() if name not in unable}
    if not refusals and warnings.messages:
        return "warned", "; ".join(warnings.messages)
    if not refusals:
        return "hidden", ""
    try:
        _read_levels(path, strict=True)
    except SlideError as e:
        return "strict", str(e).replace(str(folder), "")
    return "silent", str(refusals)


class _Warnings(logging.Handler):
    """Keeps the warnings that bits of a file have changed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "changed bits" in record.getMessage():
            self.messages.append(record.getMessage())


def _count_memory() -> int:
    """Bytes of address space of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _run_one(mutant: Mutant) -> Outcome:
    """In a forked process, which may crash, hang or ask for too much memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answer = folder / "answer.json"
        process = os.fork()
        if process == 0:
            _answer(mutant, folder, answer)
        status, peak = _wait(process)
        if status == signal.SIGKILL:
            return Outcome(mutant, "hang", f"more than {MAX_SECONDS} s of the processor", peak)
        if status != 0 or not answer.exists():
            return Outcome(mutant, "crash", f"status {status}", peak)
        kind, message = json.loads(answer.read_text())
        return Outcome(mutant, kind, message, peak)


def _answer(mutant: Mutant, folder: Path, answer: Path) -> None:
    _limit_seconds()
    try:
        text = json.dumps(_read_mutant(mutant, folder))
    except BaseException as e:
        text = json.dumps(["crash", f"{type(e).__name__}: {e}"])
    answer.write_text(text)
    os._exit(0)


def _limit_seconds() -> None:
    """Let the system kill this process after some time of the processor."""
    spent = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + MAX_SECONDS, spent + MAX_SECONDS))


def _wait(process: int) -> tuple[int, int]:
    """Exit status and peak of memory of a process, which is killed after some time."""
    end = time.monotonic() + _MAX_WAIT
    while True:
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            return status, usage.ru_maxrss * 1024
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end += _MAX_WAIT
        time.sleep(0.005)


def run_mutants(mutants: list[Mutant], *, num_processes: int = 2) -> Iterator[Outcome]:
    """The outcome of each mutant, in order."""
    _import_readers()
    context = multiprocessing.get_context("fork")
    with context.Pool(num_processes) as pool:
        yield from pool.imap(_run_one, mutants)


def _import_readers() -> None:
    """Import what readers import late, so that no process has to."""
    with tempfile.TemporaryDirectory() as name:
        for case in ("raw", "LZW", "palette", "PNG", "DICOM"):
            sample, _ = _find_sample(case)
            _read_levels(sample.make(Path(name)))


def _main(number: str = "720", first_seed: str = "0", corpus: str = "") -> int:
    counts: collections.Counter[str] = collections.Counter()
    largest = 0
    cases = list(VENDOR_SLIDES) if corpus == "vendors" else CORPUS
    mutants = list_mutants(int(number), first_seed=int(first_seed), cases=cases)
    for outcome in run_mutants(mutants, num_processes=len(os.sched_getaffinity(0))):
        counts[outcome.kind] += 1
        largest = max(largest, outcome.peak_bytes)
        if outcome.kind in ("silent", "crash", "hang"):
            print(outcome, flush=True)
    print(dict(counts), f"largest process {largest / 1e9:.2f} GB")
    return int(any(counts[kind] for kind in ("silent", "crash", "hang")))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
