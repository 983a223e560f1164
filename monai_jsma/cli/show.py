# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``draw PREDICTIONS`` writes images and QuPath objects of saved predictions; ``report PREDICTIONS`` a page of scores.

Neither needs the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_jsma._io import format_csv, join_few, name_region, write_whole
from monai_jsma.cli import Commands, add_command, parse_whole, print_error, show_progress

if TYPE_CHECKING:
    from monai_jsma.datalists.regions import Area
    from monai_jsma.predictions.measures import Pointing
    from monai_jsma.predictions.records import PredictionRecord
    from monai_jsma.slides.base import SlideInfo
    from monai_jsma.slides.frame import Frame

__all__ = ["add_commands", "add_record_options", "draw_predictions", "report_predictions"]

_POINTING_FILE = "pointing.csv"
_POINTING_COLUMNS = (
    "file", "row", "col", "height", "width", "annotation", "magnification", "share", "expected", "enrichment",
)  # fmt: skip
_ALL = "(all)"
_UNNAMED = "(no class)"


def add_commands(commands: Commands) -> None:
    """Add ``draw`` and ``report``."""
    _add_draw(commands)
    _add_report(commands)


def add_record_options(parser: argparse.ArgumentParser, *, annotations: str) -> None:
    """Add files of records, the folder that their images lie in, and the annotations that are shown with them.

    Args:
        parser: parser of the command.
        annotations: what becomes of the annotations.
    """
    parser.add_argument("predictions", type=Path, nargs="+", metavar="PREDICTIONS", help="files of prediction records")
    parser.add_argument(
        "--base-dir", type=Path, default=Path(), metavar="DIR", help="folder of relative image paths (default: here)"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE|DIR",
        help=f"QuPath GeoJSON, ImageScope XML or CSV of boxes, named as the slides: {annotations}",
    )
    parser.add_argument(
        "--frame",
        choices=("bounds", "canvas"),
        help="corner that annotations count from, in slides whose image lies on a larger canvas: of the image, as in "
        "QuPath (bounds), or of level 0 (canvas) (default: bounds for GeoJSON, canvas for XML and CSV)",
    )


def _add_draw(commands: Commands) -> None:
    summary = "Draw saved predictions: PNG, GeoJSON for QuPath, and how much attention lies inside annotations."
    parser = add_command(commands, "draw", draw_predictions, summary=summary)
    add_record_options(parser, annotations="drawn, and scored in pointing.csv")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--geojson-frame",
        choices=("bounds", "canvas"),
        default="bounds",
        help="corner that the GeoJSON counts from (default: bounds, as QuPath does)",
    )
    parser.add_argument("--cells", action="store_true", help="put all cells in the GeoJSON, for measurement maps")
    parser.add_argument(
        "--max-pictures",
        type=parse_whole(),
        metavar="N",
        help="draw at most N regions: wrong, most certain and most uncertain ones in turn (default: all)",
    )
    parser.add_argument("--geojson-only", action="store_true", help="draw no PNG; the image files are then not needed")


