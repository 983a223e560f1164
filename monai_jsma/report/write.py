# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A report's folder: the page, all numbers, every figure as PNG and SVG, and pictures of the worst errors.

Equal predictions give equal bytes: no file holds a date.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from monai_jsma._io import write_whole
from monai_jsma.report.errors import error_picture
from monai_jsma.report.evaluate import evaluate
from monai_jsma.report.gallery import comparison_figures, run_figures, stems
from monai_jsma.report.page import render_page
from monai_jsma.report.runs import Run
from monai_jsma.report.scored import Settings

__all__ = ["write_report"]

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "monai_jsma",
    "text.parse_math": False,
    "font.size": 10,
}  # "$a$" may be a class
_DPI = 150


def write_report(
    runs: Sequence[Run], folder: Path, settings: Settings | None = None, base_dir: Path = Path()
) -> dict[str, Any]:
    """Write ``report.html``, ``report.json`` and the pictures.

    Args:
        runs: see :func:`~monai_jsma.report.runs.read_runs`.
        folder: where to, made if missing; files of the same names are replaced.
        settings: how the runs are evaluated.
        base_dir: where relative paths of the records begin.

    Returns:
        All numbers.
    """
    content = evaluate(runs, settings)
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    with rc_context(_STYLE):
        for name, figure in comparison_figures(content["runs"]):
            images[name] = _save_figure(figure, folder, name)
        for run, numbers, stem in zip(runs, content["runs"], stems([run.name for run in runs]), strict=True):
            numbers["figures"] = {}
            for name, figure in run_figures(numbers, run.classes):
                numbers["figures"][name] = stem + name
                images[stem + name] = _save_figure(figure, folder, stem + name)
            images.update(_save_errors(run, numbers["errors"], folder, f"{stem}error_", base_dir))
    write_whole(folder / "report.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(folder / "report.html", render_page(content, images))
    return content


def _save_figure(figure: Figure, folder: Path, stem: str) -> str:
    """Write a figure as PNG and SVG, and return the SVG as data URI."""
    figure.savefig(folder / f"{stem}.png", dpi=_DPI)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    (folder / f"{stem}.svg").write_bytes(buffer.getvalue())
    return _data_uri("svg+xml", buffer.getvalue())


def _save_errors(run: Run, errors: list[dict[str, Any]], folder: Path, stem: str, base_dir: Path) -> dict[str, str]:
    """Write the pictures of the errors; each error learns the name of its ``picture``, or the ``reason`` for none."""
    records, images = {record.key: record for record in run.records}, {}
    for i, error in enumerate(errors, start=1):
        record = records[error["file"], tuple(error["location"]), tuple(error["size"])]
        found = error_picture(record, base_dir)
        if isinstance(found, str):
            error.update(picture=None, reason=found)
            continue
        buffer = io.BytesIO()
        Image.fromarray(found).save(buffer, format="png")
        error.update(picture=f"{stem}{i}", reason="")
        (folder / f"{stem}{i}.png").write_bytes(buffer.getvalue())
        images[f"{stem}{i}"] = _data_uri("png", buffer.getvalue())
    return images


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
