# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The predictor: what it hands to handlers and metrics when files fail, and when a run is resumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from prediction_cases import VIEW, predict, spoil, stopped
from tiny_networks import tiny_net

from monai_jsma._io import Fault
from monai_jsma.data import PredictionDataset, collate_readable
from monai_jsma.engines import JSMAPredictor


class Witness:
    """A handler like any other: it keeps what it sees on completed iterations."""

    def __init__(self) -> None:
        self.outputs: list[list[dict[str, Any]]] = []
        self.iterations: list[int] = []
        self.first: list[int] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: self.first.append(engine.state.iteration))

    def __call__(self, engine: Engine) -> None:
        assert len(engine.state.batch) == len(engine.state.output)
        self.outputs.append(engine.state.output)
        self.iterations.append(engine.state.iteration)


@pytest.mark.parametrize("workers", [0, 1])
def test_recorded_and_fresh_images_are_one_ordinary_batch(tmp_path, items, net, workers):
    """Three of the four images of the first batch are recorded."""
    fresh, resumed = Witness(), Witness()
    predict(tmp_path / "whole", items, net, handlers=[fresh])
    stopped(tmp_path / "out", (tmp_path / "whole" / "predictions.jsonl").read_bytes(), 3)
    predict(tmp_path / "out", items, net, handlers=[resumed], workers=workers)
    assert [len(batch) for batch in resumed.outputs] == [len(batch) for batch in fresh.outputs] == [4, 2]
    order = [3, 0, 1, 2]  # the fresh ones come first
    for number, output in zip(order, resumed.outputs[0], strict=True):
        expected = fresh.outputs[0][number]
        assert output.keys() | {"image"} == expected.keys()
        assert output["label"] == expected["label"]
        for key in ("pred", "attention"):
            torch.testing.assert_close(output[key], expected[key])
        assert float(output["weights"].sum()) == pytest.approx(1)
    assert "image" not in resumed.outputs[0][1]


def test_a_batch_that_is_recorded_as_a_whole_asks_the_network_nothing(tmp_path, items, net):
    expected = predict(tmp_path / "whole", items, net)
    stopped(tmp_path / "out", (tmp_path / "whole" / "predictions.jsonl").read_bytes(), 4)
    calls = []
    hook = net.register_forward_pre_hook(lambda *_: calls.append(1))
    metrics = predict(tmp_path / "out", items, net)
    hook.remove()
    assert len(calls) == 1  # the second batch
    assert metrics == pytest.approx(expected)


def test_an_iteration_of_which_nothing_is_left_is_not_completed(tmp_path, items, net):
    """The first batch cannot be opened, the last one has damaged patches; handlers keep their own filters."""
    sound = items[:4]
    many = list(items)
    spoil(many)
    text, patch = many[0], many[5]
    bad = [{**text, "location": [0, i], "size": [8, 8]} for i in range(4)]
    witness = Witness()
    with pytest.raises(RuntimeError, match="^5 of 9 regions failed"):
        predict(tmp_path / "out", [*bad, *sound, patch], net, handlers=[witness])
    assert witness.iterations == [2]
    assert [len(batch) for batch in witness.outputs] == [4]
    assert witness.first == []  # once=1 is the first iteration, which was not completed


def test_a_plain_loader_will_do(items, net):
    """One that neither lists failures nor what is recorded."""
    data = [{key: VIEW(item)[key] for key in ("image", "pyramid")} for item in items[:3]]
    witness = Witness()
    engine = JSMAPredictor(torch.device("cpu"), DataLoader(data, batch_size=2), net, val_handlers=[witness])
    engine.run()
    assert [len(batch) for batch in witness.outputs] == [2, 1]
    assert engine.state.failures == []


def test_one_output_for_each_image_is_needed():
    with pytest.raises(ValueError, match="leave 'decollate' true"):
        JSMAPredictor(torch.device("cpu"), [], tiny_net(), decollate=False)


def test_the_data_set_opens_no_file_of_a_recorded_item(items):
    del items[3:]
    items[0] = {**items[0], "image": "missing.tif", "patient": "P"}
    items[2] = {**items[2], "image": "missing.tif"}
    data = PredictionDataset(items, VIEW, {0: "evidence"})
    batch = collate_readable([data[i] for i in range(3)])
    (recorded,) = batch["recorded"]
    assert recorded == {
        "evidence": "evidence",
        "patient": "P",
        **{k: items[0][k] for k in ("size", "label", "location")},
    }
    (failure,) = batch["failures"]
    assert isinstance(failure, Fault)
    assert (failure.where, failure.stage, failure.location) == ("missing.tif", "load", (0, 0))
    assert len(batch["pyramid"]) == 1
    nothing = collate_readable([data[0], data[2]])
    assert sorted(nothing) == ["failures", "recorded"]
