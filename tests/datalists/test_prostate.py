# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Names of Gleason patterns, of slides and of patients, as people write them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monai_jsma.datalists.annotations import find_slide, read_annotations
from monai_jsma.datalists.prostate import class_mapping, patient_of


@pytest.mark.parametrize(
    ("name", "label"),
    [("Benign", 0), ("normal", 0), ("Gleason 3", 1), ("G3", 1), ("gleason_pattern-3", 1), ("3", 1), ("Gleason 4", 2),
     ("GLEASON 4/5", 2), ("G5", 2), ("gp4", 2), ("Gleason 3+4", "none"), ("Tumor", "none"), ("", "none")],
)  # fmt: skip
def test_default_names(tmp_path, name, label):
    """Asked through a table, as a user would write it."""
    (tmp_path / "a.csv").write_text(f"slide,label,row,col,height,width\na,{name},0,0,9,9\n")
    (areas,) = read_annotations(tmp_path / "a.csv").values()
    plain = [re.sub(r"[\W_]", "", n.lower()) for n in areas[0].names] or [""]
    assert class_mapping().get(plain[0], "none") == label


def test_named_classes():
    mapping = class_mapping(["Tumor: low=Gleason 3", "a=b=GLEASON_4/5", "stroma = ignore", "benign=gleason 3"])
    assert [mapping[n] for n in ("tumorlow", "ab", "stroma", "benign", "gleason4")] == [1, 2, None, 1, 2]
    for wrong in ("x", "=benign", "x=Gleason 9", "x="):
        with pytest.raises(ValueError, match=f"'{wrong}' is not name=class"):
            class_mapping([wrong])


def test_slide_of_an_annotation():
    names = ("a.svs", "a-1.svs", "b.x1.tif", "TCGA-2A-A8VL-01Z-00-DX1.F0.svs", "TCGA-2A-A8VL-01Z-00-DX2.F1.svs")
    slides = [Path("s") / n for n in (*names, "TCGA-2A-A8W1-01Z-00-DX1.F2.svs")]
    for name, found in {
        "a": "a.svs", "a.svs": "a.svs", "a-1": "a-1.svs", "a.annotated": "a.svs", "b": "b.x1.tif",
        "TCGA-2A-A8VL-01Z-00-DX2": "TCGA-2A-A8VL-01Z-00-DX2.F1.svs", "TCGA-2A-A8W1": "TCGA-2A-A8W1-01Z-00-DX1.F2.svs",
    }.items():  # fmt: skip
        assert find_slide(name, slides).name == found
    for name in ("a-2", "TCGA-2A-A8VL-01Z-00-DX3", "TCGA-2A-A8V", "c"):
        with pytest.raises(ValueError, match="no slide has this name"):
            find_slide(name, slides)
    with pytest.raises(ValueError, match="2 slides have this name: TCGA-2A-A8VL-01Z-00-DX1"):
        find_slide("TCGA-2A-A8VL", slides)


@pytest.mark.parametrize(
    ("slide", "patient"),
    [("TCGA-2A-A8VL-01Z-00-DX1.F0.svs", "TCGA-2A-A8VL"), ("tcga-2a-a8vl.svs", "TCGA-2A-A8VL"),
     ("TCGA-2A-A8VLX.svs", "TCGA-2A-A8VLX"), ("case 7.x.tif", "case 7.x")],
)  # fmt: skip
def test_patient(slide, patient):
    assert patient_of(slide) == patient
