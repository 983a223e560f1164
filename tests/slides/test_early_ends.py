# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A training says in one line whether its reader sees a JPEG tile that ends early within its last block."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from slide_files import picture, write_pyramid

from monai_jsma.datalists import load_datalist
from monai_jsma.datalists.schema import save_datalist
from monai_jsma.slides import early_ends, inspect_slide
from monai_jsma.slides.early_ends import describe_early_ends


def test_a_training_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    early_ends._log_once.cache_clear()
    caplog.set_level(logging.INFO, "monai_jsma.slides.early_ends")
    slide = write_pyramid(tmp_path / "a.tif", [picture(80, 90)], compression="jpeg")
    raw = write_pyramid(tmp_path / "b.tif", [picture(80, 90, 1)])
    reader = inspect_slide(slide).reader
    for name, image in (("raw", raw), ("jpeg", slide)):
        save_datalist({"test": [{"image": Path(image).name}]}, tmp_path / f"{name}.json")
        load_datalist(tmp_path / f"{name}.json", "test")
        load_datalist(tmp_path / f"{name}.json", "test")
    messages = [record.message for record in caplog.records if record.name == "monai_jsma.slides.early_ends"]
    assert messages == [f"{describe_early_ends(reader)}."]
