# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a run, drawn from its records: a map of each slide, and cards of the regions that tell most.

A slide of hundreds of regions needs one picture, not hundreds; all regions can be drawn later by ``monai_jsma draw``.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from monai_jsma._io import format_csv, name_region, read_text, write_whole
from monai_jsma.datalists.regions import Area
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.slides.errors import SlideError
from monai_jsma.visualize.canvas import save_pixels
from monai_jsma.visualize.geojson import write_geojson
from monai_jsma.visualize.record_choice import choose_records
from monai_jsma.visualize.record_figures import draw_record_card
from monai_jsma.visualize.slide_map import draw_slide_map, is_slide

__all__ = ["group_by_file", "write_run_pictures", "write_slide_map"]

_INDEX = "pictures.csv"
_COLUMNS = ("picture", "reason", "file", "row", "col", "height", "width")
_CARDS = "attention"
_MAPS = "maps"


def group_by_file(records: Sequence[PredictionRecord]) -> dict[str, list[PredictionRecord]]:
    """The records of each file, in their order.

    Args:
        records: records of one run.
    """
    files: dict[str, list[PredictionRecord]] = {}
    for record in records:
        files.setdefault(record.file, []).append(record)
    return files


def write_slide_map(
    records: Sequence[PredictionRecord],
    folder: str | os.PathLike[str],
    base_dir: str | os.PathLike[str] = "",
    *,
    areas: Sequence[Area] = (),
) -> Path:
    """Write the map of one slide as ``NAME_map.png``.

    Args:
        records: all records of the slide.
        folder: folder to write to.
        base_dir: folder that a relative path starts at.
        areas: annotated areas to outline.

    Raises:
        FileNotFoundError: if the file is gone.
        SlideError: if the file cannot be read, or has changed since the prediction.
        ValueError: if an area lies outside the file.
    """
    pixels = draw_slide_map(records, base_dir, areas=areas)
    return save_pixels(pixels, Path(folder) / f"{name_region(records[0].file)}_map.png")


def write_run_pictures(
    records: Sequence[PredictionRecord], folder: str | os.PathLike[str], *, max_pictures: int | None = 12
) -> list[str]:
    """Write ``maps/`` with a map of each slide as PNG and GeoJSON, ``attention/`` with cards, and ``pictures.csv``.

    ``pictures.csv`` names them and says why each region was chosen. Pictures of an earlier run that it named are
    removed: they would show other predictions.

    Args:
        records: all records of the run.
        folder: folder to write to.
        max_pictures: how many regions to draw at most, see :func:`~monai_jsma.visualize.choose_records`; None: all; 0:
            nothing at all is drawn.

    Returns:
        What could not be drawn, one message each.
    """
    folder = Path(folder)
    rows: list[tuple] = []
    faults: list[str] = []
    if max_pictures != 0:
        for of_file in group_by_file(records).values():
            if is_slide(of_file):
                rows += _draw_slide(of_file, folder, faults)
        for record, reason in choose_records(records, max_pictures):
            rows += _draw_region(record, folder, reason=reason, faults=faults)

    drawn = {row[0] for row in rows}
    for earlier in _list_earlier(folder):
        if earlier not in drawn:
            (folder / earlier).unlink(missing_ok=True)
    index = folder / _INDEX
    if rows:
        write_whole(index, format_csv(_COLUMNS, rows))
    else:
        index.unlink(missing_ok=True)
    return faults


def _draw_slide(records: Sequence[PredictionRecord], folder: Path, faults: list[str]) -> list[tuple]:
    """Rows of the index for the map of a slide."""
    try:
        written = [
            write_geojson(records, folder / _MAPS, cells=True),
            write_slide_map(records, folder / _MAPS),
        ]
    except (OSError, SlideError, ValueError) as error:
        faults.append(str(error))
        return []
    place = (records[0].file, "", "", "", "")
    return [(f"{_MAPS}/{path.name}", "map of the slide", *place) for path in written]


def _draw_region(record: PredictionRecord, folder: Path, *, reason: str, faults: list[str]) -> list[tuple]:
    """The row of the index for the card of a region."""
    name = f"{_CARDS}/{name_region(*record.key)}.png"
    try:
        save_pixels(draw_record_card(record), folder / name)
    except (OSError, SlideError, ValueError) as error:
        faults.append(str(error))
        return []
    return [(name, reason, record.file, *record.location, *record.size)]


def _list_earlier(folder: Path) -> Iterator[str]:
    """The pictures that an earlier index names, without anything that it should not name."""
    index = folder / _INDEX
    if not index.is_file():
        return
    for row in csv.DictReader(io.StringIO(read_text(index, "a CSV file"), newline="")):
        path = Path(row.get("picture") or "")
        is_ours = len(path.parts) == 2 and path.parts[0] in (_CARDS, _MAPS) and path.suffix in (".png", ".geojson")
        if is_ours and path.name != "..":
            yield path.as_posix()
