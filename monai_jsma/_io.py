# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files and text: faults, whole-file writes, checksums, file names, CSV, text tables, lists in one line."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import logging
import os
import re
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "IMAGE_SUFFIXES",
    "Fault",
    "name_full_disk",
    "checkpoint_file",
    "count_cores",
    "decode_text",
    "file_sha256",
    "find_data_files",
    "format_csv",
    "format_table",
    "is_data_file",
    "is_system_name",
    "list_data_folders",
    "join_few",
    "name_region",
    "read_lines",
    "read_table",
    "read_text",
    "replace_file",
    "report_system_files",
    "write_whole",
]

IMAGE_SUFFIXES = (
    ".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".jp2", ".webp", ".bmp", ".gif", ".ppm",
    ".svs", ".qptiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm",
    ".czi", ".isyntax", ".i2syntax", ".kfb", ".sdpc", ".tmap", ".vsi",  # of slides too, which are refused in words
)  # fmt: skip

_SYSTEM_NAMES = {  # what systems and network drives put beside the files, without the leading dot of hidden ones
    "__macosx", "__pycache__", "_gsdata_", "~snapshot", "@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp",
    "@transcode", "#recycle", "#snapshot", "$recycle.bin", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db",
    "found.000", "icon\r", "lost+found", "network trash folder", "recycler", "system volume information",
    "temporary items", "thumbs.db",
}  # fmt: skip

_UNFINISHED_SUFFIXES = (".crdownload", ".download", ".filepart", ".part", ".partial", ".tmp")  # of programs that copy

_KINDS = {  # first bytes of files that are given by mistake where text is needed
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"II*\0": "a TIFF image or slide",
    b"MM\0*": "a TIFF image or slide",
    b"II+\0": "a TIFF image or slide",
    b"PK\x03\x04": "a ZIP archive, such as a workbook of a spreadsheet (save its sheet as CSV) or weights",
    b"\xd0\xcf\x11\xe0": "a workbook of an old spreadsheet (save its sheet as CSV)",
    b"\x1f\x8b": "a gzip file (unpack it)",
    b"%PDF": "a PDF document",
}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """What failed or is wrong: where, in which stage, and the reason.

    Args:
        where: path of the file; or what there is a name for, if there is no file.
        stage: the step that failed, such as "open" or "label".
        reason: message of the error.
        location: row and column of the failed region's top-left corner, in level-0 pixels; (0, 0) for a whole image.
        item: position in the datalist, such as "training[3]", or in a file of annotations, such as "feature 3"; "" if
            there is none.
    """

    where: str
    stage: str
    reason: str
    location: tuple[int, int] = field(default=(0, 0), kw_only=True)
    item: str = field(default="", kw_only=True)

    @property
    def line(self) -> str:
        """The reason in one line, as a table has room for."""
        return " ".join(self.reason.split())


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def count_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: fewer than the machine has, where a job scheduler shares it out
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checkpoint_file(path: str | Path) -> str:
    """The path of a checkpoint, which must exist and be whole.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder, empty, cut off or no checkpoint of PyTorch.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path}: this is a folder; name the file of the weights in it, such as model.pt.")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: there is no such checkpoint; train first, without 'resume', or name the folder with 'ckpt_dir'."
        )
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK" and zipfile.is_zipfile(path):
        return str(path)
    is_old = start[:1] == b"\x80"  # a pickle, as PyTorch wrote it before 1.6
    if is_old:
        return str(path)
    fault = "its end is missing" if start == b"PK" else "it is no checkpoint of PyTorch"
    if not start:
        fault = "it is empty"
    raise ValueError(f"{path}: {fault}; copy it again, or name another file.")


@contextmanager
def replace_file(path: str | Path, *, shared: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all: the one way in which this package writes files.

    The block writes to the path that it is given. When the block ends, the file there takes the place of ``path``;
    when the block raises an error, it is deleted, and ``path`` is as it was before.

    Args:
        path: path of the file; its folder is made if needed.
        shared: whether several processes may write the file at the same time.

    Example::

        >>> with replace_file("models/model.pt") as unfinished:  # doctest: +SKIP
        ...     torch.save(state, unfinished)
    """
    path = Path(path)
    _check_target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"-{uuid.uuid4().hex}" if shared else ""
    unfinished = path.with_name(f".{path.stem}.part{writer}{path.suffix}")  # cuCIM goes by the suffix
    try:
        with name_full_disk(path):
            yield unfinished
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())  # before it gets its name, so that a power failure leaves no half file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_target(path: Path) -> None:
    """Check that a file of this path can be, before anything is written.

    Raises:
        IsADirectoryError: if it is a folder.
        NotADirectoryError: if what should be its folder is a file.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder; name a file to write.")
    for folder in path.parents:
        if folder.is_file():
            raise NotADirectoryError(f"{path}: cannot be written, as {folder} is a file; name a folder or a new one.")


@contextmanager
def name_full_disk(path: str | Path) -> Iterator[None]:
    """Name the file in an error of the operating system that does not: that of a full disk.

    Args:
        path: path of the file that the block writes.

    Raises:
        OSError: the error of the block, with the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        reason = error.strerror or "it cannot be written"
        raise OSError(error.errno, f"{reason}; make room, and give the same command again", str(path)) from error


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write text or bytes to a file, whole or not at all (see :func:`replace_file`). Returns the path.

    Raises:
        ValueError: if the text holds the name of a file that is not UTF-8; it names the line.
    """
    if isinstance(content, str):
        content = _encode_text(content, path)
    with replace_file(path) as unfinished:
        unfinished.write_bytes(content)
    return Path(path)


def _encode_text(text: str, path: str | Path) -> bytes:
    """The bytes of a text for a file; bytes, as text mode would change the line ends on Windows."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        start = text.rfind("\n", 0, error.start) + 1
        line = text[start:].partition("\n")[0].strip()
        readable = line.encode("utf-8", "backslashreplace").decode()
        raise ValueError(
            f"{path}: not written, as a name is not UTF-8: {readable}; rename that file or folder."
        ) from error


