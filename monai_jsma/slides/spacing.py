# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How large is a pixel, and which statement is believed? Spacings are micrometers per pixel (mpp) of level 0.

A file may state its spacing in several places, and may be wrong in each. The first credible statement counts, the
others are compared with it. Where none is credible, the spacing is unknown and its source lists the rejected ones.

Numbers are read as people and scanners write them (``0,2520`` is 0.252), and whatever type a library gives (a fraction,
a NumPy scalar) becomes a float here.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

__all__ = [
    "StatedSpacing",
    "differ",
    "parse_decimal",
    "read_dpi_spacings",
    "read_exif_spacings",
    "read_openslide_spacings",
    "read_tiff_spacings",
    "resolve_mpp",
    "to_float",
]

_MIN_MPP, _MAX_MPP = 0.05, 20.0  # from a 100x oil objective to an overview; 72 dpi is 352.8
_RANGE = f"{_MIN_MPP:g}-{_MAX_MPP:g}"
_TOLERANCE = 0.015
_APERIO, _OME, _OPENSLIDE = "Aperio MPP", "OME PhysicalSizeX", "openslide.mpp-x"
_VENDOR_SOURCES = (_APERIO, _OME, _OPENSLIDE)
_UM_PER_INCH = 25400.0
_UM_PER_RESOLUTION_UNIT = {2.0: _UM_PER_INCH, 3.0: 1e4}  # ResolutionUnit: inch, centimeter
_UM_PER_OME_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}  # micro sign, Greek mu
_APERIO_MPP = re.compile(r"Aperio .*?\|\s*MPP\s*=\s*([^|;\s\0]*)", re.DOTALL)
_DECIMAL = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_EXIF_X_RESOLUTION, _EXIF_Y_RESOLUTION, _EXIF_RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128

_logger = logging.getLogger(__name__)


class StatedSpacing(NamedTuple):
    """What one place of a file says: its name, and um per pixel down a column (row) and along a row (col).

    Where it says something that is no spacing, both are NaN, and ``text`` is what it says.
    """

    source: str
    row: float
    col: float
    text: str = ""

    @property
    def mpp(self) -> float:
        """Mean of both directions."""
        return (self.row + self.col) / 2

    @property
    def refusal(self) -> str:
        """Why this is not believed, or "" where it is credible."""
        if self.text:
            return "not a spacing"
        if not (_is_plausible(self.row) and _is_plausible(self.col)):
            return f"outside {_RANGE}"
        if differ(self.row, self.col):
            return "pixels are not square"
        return ""

    @property
    def rejection(self) -> str:
        """The statement and why it is not believed."""
        return f"{self} rejected: {self.refusal}"

    def __str__(self) -> str:
        if self.text:
            return f"{self.source} '{self.text}'"
        both = f"{self.row:.5g}" if self.row == self.col else f"{self.row:.5g} x {self.col:.5g}"
        return f"{self.source} {both} um/px"


def differ(a: float, b: float) -> bool:
    """Whether two spacings disagree by more than rounding."""
    return abs(a - b) > _TOLERANCE * min(a, b)


def parse_decimal(text: str) -> float:
    """Read a number with a decimal point or a decimal comma: "0.252", "0,2520", "2,5e-1".

    Raises:
        ValueError: if it is no number, or one with separators of thousands, which can be read in two ways.

    Example::

        >>> parse_decimal("0,2520")
        0.252
    """
    stripped = text.strip()
    if stripped.count(",") + stripped.count(".") > 1:
        raise ValueError(f"'{stripped}' is not a number with one decimal point or comma; write it such as 0.252.")
    if not _DECIMAL.fullmatch(stripped):
        raise ValueError(f"'{stripped}' is not a number; write it such as 0.252.")
    return float(stripped.replace(",", "."))


def to_float(value: Any) -> float:
    """The number that a library gives, as a float; NaN where it is none.

    Args:
        value: a number of any type, a text, or a pair of numerator and denominator.
    """
    try:
        if isinstance(value, str):
            return parse_decimal(value)
        if isinstance(value, (tuple, list)):  # of a TIFF tag: a number, or numerator and denominator
            numerator, *denominators = value
            denominator = denominators[0] if denominators else 1
            return float(numerator) / float(denominator)
        return float(value)
    except (TypeError, ValueError, ArithmeticError):
        return math.nan


def resolve_mpp(path: str, stated: Iterable[StatedSpacing], mpp: float | None) -> tuple[float | None, str]:
    """Choose the spacing to believe: ``mpp`` if it is given, else the first credible statement of the file.

    Args:
        path: the file, for messages.
        stated: statements of the file, in order of trust.
        mpp: um per pixel that the user gave, or None.

    Returns:
        ``(mpp, source)``, or ``(None, reasons)`` where ``reasons`` lists the rejected statements and why.

    Raises:
        ValueError: if the given ``mpp`` is no number, or out of range.
    """
    credible = []
    if mpp is not None:
        is_number = not isinstance(mpp, (bool, tuple, list))  # of a row and a column, not of a fraction
        given = to_float(mpp) if is_number else math.nan
        if math.isnan(given):
            raise ValueError(f"{path}: mpp={mpp!r} is not one number of um per pixel, such as 0.25; correct 'mpp'.")
        if not _is_plausible(given):
            raise ValueError(f"{path}: mpp={mpp} is outside {_RANGE} um per pixel; correct 'mpp'.")
        credible.append(("given", given))

    rejected = []
    rejected_by_vendor = []  # what a scanner says; 72 dpi is said of any photograph
    for spacing in stated:
        if spacing.refusal:
            rejected.append(spacing.rejection)
            if spacing.source in _VENDOR_SOURCES:
                rejected_by_vendor.append(spacing.rejection)
        else:
            credible.append((spacing.source, spacing.mpp))
    if not credible:
        return None, "; ".join(rejected)
    if mpp is not None and rejected_by_vendor:
        _logger.warning("%s: %s; using the given %.5g um/px.", path, "; ".join(rejected_by_vendor), given)

    source, value = credible[0]
    for other, other_value in credible[1:]:
        if differ(value, other_value):
            _logger.warning(
                "%s: %s is %.5g um/px but %s is %.5g; using the former.", path, source, value, other, other_value
            )
    return value, source


