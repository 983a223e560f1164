# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import logging
import warnings

import numpy as np
import pytest
import torch
from attention_cases import grey_pyramid, item, make_pyramid, output, show
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Accuracy
from monai.bundle import ConfigParser
from monai.data import decollate_batch
from monai.handlers import StatsHandler, TensorBoardStatsHandler
from monai.utils import is_scalar
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from monai_jsma.geometry import GridCell
from monai_jsma.metrics import AttentionOnTruth, AttentionShare, MeanAUC, PairClasses, PatchesRead, QuadraticKappa

FORMS = pytest.mark.parametrize("decollated", [True, False], ids=["decollated", "collated"])
LARGE, SMALL = (120, 200), (70, 90)  # 6 + 15 cells and 1 x 2 + 2 x 3


def row(pyramid, attention, cells=(0,), weights=(1.0,), **more):
    return item(pyramid, **more), output(pyramid, attention, cells, weights)


def measured(metric, rows, **options):
    """Metrics of an evaluation in batches of two."""
    batches = [rows[i : i + 2] for i in range(0, len(rows), 2)]
    return show(batches, lambda engine: metric.attach(engine, "m"), **options).state.metrics


@FORMS
def test_share_and_enrichment_are_means_over_ragged_pictures(decollated):
    rows = [
        row(grey_pyramid(LARGE), {0: 0.25, 5: 0.25, 6: 0.5}),  # 100X: 0.5 of 6/21
        row(grey_pyramid(SMALL), {1: 0.25, 2: 0.5, 7: 0.25}),  # 100X: 0.25 of 2/8
        row(grey_pyramid(LARGE), {20: 1.0}),  # 100X: 0 of 6/21
    ]
    found = measured(AttentionShare(), rows, decollated=decollated)
    share, prior = 0.75 / 3, (6 / 21 + 2 / 8 + 6 / 21) / 3
    assert found == pytest.approx(
        {
            "m_share_100X": share,
            "m_share_200X": 1 - share,
            "m_enrichment_100X": share / prior,
            "m_enrichment_200X": (1 - share) / (1 - prior),
        }
    )


def test_equal_attention_has_enrichment_one():
    pyramids = [grey_pyramid(size) for size in (LARGE, SMALL, (400, 90))]
    rows = [row(p, dict.fromkeys(range(p.geometry.num_cells), 1 / p.geometry.num_cells)) for p in pyramids]
    found = measured(AttentionShare(), rows)
    assert found["m_enrichment_100X"] == pytest.approx(1)
    assert found["m_enrichment_200X"] == pytest.approx(1)


def test_each_epoch_is_measured_anew():
    engine = Engine(lambda engine, batch: None)
    metric = AttentionShare()
    metric.attach(engine, "m")
    for attention, share in (({0: 1.0}, 1), ({20: 1.0}, 0)):
        data, made = row(grey_pyramid(LARGE), attention)
        engine._process_function = lambda engine, batch, data=data, made=made: (
            setattr(engine.state, "batch", [data]) or [made]
        )
        engine.run([0])
        assert engine.state.metrics["m_share_100X"] == share


def test_monai_logs_every_number_without_a_warning():
    written, log = [], io.StringIO()
    writer = type("Writer", (), {"add_scalar": lambda self, *a: written.append(a), "flush": lambda self: None})()

    def attach(engine):
        AttentionShare().attach(engine, "attention")
        StatsHandler(iteration_log=False, name="shares").attach(engine)
        TensorBoardStatsHandler(writer, iteration_log=False).attach(engine)

    logging.getLogger("shares").setLevel(logging.INFO)
    logging.getLogger("shares").addHandler(logging.StreamHandler(log))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = show([[row(grey_pyramid(LARGE), {0: 0.75, 20: 0.25})]], attach)
    assert all(is_scalar(value) for value in engine.state.metrics.values())
    assert ("attention_share_100X", 0.75, 1) in written
    assert ("attention_enrichment_200X", pytest.approx(0.25 * 21 / 15), 1) in written
    assert len(written) == 4
    assert "attention_share_100X: 0.7500" in log.getvalue()


@pytest.mark.parametrize("metric", [AttentionShare, AttentionOnTruth])
def test_evaluation_without_pictures_is_not_computable(metric):
    with pytest.raises(NotComputableError, match="datalist"):
        metric().compute()


def test_bundle_makes_the_metrics_from_their_paths():
    for name in ("AttentionShare", "AttentionOnTruth", "PatchesRead"):
        made = ConfigParser({"m": {"_target_": f"monai_jsma.metrics.{name}"}}).get_parsed_content("m")
        assert type(made).__name__ == name


@FORMS
@pytest.mark.parametrize("asked", [True, False])
def test_patches_read_and_certified(decollated, asked):
    rows = [
        row(grey_pyramid(LARGE), {7: 1.0}, (7, 7, 3), (0.25, 0.25, 0.5)),  # drawn twice, read once
        row(grey_pyramid(LARGE), {7: 1.0}, (7, 1, 0), (0.5, 0.5, 0.0)),  # the last one was not read
        row(grey_pyramid(LARGE), {7: 1.0}, (7, 0, 0), (1.0, 0.0, 0.0)),
    ]
    if asked:
        rows = [(data, {**made, "certified": torch.tensor(i < 2)}) for i, (data, made) in enumerate(rows)]
    found = measured(PatchesRead(), rows, decollated=decollated)
    assert found == pytest.approx({"m_read": 5 / 3, **({"m_certified": 2 / 3} if asked else {})})


# ------------------------------------------------------------------------------------------------- a known answer