def name_region(path: str, location: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> str:
    """A file name without suffix for results of an image or of one region: its stem, its location and six hex digits.

    The digits are of a checksum, so that files of the same name in different folders get different names.

    Args:
        path: path of the image.
        location: row and column of the region's top-left corner.
        size: height and width of the region; regions may share a corner.
    """
    stem = Path(path).stem
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)
    stem = stem[:100].lstrip(".") or "picture"
    if any(location):
        row, col = location
        stem += f"_r{row}_c{col}"

    region = f"{path}|{location}|{size}"
    digest = hashlib.sha256(region.encode()).hexdigest()
    return f"{stem}_{digest[:6]}"


def is_system_name(name: str) -> bool:
    """Whether a file or folder is nobody's data: it is hidden, or a system or a network drive put it there.

    macOS writes ``._a.tif`` beside ``a.tif``, notebooks a folder ``.ipynb_checkpoints``, Synology ``@eaDir``.
    """
    return name.startswith((".", "~$")) or name.casefold() in _SYSTEM_NAMES


def is_data_file(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether a path is a file with one of the suffixes, and none for which :func:`is_system_name` holds.

    Args:
        path: the path to look at.
        suffixes: lower-case suffixes with their dots, such as :data:`IMAGE_SUFFIXES` or ".geojson.gz"; case is ignored.
    """
    if is_system_name(path.name) or not path.name.lower().endswith(tuple(suffixes)):
        return False
    return path.is_file()


def list_data_folders(folder: Path) -> list[Path]:
    """The folders in a folder that hold data: all but those for which :func:`is_system_name` holds, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_system_name(entry.name))


def find_data_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files in a folder and its subfolders for which :func:`is_data_file` holds, sorted.

    Links to folders are followed, and each folder is searched once. What has one of the suffixes and yet is no data is
    told in one line of the log, and so is what was not copied to its end.
    """
    files = []
    left_out = []
    unfinished = []
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(root, name)), name))  # a link is another name
        is_data = not any(map(is_system_name, Path(root).relative_to(folder).parts))
        for name in names:
            path = Path(root, name)
            if is_data and is_data_file(path, suffixes):
                files.append(path)
            elif name.lower().endswith(tuple(suffixes)):
                left_out.append(path.relative_to(folder).as_posix())
            elif is_data and _is_unfinished(name, suffixes):
                unfinished.append(path.relative_to(folder).as_posix())
    report_system_files(folder, left_out)
    if unfinished:
        _logger.warning("%s: left out, copied in part only: %s.", folder, join_few(sorted(unfinished)))
    return sorted(files)


def _is_unfinished(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a name is that of data with the suffix that programs give to a file until it is copied: "a.svs.part"."""
    stem, suffix = os.path.splitext(name.lower())
    return suffix in _UNFINISHED_SUFFIXES and stem.endswith(tuple(suffixes))


def report_system_files(folder: Path, names: Iterable[str]) -> None:
    """Say in one line of the log which hidden and system files of a folder are left out; nothing if there are none."""
    names = sorted(names)
    if names:
        _logger.warning("%s: left out, hidden or of the system: %s.", folder, join_few(names))