def read_tiff_spacings(tif: TiffFile, page: TiffPage) -> list[StatedSpacing]:
    """What a TIFF file says of ``page``, its level 0: statements of vendors first, the resolution tags last."""
    spacings = []

    aperio = _APERIO_MPP.match(page.description)
    if aperio is not None:
        spacings += _parse_spacing(_APERIO, aperio[1], aperio[1])

    if tif.is_ome:
        spacings += _read_ome_spacings(tif.ome_metadata or "", page)

    tags = page.tags
    x = tags.valueof("XResolution")
    y = tags.valueof("YResolution")
    unit = tags.valueof("ResolutionUnit", 2)  # inches where the tag is missing (TIFF 6.0)
    return spacings + _read_resolution("TIFF resolution", x, y, unit=unit)


def read_openslide_spacings(properties: Mapping[str, str]) -> list[StatedSpacing]:
    """What the properties of OpenSlide say."""
    if "openslide.mpp-x" not in properties or "openslide.mpp-y" not in properties:
        return []
    return _parse_spacing(_OPENSLIDE, properties["openslide.mpp-y"], properties["openslide.mpp-x"])


def read_dpi_spacings(dpi: tuple[Any, Any] | None) -> list[StatedSpacing]:
    """What the dots per inch (along a row, down a column) of a plain image say, numbers of any type."""
    if dpi is None:
        return []
    per_row_inch = to_float(dpi[0])
    return _read_resolution(f"{per_row_inch:g} dpi:", *dpi, unit=2)


def read_exif_spacings(tags: Mapping[int, Any]) -> list[StatedSpacing]:
    """What the EXIF tags of a plain image say."""
    x = tags.get(_EXIF_X_RESOLUTION)
    y = tags.get(_EXIF_Y_RESOLUTION, x)
    return _read_resolution("EXIF resolution", x, y, unit=tags.get(_EXIF_RESOLUTION_UNIT, 2))


def _read_resolution(source: str, x: Any, y: Any, *, unit: Any) -> list[StatedSpacing]:
    """The spacing of pixels per inch or centimeter; none where both are missing or 0, or the unit is none of length.

    Args:
        source: name of the statement.
        x: pixels per unit along a row, of any type.
        y: pixels per unit down a column, of any type.
        unit: the tag ResolutionUnit: 2 is the inch, 3 the centimeter.
    """
    um_per_unit = _UM_PER_RESOLUTION_UNIT.get(to_float(unit))
    per_col = to_float(x)
    per_row = to_float(y)
    if um_per_unit is None or not (per_row > 0 or per_col > 0):
        return []
    row = um_per_unit / per_row if per_row > 0 else math.nan
    col = um_per_unit / per_col if per_col > 0 else math.nan
    return [StatedSpacing(source, row, col)]


def _is_plausible(mpp: float) -> bool:
    return math.isfinite(mpp) and _MIN_MPP <= mpp <= _MAX_MPP


def _read_ome_spacings(xml: str, page: TiffPage) -> list[StatedSpacing]:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []  # tifffile has logged it

    spacings = []
    size = (str(page.imagelength), str(page.imagewidth))
    for pixels in root.iter():
        if not pixels.tag.endswith("}Pixels") or (pixels.get("SizeY"), pixels.get("SizeX")) != size:
            continue
        col = pixels.get("PhysicalSizeX", "")
        row = pixels.get("PhysicalSizeY", col)
        row_unit = pixels.get("PhysicalSizeYUnit", "µm")
        col_unit = pixels.get("PhysicalSizeXUnit", "µm")
        for spacing in _parse_spacing(_OME, row, col):
            um_per_row_unit = _UM_PER_OME_UNIT.get(row_unit)
            um_per_col_unit = _UM_PER_OME_UNIT.get(col_unit)
            if spacing.text:
                spacings.append(spacing)
            elif um_per_row_unit is None or um_per_col_unit is None:
                spacings.append(_reject(spacing.source, f"{row} {row_unit}", f"{col} {col_unit}"))
            else:
                row_um = spacing.row * um_per_row_unit
                col_um = spacing.col * um_per_col_unit
                spacings.append(StatedSpacing(spacing.source, row_um, col_um))
    return spacings


def _parse_spacing(source: str, row: str, col: str) -> list[StatedSpacing]:
    """The spacing that two texts state, none where both are empty."""
    row = row.strip()
    col = col.strip()
    if not (row or col):
        return []
    try:
        return [StatedSpacing(source, parse_decimal(row), parse_decimal(col))]
    except ValueError:
        return [_reject(source, row, col)]


def _reject(source: str, row: str, col: str) -> StatedSpacing:
    """The statement of two texts that are no spacing."""
    text = row if row == col else f"{row} x {col}"
    return StatedSpacing(source, math.nan, math.nan, text)
