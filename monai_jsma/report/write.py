# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A report's folder: the page, all numbers, every figure as PNG and SVG, and images of the worst errors.

Equal predictions give equal bytes: no file holds a date.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from monai_jsma._io import write_whole
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.report import figures
from monai_jsma.report.cases import Run
from monai_jsma.report.comparison import Settings
from monai_jsma.report.evaluate import evaluate
from monai_jsma.report.figures import Curve
from monai_jsma.report.page import render_page
from monai_jsma.report.per_slide import format_rows
from monai_jsma.report.scores import SCORES
from monai_jsma.report.selective import ORDERS
from monai_jsma.slides.errors import SlideError
from monai_jsma.visualize import record_boxes_image, save_figure

__all__ = ["write_report"]

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "monai_jsma",
    "text.parse_math": False,  # "$a$" may be a class
    "font.size": 10,
}
_DPI = 150
_COMPARED = ("accuracy", "balanced_accuracy", "auc_micro", "ap_micro")  # the paper's, and one for unequal classes


def write_report(
    runs: Sequence[Run], folder: Path, settings: Settings | None = None, *, base_dir: Path = Path()
) -> dict[str, Any]:
    """Write ``report.html``, ``report.json`` and all images.

    Args:
        runs: runs of the report, see :func:`~monai_jsma.report.cases.read_runs`.
        folder: folder to write to, created if missing; files with the same names are replaced.
        settings: evaluation settings.
        base_dir: folder that relative paths of the records start at.

    Returns:
        All numbers of the report.
    """
    content = evaluate(runs, settings)
    folder.mkdir(parents=True, exist_ok=True)

    images = {}  # data URI by stem
    prefixes = _name_prefixes(runs)
    with rc_context(_STYLE):
        for name, figure in _draw_comparison_figures(content["runs"]):
            images[name] = _save_figure(figure, folder, name)

        for run, numbers, prefix in zip(runs, content["runs"], prefixes, strict=True):
            numbers["csv_files"] = _write_rows(folder, numbers, prefix=prefix, classes=run.classes)
            numbers["figures"] = {}
            for name, figure in _draw_run_figures(numbers, run.classes):
                stem = prefix + name
                numbers["figures"][name] = stem
                images[stem] = _save_figure(figure, folder, stem)

            for number, error in enumerate(numbers["errors"], start=1):
                record = _find_record(run, error)
                stem = f"{prefix}error_{number}"
                png = _draw_error(error, record, base_dir)
                if png is None:
                    continue
                write_whole(folder / f"{stem}.png", png)
                error["picture"] = stem
                images[stem] = _make_data_uri("png", png)

    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "report.json", text + "\n")
    write_whole(folder / "report.html", render_page(content, images))
    return content


def _write_rows(folder: Path, numbers: Mapping[str, Any], *, prefix: str, classes: Sequence[str]) -> list[str]:
    """Write the rows of slides and of patients, and return the names of the files."""
    names = []
    for kind in ("slides", "patients"):
        if numbers[kind]:
            names.append(f"{prefix}report_{kind}.csv")
            write_whole(folder / names[-1], format_rows(numbers[kind], classes))
    return names


def _find_record(run: Run, error: Mapping[str, Any]) -> PredictionRecord:
    """The record of the region that an error of the report shows."""
    location = tuple(error["location"])
    size = tuple(error["size"])
    key = (error["file"], location, size)
    return next(record for record in run.records if record.key == key)


def _name_prefixes(runs: Sequence[Run]) -> list[str]:
    """What the names of each run's files start with: its name as a file may be called; nothing if there is one run."""
    if len(runs) == 1:
        return [""]
    names = [re.sub(r"[^A-Za-z0-9.+-]+", "_", run.name) for run in runs]
    prefixes = []
    for number, name in enumerate(names, start=1):
        unique = names.count(name) == 1
        prefixes.append(f"{name}_" if unique else f"{name}_{number}_")
    return prefixes


def _draw_run_figures(run: Mapping[str, Any], classes: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Name and figure of everything that one run of the report shows."""
    if run["zoom"] is None:
        yield "attention", figures.draw_attention_shares(run["attention"], classes)
    scored = run["scored"]
    if scored is None:
        return

    roc_curves = _list_class_curves(scored, "auc", classes)
    yield "roc", figures.draw_curves("auc", roc_curves)
    precision_recall_curves = _list_class_curves(scored, "ap", classes)
    yield "precision_recall", figures.draw_curves("ap", precision_recall_curves)
    if scored["confusion"] is not None:  # not of multi-label
        yield "confusion", figures.draw_confusion(scored["confusion"], classes)
        yield "calibration", figures.draw_calibration(scored["reliability"])

    selective = scored["selective"]
    curves: list[Curve] = []
    references: list[Curve] = []
    for name, numbers in selective["orders"].items():
        curve = Curve(ORDERS[name], selective["curves"][name], numbers["aurc"])
        target = references if name in ("perfect", "random") else curves
        target.append(curve)
    yield "risk_coverage", figures.draw_risk_curves(curves, references)


def _list_class_curves(scored: Mapping[str, Any], area: str, classes: Sequence[str]) -> list[Curve]:
    """The micro-average and the curve of each class."""
    micro_area = scored["scores"][f"{area}_micro"]
    curves = [Curve("micro-average", scored["curves"]["micro"], micro_area)]
    class_points = scored["curves"]["classes"]
    class_areas = scored["classes"][area]
    for name, points, class_area in zip(classes, class_points, class_areas, strict=True):
        curves.append(Curve(name, points, class_area))
    return curves


def _draw_comparison_figures(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """Name and figure of what compares the scored runs."""
    scored_runs = [run for run in runs if run["scored"]]
    if len(runs) < 2 or not scored_runs:
        return

    titles = {info.key: info.title for info in SCORES if info.key in _COMPARED}
    yield "comparison", figures.draw_comparison(scored_runs, titles)
    roc_curves = []
    precision_recall_curves = []
    risk_curves = []
    for run in scored_runs:
        name = run["name"]
        scored = run["scored"]
        areas = scored["scores"]
        points = scored["curves"]["micro"]
        risk_points = scored["selective"]["curves"]["predictive_entropy"]
        roc_curves.append(Curve(name, points, areas["auc_micro"]))
        precision_recall_curves.append(Curve(name, points, areas["ap_micro"]))
        risk_curves.append(Curve(name, risk_points, areas["aurc"]))
    yield "comparison_roc", figures.draw_curves("auc", roc_curves)
    yield "comparison_precision_recall", figures.draw_curves("ap", precision_recall_curves)
    yield "comparison_risk_coverage", figures.draw_risk_curves(risk_curves)


def _save_figure(figure: Figure, folder: Path, stem: str) -> str:
    """Write a figure as PNG and SVG, and return the SVG as data URI."""
    save_figure(figure, folder / f"{stem}.png", dpi=_DPI)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    write_whole(folder / f"{stem}.svg", svg)
    return _make_data_uri("svg+xml", svg)


def _draw_error(error: dict[str, Any], record: PredictionRecord, base_dir: Path) -> bytes | None:
    """The image of an error as PNG; None if the region cannot be read, with the ``reason`` put into the error."""
    error["picture"] = None
    error["reason"] = ""
    try:
        image = record_boxes_image(record, base_dir)
    except (OSError, SlideError, ValueError) as exception:
        error["reason"] = " ".join(str(exception).split())
        return None

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()


def _make_data_uri(kind: str, content: bytes) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f"data:image/{kind};base64,{encoded}"
