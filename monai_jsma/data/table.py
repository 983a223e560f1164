# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tables as CSV in UTF-8: of labels and patients, as spreadsheets and data sets have them; of results."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai_jsma.data.messages import few

__all__ = ["csv_text", "read_lines", "read_table"]


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