def read_text(path: str | Path, kind: str) -> str:
    """The text of a file in UTF-8, without the byte order mark that some editors and spreadsheets write.

    Args:
        path: path of the file.
        kind: what it should be, such as "a CSV file".

    Raises:
        ValueError: if the file is empty, is of another kind or is text in another encoding.
    """
    try:
        return decode_text(Path(path).read_bytes(), kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def decode_text(content: bytes, kind: str) -> str:
    """The text of a file's bytes in UTF-8, without a byte order mark.

    Args:
        content: all bytes of the file.
        kind: what it should be, such as "a CSV file".

    Raises:
        ValueError: if there are none, or they are of another kind or in another encoding; without the file's name.
    """
    if not content:
        raise ValueError(f"the file is empty (0 bytes), not {kind}; name another, or write it again")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"not {kind} in UTF-8, but in UTF-16; save it in this encoding")
    for start, other in _KINDS.items():
        if content.startswith(start):
            raise ValueError(f"this is {other}, not {kind}; name another file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte {content[error.start]:#x} at {error.start}"
        raise ValueError(f"not {kind} in UTF-8 ({wrong}); save it in this encoding") from error
    if "\0" in text:
        raise ValueError(f"not {kind}, as it holds bytes that are no text; name another file")
    return text


def read_lines(path: Path) -> list[list[str]]:
    """The cells of each line of a CSV file that is not empty, without surrounding blanks.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a CSV file in UTF-8.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: this is a folder; name the table in it, such as {path / 'labels.csv'}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such table of labels.")
    text = io.StringIO(read_text(path, "a CSV file"), newline="")
    try:
        lines = list(csv.reader(text, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file: {error}.") from error

    stripped = [[cell.strip() for cell in line] for line in lines]
    return [line for line in stripped if any(line)]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, one for each image.

    Args:
        path: path of the CSV file.
        columns: names of the columns that must have a value in each row. The first identifies the row: its values
            must not repeat.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not in UTF-8, is empty, lacks a column or a value, or names an image twice.
    """
    lines = read_lines(path)
    names = " and ".join(f"'{name}'" for name in columns)
    if len(lines) < 2:
        raise ValueError(f"{path}: no rows; needed are a header with {names}, and one row for each image.")

    header = lines[0]
    is_complete = set(columns) <= set(header)
    is_unique = len(set(header)) == len(header)
    if not (is_complete and is_unique):
        raise ValueError(f"{path}: the header needs {names}, and each column once, but is {header}.")

    rows = []
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise ValueError(f"{path}: row {number}: needed are {len(header)} cells, but got {line}.")
        row = dict(zip(header, line))
        for name in columns:
            if not row[name]:
                raise ValueError(f"{path}: row {number}: needed is a value of '{name}', but got {line}.")
        rows.append(row)

    first_column = [row[columns[0]] for row in rows]
    counts = Counter(first_column)
    repeated = [value for value in counts if counts[value] > 1]
    if repeated:
        raise ValueError(f"{path}: named more than once: {join_few(repeated)}.")
    return rows


def format_csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """The text of a CSV file. Bytes of a path that are not UTF-8 are escaped.

    Args:
        header: names of the columns.
        rows: values of each row, in the order of the columns.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


def format_table(rows: Sequence[Sequence[str]], *, align: Literal["left", "right"] = "right") -> list[str]:
    """The lines of a table for the terminal: aligned columns, two blanks apart.

    Args:
        rows: the cells of each row, the header's first; all rows have equally many.
        align: where the text of a cell is in its column.

    Example::

        >>> format_table([("level", "um/px"), ("0", "0.25")])
        ['level  um/px', '    0   0.25']
    """
    pad = str.rjust if align == "right" else str.ljust
    widths = []
    for column in zip(*rows):
        widths.append(max(map(len, column)))

    lines = []
    for row in rows:
        cells = map(pad, row, widths)
        lines.append("  ".join(cells).rstrip())
    return lines


def join_few(values: Iterable[Any], *, max_values: int = 3) -> str:
    """The first values and, if there are more, their number, for a message of one line.

    Args:
        values: the values.
        max_values: largest number of values in the text.

    Example::

        >>> join_few(["a.png", "b.png", "c.png", "d.png"])
        'a.png, b.png, c.png, ... (4 in all)'
    """
    texts = [str(value) for value in values]
    if len(texts) <= max_values:
        return ", ".join(texts)
    first = ", ".join(texts[:max_values])
    return f"{first}, ... ({len(texts)} in all)"
