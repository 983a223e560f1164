# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How well predictions meet a known answer: the class of an image, and the magnification and cells that show it.

A measure is one number of a run, or None where it is undefined; :func:`tables` combines those of several seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_jsma.geometry import GridCell, PatchGeometry
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["FIRST", "measure", "over_seeds", "tables"]

FIRST = 4  # number of cells of highest attention, one of which should be a true one
SHARES = ("share", "enrichment", "magnification right")  # undefined for networks of one magnification
CELLS = ("cell share", f"cell among {FIRST}")
CERTIFIED = ("patches read", "certified", "agreement")
COSTS = ("patches read", "patches", "seconds")  # of which less is better
HEADER = (
    "attention at the true magnification (times its share of the cells)", "highest there", "attention on true cells",
    f"true cell among the first {FIRST}", "patches read until certain", "certain", "of these as all patches",
    "patches encoded in training, per image and epoch", "processor time of training, times the paper's",
)  # fmt: skip
Records = Sequence[PredictionRecord]
Pairs = Sequence[tuple[PredictionRecord, Mapping[str, Any]]]  # a record and its item of the datalist


def measure(records: Mapping[int | str, Records], datalist: Mapping[str, Any]) -> dict[str, float | None]:
    """Compute the measures of a run.

    Args:
        records: records of the test split, by the number of patches that were read; ``"all"`` is one of them.
        datalist: datalist with its ``magnifications``, and for each image the true ``level`` and the true ``cell`` (or
            cells) among those of all magnifications.
    """
    found: dict[str, float | None] = {}
    for budget, answers in records.items():
        found[f"accuracy {budget}"] = _mean(record.prediction == record.label for record in answers)

    truth = {item["image"]: item for item in datalist["test"]}  # such as test/0000.png
    pairs = []
    for record in records["all"]:
        name = "/".join(Path(record.file).parts[-2:])
        pairs.append((record, truth[name]))

    found.update(_measure_attention(pairs, datalist["magnifications"]))
    found.update(_measure_certified(records))
    return found


def _measure_attention(pairs: Pairs, magnifications: Sequence[float]) -> dict[str, float | None]:
    """Where the attention goes; None where it is uniform, or where the true magnification is missing."""
    undefined: dict[str, float | None] = dict.fromkeys((*SHARES, *CELLS))
    rows: list[dict[str, float]] = []
    for record, item in pairs:
        cells = _find_true_cells(record, item, magnifications)
        is_uniform = np.ptp(record.attention) < 1e-6
        if is_uniform or not cells:
            return undefined
        rows.append(_measure_one(record, item["level"], cells))

    means = {name: _mean(row[name] for row in rows) for name in rows[0]}
    if "share" in means:
        means["enrichment"] = means["share"] / means.pop("prior")  # a ratio of means, as in the report
    return {**undefined, **means}


def _measure_one(record: PredictionRecord, level: str, cells: Sequence[int]) -> dict[str, float]:
    """Measures of one image.

    Args:
        record: record of the image.
        level: name of the true magnification.
        cells: flat indices of the true cells.
    """
    attention = np.array(record.attention)
    first = np.argsort(-attention, kind="stable")[:FIRST]
    row = {
        "cell share": float(attention[cells].sum()),
        f"cell among {FIRST}": float(np.isin(first, cells).any()),
    }

    names = record.geometry.names
    if len(names) > 1:
        highest = names[record.geometry.cell(int(first[0])).level]
        row["share"] = record.shares[level]
        row["prior"] = record.prior_shares[level]
        row["magnification right"] = float(highest == level)
    return row


def _find_true_cells(record: PredictionRecord, item: Mapping[str, Any], magnifications: Sequence[float]) -> list[int]:
    """Find the true cells among those of a record; none if the network lacks their magnification."""
    geometry: PatchGeometry = record.geometry
    if item["level"] not in geometry.names:
        return []

    whole = replace(geometry, magnifications=magnifications)  # the cells of all magnifications, as in the datalist
    level = geometry.names.index(item["level"])
    cells = []
    for index in np.ravel(item["cell"]):
        _, row, col = whole.cell(int(index))
        cells.append(geometry.index(GridCell(level, row, col)))
    return cells


