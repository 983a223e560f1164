# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How well predictions meet an answer that is known: the class, the magnification and the cell that tell it.

A measure is one number of a run, or None where it has no meaning; :func:`tables` puts those of several seeds together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_jsma.geometry import GridCell
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["FIRST", "measure", "over_seeds", "tables"]

FIRST = 4  # cells of highest attention, one of which should be a true one
DETAILS = (
    "attention at the true magnification (times its share of the cells)", "highest there", "attention on true cells",
    f"true cell among the first {FIRST}", "patches read until certain", "certain", "of these as all patches",
    "patches encoded in training, of a picture and epoch", "processor time of training, times the paper's",
)  # fmt: skip
COSTS = ("patches read", "patches", "seconds")  # of which less is better
Records = Sequence[PredictionRecord]
Numbers = Mapping[str, float]


def measure(records: Mapping[int | str, Records], datalist: Mapping[str, Any]) -> dict[str, float | None]:
    """The measures of a run.

    Args:
        records: of the pictures of ``test``, by the number of patches asked for; ``"all"`` is one of them.
        datalist: its ``magnifications``; of each picture the true ``level``, and the true ``cell`` among those of all
            magnifications.
    """
    truth = {item["image"]: item for item in datalist["test"]}  # such as test/0000.png
    pairs = [(record, truth["/".join(Path(record.file).parts[-2:])]) for record in records["all"]]
    right = {f"accuracy {k}": _mean(r.prediction == r.label for r in found) for k, found in records.items()}
    return right | _attention(pairs, datalist["magnifications"]) | _certified(records)


def _attention(
    pairs: Sequence[tuple[PredictionRecord, Mapping[str, Any]]], magnifications: Sequence[float]
) -> dict[str, float | None]:
    """Where the attention goes; nothing where it is the same everywhere, or for one magnification only."""
    names = ("share", "enrichment", "magnification right", "cell share", f"cell among {FIRST}")
    found: list[tuple[float | None, ...]] = []
    for record, item in pairs:
        attention, geometry = np.array(record.attention), record.geometry
        true = _true_cells(record, item, magnifications)
        if np.ptp(attention) < 1e-6 or not true:
            return dict.fromkeys(names)
        first = np.argsort(-attention, kind="stable")[:FIRST]
        level = geometry.cell(int(first[0])).level
        one = len(geometry.names) == 1
        share, prior = record.shares[item["level"]], record.prior_shares[item["level"]]
        where = (None,) * 3 if one else (share, prior, float(geometry.names[level] == item["level"]))
        found.append((*where, attention[true].sum(), float(np.isin(first, true).any())))
    means = [None if None in column else float(np.mean(column)) for column in zip(*found)]
    if means[0] is not None and means[1] is not None:
        means[1] = means[0] / means[1]  # of the mean share over the mean prior, as everywhere
    return dict(zip(names, means, strict=True))


def _true_cells(record: PredictionRecord, item: Mapping[str, Any], magnifications: Sequence[float]) -> list[int]:
    """The true cells among those of a record, which may lack their magnification."""
    geometry, whole = record.geometry, replace(record.geometry, magnifications=magnifications)
    if item["level"] not in geometry.names:
        return []
    level = geometry.names.index(item["level"])
    return [geometry.index(GridCell(level, *whole.cell(int(cell))[1:])) for cell in np.ravel(item["cell"])]


def _certified(records: Mapping[int | str, Records]) -> dict[str, float | None]:
    """What certified stopping read, and whether its certain labels are those of all patches: 1 is a theorem."""
    if "certified" not in records:
        return dict.fromkeys(("patches read", "certified", "agreement"))
    found, everything = records["certified"], {record.key: record.prediction for record in records["all"]}
    certain = [record for record in found if record.certified]
    return {
        "patches read": _mean(record.patches_read for record in found),
        "certified": len(certain) / len(found),
        "agreement": _mean(r.prediction == everything[r.key] for r in certain) if certain else None,
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the accuracies of each variant, then where its attention goes and what it costs.

    Args:
        runs: measures, each with its ``variant`` and ``seed``, ``seconds`` and ``patches``.
    """
    runs = sorted(runs, key=lambda run: run["variant"] not in ("defaults", "paper"))
    variants = {run["variant"]: [other for other in runs if other["variant"] == run["variant"]] for run in runs}
    found = {name: over_seeds(same) for name, same in variants.items()}
    budgets = list(dict.fromkeys(key for run in runs for key in run if key.startswith("accuracy")))
    head = ["variant", "seeds", *(key.replace(" ", ", ") for key in budgets)]
    accuracy = {name: [_shown(over.get(key)) for key in budgets] for name, over in found.items()}
    first = [[name, str(len(variants[name])), *accuracy[name]] for name in found]
    slow = found.get("paper", {}).get("seconds")
    second = [[name, *_details(over, slow)] for name, over in found.items()]
    return f"{_markdown([head, *first])}\n{_markdown([['variant', *DETAILS], *second])}"


def _details(numbers: Mapping[str, Numbers | None], slow: Numbers | None) -> list[str]:
    share, times = numbers["share"], numbers["enrichment"]
    attention = "" if share is None or times is None else f"{share['mean']:.3f} ({times['mean']:.2f})"
    names = ("magnification right", "cell share", f"cell among {FIRST}", "patches read", "certified", "agreement")
    seconds = numbers["seconds"]
    cost = "" if slow is None or seconds is None else f"{seconds['mean'] / slow['mean']:.2f}"
    encoded = numbers["patches"]
    return [attention, *(_shown(numbers[name]) for name in names), f"{encoded['mean']:.1f}" if encoded else "", cost]


def _shown(numbers: Numbers | None) -> str:
    """The mean, and the worst if the seeds differ."""
    if numbers is None:
        return ""
    mean, worst = f"{numbers['mean']:.3f}", f"{numbers['worst']:.3f}"
    return mean if mean == worst else f"{mean} ({worst})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Numbers | None]:
    """Mean and worst of each measure over the seeds of a variant; None where one of them has none."""
    found: dict[str, Numbers | None] = {}
    for name in runs[0].keys() - {"variant", "seed"}:
        values = [value for run in runs if (value := run[name]) is not None]
        worst = max if name in COSTS else min
        found[name] = {"mean": float(np.mean(values)), "worst": worst(values)} if len(values) == len(runs) else None
    return found
