# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files and text: whole-file writes, checksums, names of files, CSV, and lists in one line of a message."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "checkpoint_file",
    "csv_text",
    "few",
    "file_sha256",
    "read_lines",
    "read_table",
    "region_name",
    "write_whole",
]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_file(path: str | Path) -> str:
    """The path of a file that must be there.

    Raises:
        FileNotFoundError: if it is not.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: there is no such checkpoint; train first, without 'resume', or name the folder with 'ckpt_dir'."
        )
    return str(path)


def write_whole(path: str | Path, text: str) -> Path:
    """Write a file, all of it or nothing, with its folder where that is missing. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8"))  # bytes: text mode would change the line ends on Windows
    os.replace(part, path)
    return path


def region_name(path: str, location: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> str:
    """A file name without ending for what is made of a file or region: its own, the place, six digits of its path.

    Args:
        path: the file, whose folder and suffix are told by the digits alone.
        location: row and column of the region.
        size: its height and width: regions may share a corner.
    """
    place = "_r{}_c{}".format(*location) if any(location) else ""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(path).stem)[:100].lstrip(".") or "picture"
    return f"{stem}{place}_{hashlib.sha256(f'{path}|{location}|{size}'.encode()).hexdigest()[:6]}"


def read_lines(path: Path) -> list[list[str]]:
    """The cells of each line that is not empty, stripped of blanks.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no CSV in UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table of labels.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            lines = list(csv.reader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}.") from error
    return [[cell.strip() for cell in line] for line in lines if any(cell.strip() for cell in line)]


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table with a header, one a picture.

    Args:
        path: the CSV file.
        needed: columns that must be there with a value in each row; the first names the row and must not repeat.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no UTF-8, empty, lacks a column or a cell, or names a picture twice.
    """
    lines = read_lines(path)
    header, body = (lines[0], lines[1:]) if lines else ([], [])
    columns = " and ".join(f"'{name}'" for name in needed)
    if not body:
        raise ValueError(f"{path}: no rows; needed are a header with {columns}, and one row a picture.")
    if not set(needed) <= set(header) or len(set(header)) < len(header):
        raise ValueError(f"{path}: the header needs {columns}, and each column once, but is {header}.")
    for number, line in enumerate(body, 1):
        if len(line) != len(header) or not all(dict(zip(header, line))[key] for key in needed):
            raise ValueError(f"{path}: row {number}: needed are {len(header)} cells, but got {line}.")
    repeated = [name for name, n in Counter(line[header.index(needed[0])] for line in body).items() if n > 1]
    if repeated:
        raise ValueError(f"{path}: named more than once: {few(repeated)}.")
    return [dict(zip(header, line)) for line in body]


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table to be written: a header and its rows. What a path holds that is no UTF-8 is escaped."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


def few(values: Iterable[Any]) -> str:
    """The first three values, and how many there are, for a message of one line."""
    values = [str(v) for v in values]
    return ", ".join(values[:3]) + (f", ... ({len(values)} in all)" if len(values) > 3 else "")