def _measure_certified(records: Mapping[int | str, Records]) -> dict[str, float | None]:
    """What certified stopping read, and how often a certified label is that of all patches, which must be always."""
    if "certified" not in records:
        return dict.fromkeys(CERTIFIED)

    answers = records["certified"]
    certain = [record for record in answers if record.certified]
    of_all_patches = {record.key: record.prediction for record in records["all"]}
    agreement = None
    if certain:
        agreement = _mean(record.prediction == of_all_patches[record.key] for record in certain)
    return {
        "patches read": _mean(record.patches_read for record in answers),
        "certified": len(certain) / len(answers),
        "agreement": agreement,
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


# ---------------------------------------------------------------------------------------------------- tables over seeds


class Numbers(NamedTuple):
    """One measure over the seeds of a variant."""

    mean: float
    worst: float


def over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Numbers | None]:
    """Mean and worst of each measure over the seeds of a variant; None where a seed has none."""
    found: dict[str, Numbers | None] = {}
    for name in runs[0].keys() - {"variant", "seed"}:
        values = [run[name] for run in runs]
        if None in values:
            found[name] = None
            continue
        worst = max(values) if name in COSTS else min(values)
        found[name] = Numbers(_mean(values), worst)
    return found


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the accuracies of each variant, then where its attention goes and what it costs.

    Args:
        runs: measures, each with its ``variant`` and ``seed``, ``seconds`` and ``patches``.
    """
    variants: dict[str, list[Mapping[str, Any]]] = {"defaults": [], "paper": []}  # these two first
    for run in runs:
        variants.setdefault(run["variant"], []).append(run)
    variants = {name: same for name, same in variants.items() if same}

    accuracies: list[str] = []
    for same in variants.values():
        for run in same:
            accuracies += [name for name in run if name.startswith("accuracy") and name not in accuracies]

    numbers = {name: over_seeds(same) for name, same in variants.items()}
    columns = [name.replace(" ", ", ") for name in accuracies]
    first = [["variant", "seeds", *columns]]
    for name, measures in numbers.items():
        seeds = str(len(variants[name]))
        first.append([name, seeds, *_format_all(measures, accuracies)])

    paper = numbers.get("paper", {}).get("seconds")
    second = [["variant", *HEADER]]
    for name, measures in numbers.items():
        second.append([name, *_format_details(measures, paper)])
    return _markdown(first) + "\n" + _markdown(second)


def _format_details(measures: Mapping[str, Numbers | None], paper: Numbers | None) -> list[str]:
    """The cells of the second table after the variant; ``paper`` are the seconds of the paper's rule."""
    attention = ""
    share = measures["share"]
    times = measures["enrichment"]
    if share is not None and times is not None:
        attention = f"{share.mean:.3f} ({times.mean:.2f})"

    encoded = ""
    patches = measures["patches"]
    if patches is not None:
        encoded = f"{patches.mean:.1f}"

    cost = ""
    seconds = measures["seconds"]
    if paper is not None and seconds is not None:
        cost = f"{seconds.mean / paper.mean:.2f}"

    middle = _format_all(measures, ("magnification right", *CELLS, *CERTIFIED))
    return [attention, *middle, encoded, cost]


def _format_all(measures: Mapping[str, Numbers | None], names: Sequence[str]) -> list[str]:
    return [_format(measures.get(name)) for name in names]


def _format(numbers: Numbers | None) -> str:
    """The mean, and the worst if the seeds differ."""
    if numbers is None:
        return ""
    mean = f"{numbers.mean:.3f}"
    worst = f"{numbers.worst:.3f}"
    if mean == worst:
        return mean
    return f"{mean} ({worst})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for row in rows:
        lines.append("| " + " | ".join(row) + " |")
    rule = "|---" * len(rows[0]) + "|"
    lines.insert(1, rule)
    return "\n".join(lines) + "\n"
