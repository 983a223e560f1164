# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Names that are likely the same thing in two spellings: patients ``001`` and ``1``, ``Pat-1`` and ``pat-1``.

Nobody but the user knows whether they are the same: taken apart, a patient may lie in two splits; taken together, two
patients become one. So they are neither: a split of them is an error that lists them, until they are written in one
spelling, or ``names_as_written`` says that they differ.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from monai_jsma._io import join_few

__all__ = [
    "Double",
    "check_spellings",
    "find_doubles",
    "find_same_files",
    "read_names_as_written",
    "spelling_key",
]

_TOKEN = re.compile(r"\d+|[^\W\d]+|[^\w\s]")  # a number, a word, or any other sign
_WHOLE_NUMBER = re.compile(r"(\d+)[.,]0+")  # as spreadsheets write it
_NEGATIVE_NUMBER = re.compile(r"[-\u2212](\d+(?:[.,]\d+)?)")  # with a hyphen or a minus
_SEPARATORS = "_."
_LOOKALIKES = str.maketrans(  # letters of other alphabets that look like Latin ones, and apostrophes
    "авекмнорстухАВЕКМНОРСТУХαβεζηικμνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ\u2018\u2019\u02bc\u00b4`",
    "abekmhopctyxABEKMHOPCTYXabezhikmnoptyxABEZHIKMNOPTYX" + "'" * 5,
)
_MAX_LISTED = 10
_WAY_OUT = (
    "write each in one spelling; if they differ, say so with --names-as-written (prepare) or "
    '"names_as_written": true (in the datalist)'
)


class Double(NamedTuple):
    """Spellings of likely the same thing, and what it is: "group", "patient", "image" or "class"."""

    kind: str
    spellings: tuple[str, ...]

    def __str__(self) -> str:
        composed = {unicodedata.normalize("NFC", spelling).translate(_LOOKALIKES) for spelling in self.spellings}
        show = repr if len(composed) == len(self.spellings) else ascii  # where they look the same: code points
        return f"{self.kind} {' and '.join(map(show, self.spellings))}"


def spelling_key(name: str) -> tuple[str, ...]:
    """What the spellings of a name have in common: its words and numbers.

    Case, leading zeros, separators, invisible characters and letters that look alike make no difference, except for the
    sign of a name that is a number.

    Example::

        >>> spelling_key("Pat-007") == spelling_key("pat 7")
        True
        >>> spelling_key("1-12") == spelling_key("11-2")
        False
    """
    text = _fold(name).strip()
    negative = _NEGATIVE_NUMBER.fullmatch(text)
    if negative is not None:
        return ("-", *spelling_key(negative[1]))
    number = _WHOLE_NUMBER.fullmatch(text)
    if number is not None:
        text = number[1]

    spaced = "".join(" " if _is_separator(character) else character for character in text)
    tokens = [_strip_zeros(token) for token in _TOKEN.findall(spaced)]
    return tuple(tokens) or (text,)


def _fold(text: str) -> str:
    """A text without differences of case, of Unicode form, of letters that look alike and of invisible characters."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    visible = visible.translate(_LOOKALIKES)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())


def _is_separator(character: str) -> bool:
    return character in _SEPARATORS or unicodedata.category(character) in ("Pd", "Zs")  # dashes, blanks


def _strip_zeros(token: str) -> str:
    """A number without leading zeros, in Latin digits; another token as it is."""
    if not token.isdecimal():
        return token
    digits = "".join(str(unicodedata.decimal(digit)) for digit in token)
    return digits.lstrip("0") or "0"


def _image_key(path: str) -> str:
    """What the spellings of a path have in common; numbers count as written: 1.png and 01.png are two images."""
    parts = path.replace("\\", "/").split("/")
    stripped = "/".join(part.strip() for part in parts)
    return _fold(os.path.normpath(stripped))


@dataclass(frozen=True)
class _Content:
    """What is known of an image's file, to tell images of similar names apart."""

    sha256: str | None
    size: int | None

    def differs(self, other: _Content) -> bool:
        """Whether the two are known to be different images."""
        if self.sha256 and other.sha256:
            return self.sha256 != other.sha256
        return self.size is not None and other.size is not None and self.size != other.size


