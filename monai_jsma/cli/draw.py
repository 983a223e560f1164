# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``draw PREDICTIONS``: pictures and QuPath objects of saved predictions, without the model.

A picture, slide or annotation that fails is told in one line, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma.cli import Commands, add_command

if TYPE_CHECKING:
    from monai_jsma.datalists.regions import Area
    from monai_jsma.predictions.records import PredictionRecord

__all__ = ["add_parser", "run"]

_TABLE = "pointing.csv"
_ALL, _UNNAMED = "(all)", "(no class)"
_COLUMNS = ("file", "row", "col", "height", "width", "annotation", "magnification", "share", "expected", "enrichment")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Draw saved predictions: PNG, GeoJSON for QuPath, and how much attention lies inside annotations."
    parser = add_command(commands, "draw", run, summary=summary)
    parser.add_argument("predictions", type=Path, nargs="+", metavar="PREDICTIONS", help="files of prediction records")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--base-dir", type=Path, default=Path(), metavar="DIR", help="folder of relative paths (default: this one)"
    )
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE|DIR",
        help="QuPath GeoJSON, ImageScope XML or CSV of boxes, named as the slides: drawn, and scored in pointing.csv",
    )  # fmt: skip
    parser.add_argument("--cells", action="store_true", help="put all cells in the GeoJSON, for measurement maps")
    parser.add_argument("--geojson-only", action="store_true", help="draw no PNG; the files themselves are not needed")


def run(args: argparse.Namespace) -> int:
    """Write all results and print their paths; 1 if anything failed."""
    from monai_jsma._io import csv_text, write_whole
    from monai_jsma.cli.verify import with_progress
    from monai_jsma.predictions.records import read_records
    from monai_jsma.slides.errors import SlideError

    records = read_records(args.predictions)
    by_file = defaultdict(list)
    for record in records:
        by_file[record.file].append(record)
    areas, faults = _read_areas(args, list(by_file)) if args.annotations else ({}, [])
    if args.annotations:
        rows = [row for r in records if r.file in areas for row in _scores(r, areas[r.file])]
        print(write_whole(args.output / _TABLE, csv_text(_COLUMNS, rows)))
    for of_file in by_file.values():
        try:
            _write_geojson(of_file, args)
        except ValueError as error:
            faults.append(str(error))
    for record in with_progress([] if args.geojson_only else records):
        try:
            _write_picture(record, areas.get(record.file, ()), args)
        except (ValueError, OSError, SlideError) as error:
            faults.append(str(error))
    for fault in dict.fromkeys(faults):
        print(f"error: {' '.join(fault.split())}", file=sys.stderr)
    return 1 if faults else 0


def _write_geojson(records: Sequence[PredictionRecord], args: argparse.Namespace) -> None:
    from monai_jsma._io import region_name, write_whole
    from monai_jsma.visualize import feature_collection

    text = json.dumps(feature_collection(records, cells=args.cells), ensure_ascii=False, allow_nan=False)
    print(write_whole(args.output / f"{region_name(records[0].file)}.geojson", text + "\n"))


def _write_picture(record: PredictionRecord, areas: Sequence[Area], args: argparse.Namespace) -> None:
    from monai_jsma._io import region_name
    from monai_jsma.visualize import record_figure, save_figure

    figure = record_figure(record, args.base_dir, areas)
    print(save_figure(figure, args.output / f"{region_name(*record.key)}.png"))


def _read_areas(args: argparse.Namespace, files: Sequence[str]) -> tuple[dict[str, list[Area]], list[str]]:
    """The annotated areas of each file, and what failed. Annotations of other slides are not used, and counted."""
    from monai_jsma._io import few
    from monai_jsma.datalists.annotations import find_annotations, match_annotations

    path: Path = args.annotations
    slides = {Path(file): file for file in files}
    tables = find_annotations(path, skip=[args.output / _TABLE])  # the table is of an earlier run
    areas_of, found = match_annotations(tables, list(slides))
    areas = {slides[slide]: of_slide for slide, of_slide in areas_of.items()}
    others = [fault.reason for fault in found if fault.stage == "match"]
    faults = [fault.reason for fault in found if fault.stage != "match"]
    if others:
        print(f"not used: {few(others)}")
    if not areas:
        faults.append(f"{path}: holds no annotation of a file that was predicted; name them as the files.")
    return areas, faults


def _scores(record: PredictionRecord, areas: Sequence[Area]) -> Iterator[list[Any]]:
    """Rows of the table: all annotations, then each class; all attention, then each magnification."""
    from monai_jsma.predictions.measures import pointing_scores
    from monai_jsma.visualize import by_class

    place = (record.file, *record.location, *record.size)
    classes = {_ALL: areas, **{name or _UNNAMED: of_class for name, of_class in by_class(areas).items()}}
    for name, of_class in classes.items():
        for magnification, score in pointing_scores(record.evidence, of_class).items():
            values = *place, name, magnification or _ALL, score.share, score.expected, score.enrichment
            yield [f"{value:.6g}" if isinstance(value, float) else value for value in values]
