# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What an experiment of several variants, seeds and folds shows: a table of every run, and one of the variants.

The page (:func:`~monai_jsma.report.write_report`) compares the variants for the first seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import csv_text, write_whole
from monai_jsma.predictions.records import read_records
from monai_jsma.report.attention import AttentionShares
from monai_jsma.report.repeats import over_repeats
from monai_jsma.report.runs import Run, read_runs
from monai_jsma.report.scored import Scored, Settings
from monai_jsma.report.units import make_units
from monai_jsma.report.write import write_report

__all__ = ["write_experiment"]

Predictions = Mapping[tuple[str, int, int], Path]  # by variant, seed and fold
_SHOWN = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "auc_micro": "AUC", "ap_micro": "AP"}


def write_experiment(predictions: Predictions, folder: Path, settings: Settings | None = None) -> list[str]:
    """Write ``runs.csv``, ``variants.json`` and the page in ``report``.

    Args:
        predictions: files of records by variant, seed and fold; the folds of a seed make one run.
        folder: where to.
        settings: how they are evaluated.

    Returns:
        the lines to print: a table of the variants, and the path of the page.
    """
    settings = settings or Settings()
    seeds = sorted({seed for _, seed, _ in predictions})
    write_whole(folder / "runs.csv", _table_of_runs(predictions))
    found: dict[str, Any] = {}
    first: list[Run] = []
    for variant in dict.fromkeys(name for name, _, _ in predictions):
        repeats = [_joined(predictions, variant, seed) for seed in seeds]
        first.append(repeats[0])
        units = [make_units(run.records, settings.by) for run in repeats]
        scored = [Scored(one, settings) for one in units if one is not None]
        found[variant] = {"scores": over_repeats(scored) if scored else {}, "attention": _attention(repeats)}
    content = {"seeds": seeds, "variants": found}
    write_whole(folder / "variants.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_report(first, folder / "report", settings)
    return [*_lines(found, len(seeds)), str(folder / "report" / "report.html")]


def _joined(predictions: Predictions, variant: str, seed: int) -> Run:
    files = [path for key, path in predictions.items() if key[:2] == (variant, seed)]
    return read_runs([f"{variant}={path}" for path in files])[0]


def _table_of_runs(predictions: Predictions) -> str:
    rows = []
    for (variant, seed, fold), path in predictions.items():
        records = read_records(path)
        labelled = [record for record in records if record.label is not None]
        right = sum(record.prediction == record.label for record in labelled)
        groups = len({record.group for record in records})
        rows.append((variant, seed, fold, len(records), groups, len(labelled), right))
    return csv_text(("variant", "seed", "fold", "regions", "groups", "labelled", "right"), rows)


def _attention(repeats: list[Run]) -> dict[str, dict[str, float]]:
    """Share of each magnification and its enrichment: of all pictures of all repeats."""
    records = [record for run in repeats for record in run.records]
    shares = AttentionShares(records, np.array([record.prediction for record in records]))
    found = shares(np.arange(len(records)))
    both = zip(shares.names, found["share"].tolist(), found["enrichment"].tolist(), strict=True)
    return {name: {"share": share, "enrichment": enrichment} for name, share, enrichment in both}


def _lines(found: Mapping[str, Any], seeds: int) -> list[str]:
    rows = [["", *_SHOWN.values(), "attention (times its share of the cells)"]]
    for variant, content in found.items():
        cells = [_shown(content["scores"].get(name), with_spread=name == "accuracy") for name in _SHOWN]
        shares = [f"{n} {a['share']:.0%} ({a['enrichment']:.2f})" for n, a in content["attention"].items()]
        rows.append([variant, *cells, ", ".join(shares)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    spread = f", +- is the standard deviation over {seeds} seeds" if seeds > 1 else ""
    return [*lines, f"[low, high]: 95 % interval over groups{spread}"]


def _shown(score: Mapping[str, Any] | None, *, with_spread: bool) -> str:
    if score is None or score["value"] is None:
        return "undefined"
    text = f"{score['value']:.3f}"
    if with_spread:
        text += "" if score["sd"] is None else f" +- {score['sd']:.3f}"
        text += "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
    return text