@FORMS
def test_attention_on_the_true_cells(decollated):
    rows = [
        row(grey_pyramid(LARGE), {7: 0.5, 8: 0.25, 0: 0.25}, (8, 0), (0.5, 0.5), cell=[7, 8], level="200X"),
        row(grey_pyramid(LARGE), {1: 0.5, 9: 0.25, 0: 0.25}, (1, 9), (0.0, 1.0), cell=[1, 2], level="100X"),
        row(grey_pyramid(LARGE), {20: 1.0}, (20, 20), (0.5, 0.5), cell=[20, 20], level="200X"),
        row(grey_pyramid(LARGE), {20: 1.0}, (20, 20), (0.5, 0.5), cell=[0, 1], level="100X"),
    ]
    found = measured(AttentionOnTruth(), rows, decollated=decollated)
    assert found == pytest.approx(
        {
            "m_cell_attention": (0.75 + 0.5 + 1 + 0) / 4,
            "m_magnification_attention": (0.75 + 0.75 + 1 + 0) / 4,
            "m_cell_drawn": (1 + 0 + 1 + 0) / 4,  # in the second picture the true cell has weight 0: not drawn
        }
    )


def test_single_true_cell_may_be_a_number_or_a_tensor():
    rows = [
        row(grey_pyramid(LARGE), {7: 0.5, 8: 0.5}, cell=7, level="200X"),
        row(grey_pyramid(LARGE), {7: 0.5, 8: 0.5}, cell=torch.tensor([7]), level="200X"),
    ]
    assert measured(AttentionOnTruth(), rows)["m_cell_attention"] == 0.5


@pytest.mark.parametrize("orientation", range(8))
def test_truth_follows_a_turned_picture(orientation):
    rng = np.random.default_rng(orientation)
    stored = make_pyramid(rng.integers(0, 256, (*LARGE, 3), dtype=np.uint8))
    truth = stored.geometry.index(GridCell(1, 2, 1))
    turned = stored.oriented(orientation)
    (seen,) = [c for c in range(21) if turned.box(c) == stored.box(truth) and turned.geometry.cell(c).level == 1]
    thumbnail = (50, 30) if orientation & 4 else (30, 50)
    right = row(turned, {seen: 1.0}, (seen,), cell=[truth], level="200X", thumbnail=thumbnail)
    found = measured(AttentionOnTruth(), [right])
    assert found == {"m_cell_attention": 1, "m_magnification_attention": 1, "m_cell_drawn": 1}


def test_pictures_without_an_answer_are_left_out():
    known = row(grey_pyramid(LARGE), {7: 0.5, 8: 0.5}, cell=[7], level="200X")
    unknown = row(grey_pyramid(LARGE), {0: 1.0})
    assert measured(AttentionOnTruth(), [unknown, known])["m_cell_attention"] == 0.5
    with pytest.raises(NotComputableError, match="give 'cell' and 'level'"):
        measured(AttentionOnTruth(), [unknown])


def test_true_magnification_that_is_not_offered_is_refused():
    with pytest.raises(ValueError, match="slides/a.png: 'level' is '400X', which is none of 100X, 200X"):
        measured(AttentionOnTruth(), [row(grey_pyramid(LARGE), {0: 1.0}, cell=[7], level="400X")])


def test_attention_shorter_than_the_grid_is_refused():
    data, made = row(grey_pyramid(LARGE), {0: 1.0})
    made["attention"] = made["attention"][:20]
    with pytest.raises(ValueError, match="slides/a.png: attention of shape .20,. for an image of 21 cells"):
        measured(AttentionShare(), [(data, made)])


# ------------------------------------------------------------------------------------------- grades and several labels


@pytest.mark.parametrize("decollated", [True, False])
def test_kappa_and_mean_auc_are_those_of_scikit_learn(decollated):
    rng = torch.Generator().manual_seed(0)
    scores, grades = torch.rand(12, 4, generator=rng), torch.randint(4, (12,), generator=rng)
    present = (torch.rand(12, 4, generator=rng) > 0.5).float()
    present[:, 2] = 1  # a class without images that have it not is left out

    def evaluate(metric, label):
        def step(engine, rows):
            output = {"pred": scores[rows], "label": label[rows]}
            return decollate_batch(output) if decollated else output

        engine = Engine(step)
        metric.attach(engine, "m")
        return engine.run(torch.arange(12).split(5)).metrics["m"]

    kappa = cohen_kappa_score(grades, scores.argmax(1), weights="quadratic")
    assert evaluate(QuadraticKappa(4), grades) == pytest.approx(kappa)
    assert evaluate(QuadraticKappa(4), torch.zeros(12).long() + scores.argmax(1)) == 1
    others = [0, 1, 3]
    auc = roc_auc_score(present[:, others], scores[:, others], average="macro")
    assert evaluate(MeanAUC(), present) == pytest.approx(auc)
    accuracy = Accuracy(PairClasses([0.5, 0.2, 0.5, 0.9]), is_multilabel=True)
    predicted = scores >= torch.tensor([0.5, 0.2, 0.5, 0.9])
    assert evaluate(accuracy, present) == pytest.approx((predicted == present).all(1).float().mean().item())


def test_what_is_undefined_is_chance():
    """So that a model can be chosen by it."""
    engine = Engine(lambda *_: {"pred": torch.eye(3)[[1, 1]], "label": torch.tensor([1, 1])})
    QuadraticKappa(3).attach(engine, "kappa")
    assert engine.run([0]).metrics["kappa"] == 0
    engine = Engine(lambda *_: {"pred": torch.rand(2, 3), "label": torch.ones(2, 3)})
    MeanAUC().attach(engine, "auc")
    assert engine.run([0]).metrics["auc"] == 0.5