def find_doubles(
    names: Iterable[tuple[str, str]], images: Iterable[Mapping[str, Any]] = (), *, base: Path | None = None
) -> list[Double]:
    """Find the names that are likely the same thing in several spellings.

    Args:
        names: kind and spelling of each name, such as ("patient", "P1").
        images: items whose ``image`` is compared; those of different ``sha256``, or file sizes, are different images.
        base: folder that relative image paths start at, to know the sizes; None if unknown.
    """
    spellings_of = defaultdict(set)
    for kind, spelling in names:
        spellings_of[kind, spelling_key(spelling)].add(spelling)

    content_of: dict[str, dict[str, _Content]] = defaultdict(dict)
    for item in images:
        path = os.path.normpath(item["image"])
        same_key = content_of[_image_key(path)]
        if path not in same_key:
            same_key[path] = _Content(item.get("sha256"), None)

    doubles = []
    for (kind, _), spellings in spellings_of.items():
        if len(spellings) > 1:
            doubles.append(Double(kind, tuple(sorted(spellings))))
    for contents in content_of.values():
        alike = _find_alike(contents, base)
        if alike:
            doubles.append(Double("image", alike))
    return sorted(doubles)


def _find_alike(contents: Mapping[str, _Content], base: Path | None) -> tuple[str, ...]:
    """The paths that are not known to be different images from all others of the same key."""
    if len(contents) < 2:
        return ()
    completed = {}
    for path, content in contents.items():
        completed[path] = _Content(content.sha256, _find_size(path, base))

    alike = []
    for path, content in completed.items():
        others = [other for name, other in completed.items() if name != path]
        if not all(content.differs(other) for other in others):
            alike.append(path)
    return tuple(sorted(alike))


def _find_size(path: str, base: Path | None) -> int | None:
    state = _stat(path, base)
    return None if state is None else state.st_size


def _stat(path: str, base: Path | None) -> os.stat_result | None:
    if base is None:
        return None
    try:
        return os.stat(base / path)
    except (OSError, ValueError):
        return None  # missing files are another check's errors


def find_same_files(paths: Iterable[str], base: Path) -> dict[str, tuple[str, ...]]:
    """Find paths of the same file: relative and absolute ones, ``..``, links.

    Args:
        paths: the paths.
        base: folder that relative ones start at.

    Returns:
        for each path that is not the only one of its file, all of them.
    """
    paths_of: dict[tuple[int, int] | str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(os.path.normpath(path) for path in paths):
        state = _stat(path, base)
        has_number = state is not None and state.st_ino != 0  # some file systems have none
        file = (state.st_dev, state.st_ino) if state is not None and has_number else os.path.abspath(base / path)
        paths_of[file].append(path)

    same_files = {}
    for same in paths_of.values():
        if len(same) > 1:
            same_files.update(dict.fromkeys(same, tuple(sorted(same))))
    return same_files


def read_names_as_written(content: Mapping[str, Any]) -> bool:
    """Whether a datalist says that names which differ in spelling only are different ones.

    Raises:
        ValueError: if it says neither true nor false.
    """
    value = content.get("names_as_written", False)
    if not isinstance(value, bool):
        raise ValueError(f"'names_as_written' of a datalist must be true or false, but is {value!r}.")
    return value


def check_spellings(doubles: Sequence[Double], where: str = "") -> None:
    """Ask the user about likely doubles.

    Args:
        doubles: what :func:`find_doubles` has found.
        where: beginning of the message, such as the path of a table.

    Raises:
        ValueError: if there are any; it lists them and says the way out.
    """
    if not doubles:
        return
    texts = join_few(doubles, max_values=_MAX_LISTED)
    prefix = f"{where}: " if where else ""
    raise ValueError(f"{prefix}likely one name in several spellings: {texts}; {_WAY_OUT}.")
