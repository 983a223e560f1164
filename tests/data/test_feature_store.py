# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The store of features: what was written is found again, whole, by everybody; what was cut or damaged is absent."""

from __future__ import annotations

import copy
import pickle
import signal
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from monai_jsma.data import FeatureStore

LENGTH = 5
RECORD = 24 + 4 + 4 * LENGTH
PROCESSES = get_context("fork")


def key(number: int) -> bytes:
    return number.to_bytes(24, "big")  # begins with zero bytes, and may end with one


def some(*numbers: int) -> dict[bytes, np.ndarray]:
    return {key(n): np.full(LENGTH, n, np.float32) + np.arange(LENGTH, dtype=np.float32) / 7 for n in numbers}


def holds(store: FeatureStore, *numbers: int) -> list[bool]:
    """Which of the numbers are there; those that are must be right."""
    vectors, found = store.get([key(n) for n in numbers])
    assert vectors.shape == (len(numbers), LENGTH)
    for n, vector in zip(np.array(numbers)[found], vectors[found]):
        assert vector.tobytes() == some(int(n))[key(int(n))].tobytes()
    return found.tolist()


def write(folder: Path, numbers: range, written: Connection) -> None:
    """Write each number, find it again, and tell so."""
    store = FeatureStore(folder, LENGTH)
    for number in numbers:
        store.add(some(number))
        assert holds(store, number) == [True]
        written.send(number)


def start(folder: Path, numbers: range) -> tuple[BaseProcess, Connection]:
    told, written = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=write, args=(folder, numbers, written))
    process.start()
    written.close()
    return process, told


def test_what_was_written_is_found_now_and_later(tmp_path):
    store = FeatureStore(tmp_path / "features", LENGTH)
    assert holds(store, 0, 256) == [False, False]
    assert not (tmp_path / "features").exists()
    store.add(some(0, 256))
    assert holds(store, 1, 256, 0, 256) == [False, True, True, True]
    store.add(some(1))
    for reader in (store, FeatureStore(tmp_path / "features", LENGTH)):
        assert holds(reader, 0, 1, 2, 256) == [True, True, False, True]
    vectors, found = store.get([None, key(1)])
    assert found.tolist() == [False, True]
    assert not vectors[0].any()


def test_stores_of_one_folder_see_each_other(tmp_path):
    one, other = FeatureStore(tmp_path, LENGTH), FeatureStore(str(tmp_path), LENGTH)
    for number in range(0, 20, 2):
        one.add(some(number))
        assert holds(other, number, number + 1) == [True, False]
        other.add(some(number + 1))
        assert holds(one, *range(number + 3)) == [True] * (number + 2) + [False]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store))])
def test_a_copy_writes_to_a_file_of_its_own(tmp_path, duplicate):
    store = FeatureStore(tmp_path, LENGTH)
    store.add(some(1))
    again = duplicate(store)
    again.add(some(2))
    store.add(some(3))
    assert holds(again, 1, 2, 3) == holds(store, 1, 2, 3) == [True] * 3
    assert sorted(path.stat().st_size // RECORD for path in tmp_path.iterdir()) == [1, 2]


@pytest.mark.parametrize("length", [*range(2 * RECORD, 3 * RECORD, 5), 3 * RECORD - 1])
def test_a_record_that_was_cut_is_absent_and_the_others_are_not(tmp_path, length):
    FeatureStore(tmp_path, LENGTH).add(some(1, 2, 3))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:length])
    store = FeatureStore(tmp_path, LENGTH)
    assert holds(store, 1, 2, 3) == [True, True, False]
    store.add(some(3))
    assert holds(store, 1, 2, 3) == holds(FeatureStore(tmp_path, LENGTH), 1, 2, 3) == [True] * 3


@pytest.mark.parametrize("byte", range(RECORD, 2 * RECORD, 3))
def test_a_record_that_was_damaged_is_absent(tmp_path, byte):
    FeatureStore(tmp_path, LENGTH).add(some(1, 2, 3))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x40
    path.write_bytes(content)
    store = FeatureStore(tmp_path, LENGTH)
    assert holds(store, 1, 2, 3) == [True, False, True]


def test_a_killed_writer_loses_nothing_that_it_had_written(tmp_path):
    writer, told = start(tmp_path, range(10**9))
    written = [told.recv() for _ in range(200)]
    writer.kill()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    while told.poll():
        try:
            written.append(told.recv())
        except (EOFError, OSError):  # killed between two messages, or in one
            break
    assert holds(FeatureStore(tmp_path, LENGTH), *written) == [True] * len(written)


def test_two_processes_write_at_the_same_time(tmp_path):
    writers = [start(tmp_path, range(600)), start(tmp_path, range(400, 1000))]
    for writer, told in writers:
        for _ in range(600):
            told.recv()
        writer.join()
        assert writer.exitcode == 0
    assert holds(FeatureStore(tmp_path, LENGTH), *range(1001)) == [True] * 1000 + [False]
    assert len(list(tmp_path.iterdir())) == 2


def test_features_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    store = FeatureStore(tmp_path / "file", LENGTH)
    with pytest.raises(OSError, match=r"file: features cannot be written \(.*exists.*\); free some space"):
        store.add(some(1))
