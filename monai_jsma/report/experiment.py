# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Results of an experiment with several variants, seeds and folds: a table of all runs, and tables of the variants.

All figures are taken from what the runs wrote, also the numbers of patches. The page
(:func:`~monai_jsma.report.write.write_report`) compares the variants for the first seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma._io import format_csv, format_table, write_whole
from monai_jsma.predictions.patch_counts import read_patch_counts
from monai_jsma.predictions.records import PredictionRecord, read_records
from monai_jsma.report.attention_shares import AttentionShares
from monai_jsma.report.cases import Run, join_run, make_cases
from monai_jsma.report.claims import count_effective_cells
from monai_jsma.report.comparison import RunScores, Settings, average_repeats
from monai_jsma.report.scores import compute_scores
from monai_jsma.report.write import write_report
from monai_jsma.tasks import ORDINAL

__all__ = ["RunFiles", "write_experiment"]

Table = list[list[str]]  # the header, then a row for each variant

_SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "kappa": "kappa",
    "mae": "MAE",
    "auc_micro": "AUC",
    "auc_macro": "AUC, macro",
    "ap_micro": "AP",
    "aurc": "AURC",
}
_OF_GRADES = ("kappa", "mae")  # shown where the classes are grades
_WITH_INTERVAL = ("accuracy", "auc_micro", "auc_macro")
_OF_RUNS = ("accuracy", "auc_micro", "auc_macro")  # also averaged over single runs
_UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run has written; its records are read once.

    Args:
        predictions: records of its test.
        patches: table of the patches that its training used; None if unknown.
        certified: records of its test with certified stopping; None if it was not tested so.
    """

    predictions: Path
    patches: Path | None = None
    certified: Path | None = None

    @cached_property
    def records(self) -> tuple[PredictionRecord, ...]:
        """Records of its test."""
        return tuple(read_records(self.predictions))


Runs = Mapping[tuple[str, int, int], RunFiles]  # by variant, seed and fold


def write_experiment(runs: Runs, folder: Path, settings: Settings | None = None) -> list[str]:
    """Write ``runs.csv``, ``variants.json``, ``tables.md`` and the page in ``report``.

    Args:
        runs: files of each run by variant, seed and fold; the folds of a seed are one set of predictions.
        folder: folder to write to.
        settings: evaluation settings.

    Returns:
        Lines to print: the tables of the variants, and the path of the page.
    """
    settings = settings or Settings()
    write_whole(folder / "runs.csv", _tabulate_runs(runs))

    seeds = sorted({seed for _, seed, _ in runs})
    variants: dict[str, Any] = {}
    first_runs = []
    for variant in dict.fromkeys(name for name, _, _ in runs):
        own = {key: files for key, files in runs.items() if key[0] == variant}
        own_records = [files.records for files in own.values()]
        repeats = [_join_folds(own, variant, seed) for seed in seeds]
        if all(run.task == ORDINAL for run in repeats):
            settings = replace(settings, ordered=True)
        first_runs.append(repeats[0])
        variants[variant] = {
            "scores": _score_repeats(repeats, settings),
            "runs": _score_runs(own_records),
            "patches": _average_patches(own, own_records),
            "certified": _average_certified(own),
            "attention": _average_attention(repeats),
        }

    num_folds = len({fold for _, _, fold in runs})
    content = {"seeds": seeds, "folds": num_folds, "variants": variants}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_whole(folder / "variants.json", text + "\n")
    tables = [_tabulate_scores(variants), _tabulate_patches(variants)]
    legend = _explain(len(seeds), num_folds)
    write_whole(folder / "tables.md", _format_markdown(tables, legend))
    write_report(first_runs, folder / "report", settings)

    lines = []
    for table in tables:
        lines += [*format_table(table, align="left"), ""]
    return [*lines, *legend, str(folder / "report" / "report.html")]


def _join_folds(runs: Runs, variant: str, seed: int) -> Run:
    folds = []
    for (name, seed_of_run, _), files in runs.items():
        if (name, seed_of_run) == (variant, seed):
            folds.append((str(files.predictions), files.records))
    return join_run(variant, folds)


def _tabulate_runs(runs: Runs) -> str:
    """One row for each run: numbers of regions, groups, labelled regions and correct predictions."""
    rows = []
    for (variant, seed, fold), files in runs.items():
        records = files.records
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


# -------------------------------------------------------------------------------------------------------------- numbers


def _score_repeats(repeats: Sequence[Run], settings: Settings) -> dict[str, dict[str, Any]]:
    """Scores of all folds together, averaged over the seeds."""
    scores = []
    for run in repeats:
        cases = make_cases(run.records, settings.by)
        if cases is not None:
            scores.append(RunScores(cases, settings))
    return average_repeats(scores) if scores else {}


def _score_runs(records_of_run: Sequence[Sequence[PredictionRecord]]) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over single runs, each of one seed and one fold.

    A score that is undefined in a run, as the AUC of a fold with one class, is None among the values, and left out.
    """
    values: dict[str, list[float | None]] = {name: [] for name in _OF_RUNS}
    for records in records_of_run:
        cases = make_cases(records)
        if cases is None:
            return {}
        scores = compute_scores(cases.labels, cases.probabilities, thresholds=cases.thresholds)
        for name in _OF_RUNS:
            value = float(scores[name])
            values[name].append(value if np.isfinite(value) else None)

    averages = {}
    for name, of_runs in values.items():
        defined = [value for value in of_runs if value is not None]
        averages[name] = {
            "mean": float(np.mean(defined)) if defined else None,
            "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
            "values": of_runs,
        }
    return averages


