# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What ``demo`` prints."""

from __future__ import annotations

from pathlib import Path

from monai_jsma.cli.train import format_answer, read_metrics


def test_the_demo_prints_the_attention_beside_the_answer(tmp_path):
    values = {
        "val_accuracy": 0.75,
        "attention_share_200X": 0.25,
        "attention_enrichment_200X": 0.5,
        "attention_share_50X": 0.75,
        "attention_enrichment_50X": 3.0,
    }
    (tmp_path / "metrics.csv").write_text("".join(f"{name},{value}\n" for name, value in values.items()))
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics == values
    datalist = {"true_magnification": "50X", "labels": {"0": "a", "1": "b"}, "test": [{}] * 3}
    assert format_answer(datalist, metrics, Path("demo")).splitlines() == [
        "",
        "accuracy on 3 test images  0.750  (chance 0.500)",
        "attention at   50X   75.0%  (3.00 times its share of the cells)  <- the magnification that shows the class",
        "attention at  200X   25.0%  (0.50 times its share of the cells)",
        "",
        "TensorBoard log   tensorboard --logdir demo/runs",
        "attention images  demo/eval/attention",
    ]
