# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The report of slides that were zoomed into, from records whose numbers are counted by hand."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from report_cases import answer, text_of, write

from monai_jsma.__main__ import main
from monai_jsma.geometry import Box
from monai_jsma.predictions import InnerPatch, SeenRegion
from monai_jsma.report.zoomed_slides import describe_zoom


def seen(stage, probability, attention, magnifications):
    return SeenRegion(
        stage=stage,
        box=Box(0, 0, 40, 40),
        probability=probability,
        magnifications=magnifications,
        patch_size=20,
        aligned=False,
        attention=attention,
    )


def read(mpp, weight):
    name = {1.0: "100X", 0.5: "200X"}[mpp]
    return InnerPatch(magnification=name, mpp=mpp, box=Box(0, 0, 20 * mpp, 20 * mpp), weight=weight)


def slide(number, patches, regions, **more):
    made = answer(number % 4, 0, number, patches=(), **more)
    return replace(
        made,
        patches=(replace(answer(0, 0, 0).patches[0], weight=sum(patch.weight for patch in patches)),),
        inner_patches=patches,
        regions_looked_at=len(regions),
        seen_regions=regions,
    )


# Regions of 40 x 40 pixels of 0.5 um: one cell at 100X, 2 x 2 at 200X. An upper stage has 2 x 2 regions.
ONE = slide(
    0,
    (read(0.5, 0.5), read(1.0, 0.25), read(0.5, 0.25)),
    (
        seen(1, 0.5, (0.75, 0.25, 0.0, 0.0), (0.5,)),
        seen(1, 0.25, (0.0, 0.0, 1.0, 0.0), (0.5,)),
        seen(2, 0.375, (0.5, 0.125, 0.125, 0.125, 0.125), (1.0, 0.5)),
        seen(2, 0.125, (1.0, 0.0, 0.0, 0.0, 0.0), (1.0, 0.5)),
    ),
)
OTHER = slide(
    1,
    (read(1.0, 1.0),),
    (
        seen(1, 0.25, (1.0, 0.0, 0.0, 0.0), (0.5,)),
        seen(2, 0.25, (0.0, 1.0, 0.0, 0.0, 0.0), (1.0, 0.5)),
    ),
)


def test_means_over_slides_at_each_stage_and_magnification():
    found = describe_zoom([ONE, OTHER])
    assert (found["looked_at"], found["read"]) == (3.0, 2.0)
    assert found["stages"] == [
        {"stage": 1, "regions": 8.0, "looked_at": 1.5, "share": (0.75 + 0.25) / 2},
        {"stage": 2, "regions": (8 + 4) / 2, "looked_at": 1.5, "share": (0.5 + 0.25) / 2},
    ]
    coarse, fine = found["magnifications"]
    assert (coarse["name"], coarse["read"], coarse["weight"]) == ("100X", 1.0, (0.25 + 1.0) / 2)
    assert (fine["name"], fine["read"], fine["weight"]) == ("200X", 1.0, 0.75 / 2)
    share = (0.375 * 0.5 + 0.125) / 0.5  # of the first slide
    assert coarse["share"] == pytest.approx(share / 2)
    assert fine["share"] == pytest.approx((1 - share) / 2 + 0.5)
    assert (coarse["prior"], fine["prior"]) == pytest.approx((0.2, 0.8))


def test_the_page_says_it(tmp_path):
    certain = [replace(one, certified=True, confidence=0.99) for one in (ONE, OTHER)]
    path = write(tmp_path / "predictions.jsonl", certain)
    assert main(["report", path, "--output", str(tmp_path / "report"), "--resamples", "0"]) == 0
    text = text_of(tmp_path / "report" / "report.html")
    assert "Of each slide it looked into 3.0 regions and read 2.0 patches on average" in text
    assert "In 2 of 2 slides the predicted class is that of all patches, at a confidence of at least 99.00 %" in text
    assert "1 8.0 1.5 50.0 %" in text
    assert "100X 31.2 % 20.0 % 1.0 62.5 %" in text
    assert "At which magnification did it look?" not in text
    assert not (tmp_path / "report" / "attention.png").exists()


def test_each_slide_has_a_row(tmp_path):
    """What was looked into at each stage, and how sure it is; the least certain first."""
    two = [replace(ONE, certified=True, confidence=0.995), replace(OTHER, certified=False, confidence=0.8)]
    surer = replace(two[0], probabilities=(0.97, 0.01, 0.01, 0.01))
    path = write(tmp_path / "predictions.jsonl", [surer, two[1]])
    assert main(["report", path, "--output", str(tmp_path / "report"), "--resamples", "0"]) == 0
    text = text_of(tmp_path / "report" / "report.html")
    stages = [f"Looked into at stage {stage} (share of the attention)" for stage in (1, 2)]
    head = f"Slide or image True class Predicted class Probability Entropy {' '.join(stages)} Patches read"
    assert f"{head} Certainly that of all patches" in text
    first = "1.png b a (wrong) 70.0 % 0.94 1 of 8 (25.0 %) 1 of 4 (25.0 %) 1"
    second = "0.png a a 97.0 % 0.17 2 of 8 (75.0 %) 2 of 8 (50.0 %) 3"
    assert f"{first} no, at 80.0 % {second} yes, at 99.5 %" in text
    with open(tmp_path / "report" / "report_slides.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["1.png", "0.png"]
    assert [float(rows[1][key]) for key in ("stage_1_looked_at", "stage_2_share", "confidence")] == [2, 0.5, 0.995]
    assert not (tmp_path / "report" / "report_patients.csv").exists()


def test_records_of_earlier_versions_know_the_patches_alone(tmp_path):
    old = [replace(one, seen_regions=None) for one in (ONE, OTHER)]
    found = describe_zoom(old)
    assert found["stages"] == []
    assert all("share" not in one for one in found["magnifications"])
    path = write(tmp_path / "predictions.jsonl", old)
    assert main(["report", path, "--output", str(tmp_path / "report"), "--resamples", "0"]) == 0
    assert "100X unknown unknown 1.0 62.5 %" in text_of(tmp_path / "report" / "report.html")


def test_regions_that_were_predicted_one_by_one_are_no_zoom():
    assert describe_zoom([answer(0, 0, 0)]) is None
    assert describe_zoom([ONE, answer(0, 0, 0)]) is None