def _average_patches(runs: Runs, records_of_run: Sequence[Sequence[PredictionRecord]]) -> dict[str, float | None]:
    """Mean numbers for an image: patches of a training epoch, patches read in the test, cells the attention is over."""
    records = [record for records in records_of_run for record in records]
    num_cells = [record.geometry.num_cells for record in records]
    return {
        "training": _average_training(runs),
        "inference": float(np.mean([record.patches_read for record in records])),
        "cells": float(np.mean(num_cells)),
        "attended_cells": float(np.mean([count_effective_cells(record) for record in records])),
    }


def _average_training(runs: Runs) -> float | None:
    num_images = 0
    num_patches = 0
    for files in runs.values():
        if files.patches is None or not files.patches.is_file():
            return None
        for count in read_patch_counts(files.patches):
            num_images += count.images
            num_patches += count.patches
    return num_patches / num_images if num_images else None


def _average_certified(runs: Runs) -> dict[str, float | None] | None:
    """How certain the labels of a test are, from the test of the same networks with certified stopping.

    Returns:
        ``share`` of the images whose label was certain after as many patches as the test had read, ``patches`` until
        it was certain, and ``agreement``: the share of the certified images whose label in the test is the certified
        one, that of all patches. None if a run was not tested so.
    """
    within = []
    agrees = []
    patches = []
    for files in runs.values():
        if files.certified is None or not files.certified.is_file():
            return None
        tested = {record.key: record for record in files.records}
        for record in read_records(files.certified):
            usual = tested[record.key]
            patches.append(record.patches_read)
            within.append(bool(record.certified) and record.patches_read <= usual.patches_read)
            if record.certified:
                agrees.append(record.prediction == usual.prediction)
    return {
        "share": float(np.mean(within)),
        "patches": float(np.mean(patches)),
        "agreement": float(np.mean(agrees)) if agrees else None,
    }


