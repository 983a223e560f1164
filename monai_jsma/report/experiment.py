# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Results of an experiment with several variants, seeds and folds: a table of all runs, and one of the variants.

The page (:func:`~monai_jsma.report.write.write_report`) compares the variants for the first seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import format_csv, format_table, write_whole
from monai_jsma.predictions.records import read_records
from monai_jsma.report.attention_shares import AttentionShares
from monai_jsma.report.cases import Run, make_cases, read_runs
from monai_jsma.report.comparison import RunScores, Settings, average_repeats
from monai_jsma.report.write import write_report

__all__ = ["write_experiment"]

Predictions = Mapping[tuple[str, int, int], Path]  # by variant, seed and fold
_COLUMNS = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "auc_micro": "AUC", "ap_micro": "AP"}


def write_experiment(predictions: Predictions, folder: Path, settings: Settings | None = None) -> list[str]:
    """Write ``runs.csv``, ``variants.json`` and the page in ``report``.

    Args:
        predictions: files of records by variant, seed and fold; the folds of a seed are one run.
        folder: folder to write to.
        settings: evaluation settings.

    Returns:
        Lines to print: a table of the variants, and the path of the page.
    """
    settings = settings or Settings()
    write_whole(folder / "runs.csv", _tabulate_runs(predictions))

    seeds = sorted({seed for _, seed, _ in predictions})
    variants: dict[str, Any] = {}
    first_runs = []
    for variant in dict.fromkeys(name for name, _, _ in predictions):
        repeats = [_join_folds(predictions, variant, seed) for seed in seeds]
        first_runs.append(repeats[0])
        variants[variant] = {
            "scores": _score_repeats(repeats, settings),
            "attention": _average_attention(repeats),
        }

    content = {"seeds": seeds, "variants": variants}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_whole(folder / "variants.json", text + "\n")
    write_report(first_runs, folder / "report", settings)
    return [*_format_variants(variants, len(seeds)), str(folder / "report" / "report.html")]


def _join_folds(predictions: Predictions, variant: str, seed: int) -> Run:
    arguments = []
    for (name, seed_of_run, _), path in predictions.items():
        if (name, seed_of_run) == (variant, seed):
            arguments.append(f"{variant}={path}")
    return read_runs(arguments)[0]


def _tabulate_runs(predictions: Predictions) -> str:
    """One row for each run: numbers of regions, groups, labelled regions and correct predictions."""
    rows = []
    for (variant, seed, fold), path in predictions.items():
        records = read_records(path)
        groups = {record.group for record in records}
        labelled = [record for record in records if record.label is not None]
        num_right = sum(record.prediction == record.label for record in labelled)
        row = (
            variant,
            seed,
            fold,
            len(records),
            len(groups),
            len(labelled),
            num_right,
        )
        rows.append(row)
    return format_csv(("variant", "seed", "fold", "regions", "groups", "labelled", "right"), rows)


def _score_repeats(repeats: Sequence[Run], settings: Settings) -> dict[str, dict[str, Any]]:
    scores = []
    for run in repeats:
        cases = make_cases(run.records, settings.by)
        if cases is not None:
            scores.append(RunScores(cases, settings))
    return average_repeats(scores) if scores else {}


def _average_attention(repeats: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Share of each magnification and its enrichment, over all regions of all repeats."""
    records = [record for run in repeats for record in run.records]
    predictions = np.array([record.prediction for record in records])
    shares = AttentionShares(records, predictions)
    means = shares.average(np.arange(len(records)))

    attention = {}
    for index, name in enumerate(shares.names):
        attention[name] = {
            "share": float(means["share"][index]),
            "enrichment": float(means["enrichment"][index]),
        }
    return attention


def _format_variants(variants: Mapping[str, Any], num_seeds: int) -> list[str]:
    rows = [["", *_COLUMNS.values(), "attention (times its share of the cells)"]]
    for variant, content in variants.items():
        row = [variant]
        for name in _COLUMNS:
            score = content["scores"].get(name)
            row.append(_format_score(score, with_spread=name == "accuracy"))

        shares = []
        for name, attention in content["attention"].items():
            share = f"{attention['share']:.0%}"
            enrichment = f"{attention['enrichment']:.2f}"
            shares.append(f"{name} {share} ({enrichment})")
        row.append(", ".join(shares))
        rows.append(row)

    spread = f", +- is the standard deviation over {num_seeds} seeds" if num_seeds > 1 else ""
    return [*format_table(rows, align="left"), f"[low, high]: 95 % interval over groups{spread}"]


def _format_score(score: Mapping[str, Any] | None, *, with_spread: bool) -> str:
    if score is None or score["value"] is None:
        return "undefined"
    text = f"{score['value']:.3f}"
    if not with_spread:
        return text
    if score["sd"] is not None:
        text += f" +- {score['sd']:.3f}"
    if score["low"] is not None:
        text += f" [{score['low']:.3f}, {score['high']:.3f}]"
    return text