def draw_predictions(args: argparse.Namespace) -> int:
    """Write all results and print their paths; 1 if any image, slide or annotation failed."""
    from monai_jsma.predictions.records import read_records
    from monai_jsma.slides.errors import SlideError
    from monai_jsma.visualize import choose_records, is_slide, write_geojson, write_slide_map

    records_by_file: dict[str, list[PredictionRecord]] = {}
    for record in read_records(args.predictions):
        records_by_file.setdefault(record.file, []).append(record)
    slides = {file: _inspect_file(args.base_dir / file) for file in records_by_file}
    for file, of_file in records_by_file.items():
        records_by_file[file] = [_complete_bounds(record, slides[file]) for record in of_file]
    records = [record for of_file in records_by_file.values() for record in of_file]

    areas: dict[str, list[Area]] = {}  # by file
    faults: list[str] = []
    if args.annotations:
        table = args.output / _POINTING_FILE
        areas, faults = _read_areas(args.annotations, list(records_by_file), skip=table, frame=args.frame)
        for file, of_file in records_by_file.items():
            if file not in areas:
                continue
            try:
                for area in areas[file]:
                    _check_bounds(of_file[0], slides[file], area.frame)
            except ValueError as error:
                faults.append(str(error))
                del areas[file]
            else:
                inside, outside = _move_to_canvas(areas[file], of_file[0], slides[file])
                areas[file] = inside
                faults += outside
        print(_write_pointing(table, records, areas))

    for of_file in records_by_file.values():
        try:
            _check_bounds(of_file[0], slides[of_file[0].file], args.geojson_frame)
            print(write_geojson(of_file, args.output, cells=args.cells, frame=args.geojson_frame))
        except ValueError as error:
            faults.append(str(error))

    if not args.geojson_only:
        for of_file in records_by_file.values():
            if not is_slide(of_file):
                continue
            try:
                print(write_slide_map(of_file, args.output, args.base_dir, areas=areas.get(of_file[0].file, [])))
            except (ValueError, OSError, SlideError) as error:
                faults.append(str(error))
        chosen = records
        if args.max_pictures is not None:
            chosen = [record for record, _ in choose_records(records, args.max_pictures)]
        for record in show_progress(chosen):
            try:
                print(_write_image(record, areas.get(record.file, []), args=args))
            except (ValueError, OSError, SlideError) as error:
                faults.append(str(error))

    for fault in dict.fromkeys(faults):
        print_error(fault)
    return 1 if faults else 0


def _inspect_file(path: Path) -> SlideInfo | None:
    """What is known of a predicted file; None if it is not there or cannot be read, which drawing it tells."""
    from monai_jsma.slides.errors import SlideError
    from monai_jsma.slides.open import inspect_slide

    try:
        return inspect_slide(path)
    except (SlideError, OSError, ValueError):
        return None


def _complete_bounds(record: PredictionRecord, info: SlideInfo | None) -> PredictionRecord:
    """The record with the bounds of its file, which records of earlier versions lack."""
    if record.bounds is not None or info is None or info.bounds is None:
        return record
    return replace(record, bounds=info.bounds)


def _check_bounds(record: PredictionRecord, info: SlideInfo | None, frame: Frame) -> None:
    """Check that it is known where the image lies on the canvas, if a frame needs it.

    Raises:
        ValueError: if neither the record, of an earlier version, nor the file says so.
    """
    from monai_jsma.slides.frame import CANVAS_SUFFIXES

    if frame == "canvas" or record.bounds is not None or info is not None:
        return
    if Path(record.file).suffix.lower() in CANVAS_SUFFIXES:
        raise ValueError(
            f"{record.file}: the prediction does not say where the image lies on the canvas, and the file cannot be "
            "read; name its folder with --base-dir, or count from the canvas with --geojson-frame and --frame."
        )


def _move_to_canvas(
    areas: Sequence[Area], record: PredictionRecord, info: SlideInfo | None
) -> tuple[list[Area], list[str]]:
    """The areas in level-0 pixels of their file; and a message for each that lies outside the image."""
    from monai_jsma.datalists.regions import find_outside_fault
    from monai_jsma.slides.frame import FRAME_NAMES

    bounds = record.bounds
    inside = []
    outside = []
    for area in areas:
        reason = None if info is None else find_outside_fault(area, info.size, bounds)
        if reason is None:
            inside.append(area.on_canvas(bounds))
        else:
            outside.append(reason)
    if bounds is not None:
        for frame in sorted({area.frame for area in areas}):
            print(f"{record.file}: annotations count from {FRAME_NAMES[frame]}; --frame says otherwise")
    return inside, outside


def _read_areas(
    path: Path, files: Sequence[str], *, skip: Path, frame: Frame | None
) -> tuple[dict[str, list[Area]], list[str]]:
    """The annotated areas of each file, and what failed. Annotations of other slides are printed and not used.

    Args:
        path: a file of annotations, or the folder of several.
        files: the files that were predicted.
        skip: a file that holds no annotations.
        frame: the corner that all annotations count from; None: that of the tool that wrote them.
    """
    from monai_jsma.datalists.annotations import find_annotations, match_annotations

    tables = find_annotations(path, skip=[skip])
    file_of_slide = {Path(file): file for file in files}
    areas_of_slide, failures = match_annotations(tables, list(file_of_slide), frame=frame)
    areas = {file_of_slide[slide]: slide_areas for slide, slide_areas in areas_of_slide.items()}

    unmatched = [failure.reason for failure in failures if failure.stage == "match"]
    if unmatched:
        print(f"not used: {join_few(unmatched)}")
    faults = [failure.reason for failure in failures if failure.stage != "match"]
    if not areas:
        faults.append(f"{path}: holds no annotation of a file that was predicted; name them as the files.")
    return areas, faults


