# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How a prediction goes on after a kill."""

from __future__ import annotations

import pytest
from prediction_cases import ALL, VIEW, predict, stopped, table

from monai_jsma.inferers import JSMAInferer
from monai_jsma.networks import Draws
from monai_jsma.predictions.records import read_records


@pytest.mark.parametrize("inferer", [ALL, JSMAInferer(Draws(3, 2), seed=7)], ids=["all", "draws"])
@pytest.mark.parametrize("lines", [0, 2, 5])
def test_a_killed_run_goes_on(tmp_path, items, net, lines, inferer):
    expected = predict(tmp_path / "whole", items, net, inferer=inferer)
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    stopped(tmp_path / "out", whole, lines)
    opened: list[str] = []

    def view(item):
        opened.append((item["image"], item["location"]))
        return VIEW(item)

    metrics = predict(tmp_path / "out", items, net, view=view, inferer=inferer)
    assert opened == [(item["image"], item["location"]) for item in items[lines:]]
    assert metrics == pytest.approx(expected)
    assert [r.key for r in read_records(tmp_path / "out" / "predictions.jsonl")] == [
        (i["image"], tuple(i["location"]), (32, 32)) for i in items
    ]
    for name in ("predictions.csv", "slides.csv"):
        for row, other in zip(table(tmp_path / "out" / name), table(tmp_path / "whole" / name), strict=True):
            assert row.keys() == other.keys()
            for key, value in row.items():
                same = float(value) == pytest.approx(float(other[key]), abs=1e-6) if "_" in key else value == other[key]
                assert same, (name, key)
    assert not (tmp_path / "out" / "predictions.jsonl.part").exists()


def test_all_was_predicted_but_not_put_in_place(tmp_path, items, net):
    expected = predict(tmp_path / "whole", items, net)
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.jsonl.part").write_bytes(whole)
    assert predict(tmp_path / "out", items, net) == pytest.approx(expected)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights": b"\x80other"},
            "an unfinished run with another model; finish it with the same settings, delete",
        ),
        ({"seed": 8}, "with another seed;"),
        ({"settings": {"num_patches": 3}}, "with another settings;"),
    ],
)
def test_a_run_of_something_else_is_not_gone_on_with(tmp_path, items, net, change, message):
    predict(tmp_path / "out", items, net)
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    (tmp_path / "out" / "predictions.jsonl.part").write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match=message):
        predict(tmp_path / "out", items, net, **change)
    with pytest.raises(ValueError, match="an unfinished run of other regions"):
        predict(tmp_path / "out", items[1:], net)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