def _average_attention(repeats: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Share of each magnification and its enrichment, over all regions of all repeats."""
    records = [record for run in repeats for record in run.records]
    shares = AttentionShares(records, [record.prediction for record in records])
    means = shares.average(np.arange(len(records)))

    attention = {}
    for index, name in enumerate(shares.names):
        attention[name] = {
            "share": float(means["share"][index]),
            "enrichment": float(means["enrichment"][index]),
        }
    return attention


# --------------------------------------------------------------------------------------------------------------- tables


def _tabulate_scores(variants: Mapping[str, Any]) -> Table:
    are_grades = any("kappa" in content["scores"] for content in variants.values())
    shown = {name: title for name, title in _SCORES.items() if are_grades or name not in _OF_GRADES}
    table = [["", *shown.values(), "accuracy of a run", "AUC, macro, of a run"]]
    for variant, content in variants.items():
        row = [variant]
        for name in shown:
            row.append(_format_score(content["scores"].get(name), full=name in _WITH_INTERVAL))
        for name in ("accuracy", "auc_macro"):
            row.append(_format_mean(content["runs"].get(name)))
        table.append(row)
    return table


def _tabulate_patches(variants: Mapping[str, Any]) -> Table:
    table = [
        [
            "",
            "patches in training",
            "in the test",
            "cells",
            "attention over",
            "certain",
            "after",
            "label of all patches",
            "attention (times its share of the cells)",
        ]
    ]
    for variant, content in variants.items():
        patches = content["patches"]
        certified = content["certified"] or {}
        shares = []
        for name, attention in content["attention"].items():
            shares.append(f"{name} {attention['share']:.0%} ({attention['enrichment']:.2f})")
        row = [
            variant,
            _format_number(patches["training"]),
            _format_number(patches["inference"]),
            _format_number(patches["cells"]),
            _format_number(patches["attended_cells"]),
            _format_share(certified.get("share")),
            _format_number(certified.get("patches")),
            _format_share(certified.get("agreement")),
            ", ".join(shares),
        ]
        table.append(row)
    return table


def _explain(num_seeds: int, num_folds: int) -> list[str]:
    """What the columns of the tables are."""
    spread = f"; +- is the standard deviation over {num_seeds} seeds" if num_seeds > 1 else ""
    lines = [f"[low, high]: 95 % interval over groups, all folds together{spread}."]
    lines.append(
        "AURC: error rate with the least certain left out, over all coverages; in a random order 1 - accuracy."
    )
    num_runs = num_seeds * num_folds
    if num_runs > 1:
        lines.append(
            f"Of a run: mean +- standard deviation over {num_runs} runs ({num_seeds} seeds x {num_folds} folds)."
        )
    lines.append(
        "Patches are means for one image: of a training epoch (a patch that was drawn twice counts once), and of the "
        "test; attention over: exp of its entropy."
    )
    lines.append(
        "Certain: labels that no further patch could have changed, after how many patches all were, and how often the "
        "label of the test was that of all patches (--certify)."
    )
    return lines


def _format_markdown(tables: Sequence[Table], legend: Sequence[str]) -> str:
    lines = []
    for header, *rows in tables:
        lines.append(f"| {' | '.join(header)} |")
        lines.append("|---" * len(header) + "|")
        for row in rows:
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join([*lines, *legend]) + "\n"


def _format_score(score: Mapping[str, Any] | None, *, full: bool) -> str:
    if score is None or score["value"] is None:
        return "undefined"
    text = f"{score['value']:.3f}"
    if not full:
        return text
    if score["sd"] is not None:
        text += f" +- {score['sd']:.3f}"
    if score["low"] is not None:
        text += f" [{score['low']:.3f}, {score['high']:.3f}]"
    return text


def _format_mean(average: Mapping[str, Any] | None) -> str:
    if average is None or average["mean"] is None:
        return "undefined"
    text = f"{average['mean']:.3f}"
    if average["sd"] is not None:
        text += f" +- {average['sd']:.3f}"
    num_undefined = average["values"].count(None)
    if num_undefined:
        text += f" ({num_undefined} of {len(average['values'])} undefined)"
    return text


def _format_number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1f}"


def _format_share(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.0%}"