def _write_pointing(path: Path, records: Sequence[PredictionRecord], areas: Mapping[str, Sequence[Area]]) -> Path:
    """Write how much attention lies inside the annotations of each record."""
    rows: list[list[Any]] = []
    for record in records:
        if record.file in areas:
            rows += _score_areas(record, areas[record.file])
    return write_whole(path, format_csv(_POINTING_COLUMNS, rows))


def _score_areas(record: PredictionRecord, areas: Sequence[Area]) -> list[list[Any]]:
    """Rows of a record: all annotations, then each class; all attention, then each magnification."""
    from monai_jsma.predictions.measures import pointing_scores
    from monai_jsma.visualize import by_class

    areas_of_class: dict[str, Sequence[Area]] = {_ALL: areas}
    for name, of_class in by_class(areas).items():
        areas_of_class[name or _UNNAMED] = of_class

    rows = []
    for name, scored_areas in areas_of_class.items():
        for magnification, score in pointing_scores(record.evidence, scored_areas).items():
            region = [record.file, *record.location, *record.size]
            rows.append([*region, name, magnification or _ALL, *_format_score(score)])
    return rows


def _format_score(score: Pointing) -> list[str | None]:
    values = (score.share, score.expected, score.enrichment)
    return [None if value is None else f"{value:.6g}" for value in values]


def _write_image(record: PredictionRecord, areas: Sequence[Area], *, args: argparse.Namespace) -> Path:
    from monai_jsma.visualize import record_figure, save_figure

    figure = record_figure(record, args.base_dir, areas)
    return save_figure(figure, args.output / f"{name_region(*record.key)}.png")


def _add_report(commands: Commands) -> None:
    summary = "Write scores with intervals, curves, attention and the worst errors of one or more runs as a page."
    parser = add_command(commands, "report", report_predictions, summary=summary)
    parser.add_argument(
        "predictions",
        nargs="+",
        metavar="PREDICTIONS",
        help="prediction records, or NAME=FILE; files of one NAME are one run, and runs are compared to the first one",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("report"), metavar="DIR", help="folder to write to (default: report)"
    )
    parser.add_argument(
        "--by",
        choices=("region", "file", "group"),
        default="region",
        help="score each region, or all regions of a file or group as one by mean probability (default: region)",
    )
    parser.add_argument(
        "--ordered", action="store_true", help="the classes are grades: add the quadratically weighted kappa"
    )
    parser.add_argument(
        "--resamples",
        type=parse_whole(),
        default=1000,
        metavar="N",
        help="number of bootstrap resamples, 0 for no intervals (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=parse_whole(), default=0, metavar="S", help="random seed of the bootstrap (default: 0)"
    )
    parser.add_argument(
        "--errors", type=parse_whole(), default=8, metavar="N", help="number of the worst errors to show (default: 8)"
    )
    parser.add_argument(
        "--base-dir", type=Path, default=Path(), metavar="DIR", help="folder of relative image paths (default: here)"
    )


def report_predictions(args: argparse.Namespace) -> None:
    """Write the report and print each run's accuracy."""
    from monai_jsma.report import Settings, read_runs, write_report

    settings = Settings(by=args.by, ordered=args.ordered, resamples=args.resamples, seed=args.seed, errors=args.errors)
    runs = read_runs(args.predictions)
    content = write_report(runs, args.output, settings, base_dir=args.base_dir)
    for run in content["runs"]:
        size = f"{run['regions']} regions of {run['groups']} groups"
        print(f"{run['name']}: {size}, {_format_accuracy(run['scored'])}")
    print(args.output / "report.html")


def _format_accuracy(scored: Mapping[str, Any] | None) -> str:
    if scored is None:
        return "none has a label"
    accuracy = scored["scores"]["accuracy"]
    text = f"accuracy {accuracy['value']:.3f}"
    if accuracy["low"] is not None:
        text += f" [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
    return text
