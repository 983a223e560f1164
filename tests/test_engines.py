# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trainer and evaluator on tensors: what they hand to the network, name in the output, and when they stop."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.handlers import MetricsSaver, StatsHandler, TensorBoardStatsHandler
from tiny_networks import Pictures, pictures, tiny_net

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.engines import JSMAEvaluator, JSMATrainer, PrepareBatchJSMA
from monai_jsma.inferers import JSMAInferer
from monai_jsma.losses import JSMALoss
from monai_jsma.metrics import AttentionShare, PatchesRead
from monai_jsma.networks import Draws, LeaveOneOut, Pathwise, TopK

LABELS = torch.tensor([0, 2])


def loader():
    """Two batches of two whole pictures: no pyramids."""
    images = torch.stack(pictures((24, 20), (24, 20)))
    return [{"image": images, "label": LABELS}, {"image": images.flip(-1), "label": LABELS}]


def trainer(net, loss=None, **options):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    return JSMATrainer(torch.device("cpu"), 2, loader(), net, optimizer, loss or JSMALoss(), decollate=False, **options)


def train_by_hand(net, *, in_bfloat16=False):
    """Two epochs in a plain loop; the last batch, output and loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    torch.manual_seed(1)
    for _ in range(2):
        for batch in loader():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
                output = net(batch["image"], return_attention=True)
            loss = JSMALoss()(output, batch["label"])
            loss.backward()
            optimizer.step()
    return batch, output, loss


@pytest.mark.parametrize("sampler", [Pathwise(3), LeaveOneOut(3)], ids=repr)
def test_training_step_by_step_equals_a_loop_by_hand(sampler):
    torch.manual_seed(0)
    net = tiny_net(sampler=sampler)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(1)
    engine = trainer(net)
    engine.run()
    by_hand = tiny_net(sampler=sampler)
    by_hand.load_state_dict(state)
    batch, output, loss = train_by_hand(by_hand)
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value)
    result = engine.state.output
    assert set(result) == {"image", "label", "pred", "attention", "cells", "weights", "loss"}
    torch.testing.assert_close(result["pred"], output["logits"])
    torch.testing.assert_close(result["attention"], output["attention"])
    assert torch.equal(result["cells"], output["cells"])
    torch.testing.assert_close(result["loss"], loss)
    assert torch.equal(result["image"], batch["image"])
    assert torch.equal(result["label"], LABELS)


@pytest.mark.parametrize(("sampler", "more"), [(TopK(5), set()), (Draws(5, 3), {"draw_probabilities"})])
def test_evaluation(sampler, more):
    net = tiny_net()
    evaluator = JSMAEvaluator(torch.device("cpu"), loader(), net, inferer=JSMAInferer(sampler), decollate=False)
    torch.manual_seed(0)
    evaluator.run()
    result = evaluator.state.output
    assert set(result) == {"image", "label", "pred", "attention", "cells", "weights", *more}
    assert result["cells"].shape == (2, 15 if more else 5)
    assert result["pred"].is_inference()
    assert not result["image"].is_inference()  # it is the loader's
    if not more:
        with torch.enable_grad():
            expected = net.eval()(loader()[1]["image"], sampler=sampler)
        assert torch.equal(result["pred"], expected)


class NotANumber(JSMALoss):
    """The loss until iteration 2, which has none."""

    calls = 0

    def forward(self, pred, target):
        self.calls += 1
        return super().forward(pred, target) * (float("nan") if self.calls == 2 else 1.0)


def test_a_loss_that_is_no_number_stops_before_weights_change():
    net, seen = tiny_net(), []
    engine = trainer(net, NotANumber())
    engine.add_event_handler(
        Events.ITERATION_STARTED, lambda: seen.append({k: v.clone() for k, v in net.state_dict().items()})
    )
    with pytest.raises(RuntimeError, match=r"the loss is nan in epoch 1, iteration 2 "):
        engine.run()
    assert not torch.equal(seen[1]["classifier.weight"], seen[0]["classifier.weight"])
    assert all(torch.equal(value, seen[1][name]) for name, value in net.state_dict().items())


def test_prepare_batch_hands_pyramids_to_the_network():
    image, batch = MetaTensor(torch.rand(2, 3, 4, 4)), PyramidBatch()
    prepared = PrepareBatchJSMA()({"image": image, "label": LABELS, "pyramid": batch}, "cpu")
    assert not isinstance(prepared[0], MetaTensor)
    assert torch.equal(prepared[0], image.as_tensor())
    assert torch.equal(prepared[1], LABELS)
    assert prepared[2] == ()
    assert prepared[3].pop("pyramid") is batch
    assert prepared[3] == {"return_attention": True}
    renamed = PrepareBatchJSMA("picture", "grade", "slide")({"picture": image, "slide": batch}, "cpu")
    assert renamed[1] is None
    assert renamed[3]["pyramid"] is batch


def test_evaluation_reads_from_the_pyramids_of_the_batch():
    images = Pictures(pictures((24, 20), (40, 33)))
    net = tiny_net()
    data = [{"image": images.thumbnails(), "pyramid": images}]
    evaluator = JSMAEvaluator(torch.device("cpu"), data, net, decollate=False)
    evaluator.run()
    torch.testing.assert_close(evaluator.state.output["pred"], net.eval()(images.thumbnails(), images))
    assert evaluator.state.output["label"] is None


def own_metrics():
    return {"attention": AttentionShare(), "patches": PatchesRead()}


class Scalars:
    """A TensorBoard writer that keeps what it is given."""

    def __init__(self):
        self.names = set()

    def add_scalar(self, tag, scalar_value, global_step):
        self.names.add(tag)

    def flush(self):
        """Nothing is written."""


@pytest.mark.parametrize("decollate", [True, False])
@pytest.mark.parametrize("is_positional", [True, False])
def test_metrics_need_no_labels_and_no_key_metric(tmp_path, decollate, is_positional):
    """MONAI drops all metrics where there is no key metric; handlers that are given first must see them too."""
    data = [{"image": batch["image"]} for batch in loader()]
    scalars = Scalars()
    handlers = [
        StatsHandler(iteration_log=False, name="rest"),
        TensorBoardStatsHandler(scalars, iteration_log=False),
        MetricsSaver(str(tmp_path), metrics="*"),
    ]
    options = {"additional_metrics": own_metrics(), "val_handlers": handlers, "decollate": decollate}
    first = (torch.device("cpu"), data, tiny_net())
    engine = (
        JSMAEvaluator(*first, **options)
        if is_positional
        else JSMAEvaluator(device=first[0], val_data_loader=first[1], network=first[2], **options)
    )
    engine.run()
    metrics = engine.state.metrics
    assert metrics["patches_read"] == 3
    assert metrics["attention_share_100X"] + metrics["attention_share_50X"] == pytest.approx(1)
    assert metrics["attention_enrichment_100X"] > 0
    written = dict(line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    assert set(metrics) == set(written) == scalars.names
    assert float(written["patches_read"]) == 3


def test_a_training_too_has_metrics_without_a_key_metric():
    engine = trainer(tiny_net(), additional_metrics={"patches": PatchesRead()})
    engine.run()
    assert engine.state.metrics["patches_read"] == 3


def test_with_a_key_metric_nothing_is_attached_twice():
    metric = PatchesRead()
    counted = []
    metric.update = lambda output: counted.append(len(output))
    metric.compute = lambda: {"read": 0.0}
    key = {"key": PatchesRead()}
    key["key"].completed = lambda engine, name: engine.state.metrics.update({name: 1.0})
    engine = JSMAEvaluator(
        torch.device("cpu"), loader(), tiny_net(), key_val_metric=key, additional_metrics={"patches": metric}
    )
    engine.run()
    assert counted == [2, 2]
    assert engine.state.key_metric_name == "key"


def test_mixed_precision_on_a_cpu_trains_in_bfloat16():
    """A step as by hand: the forward pass in bfloat16, its backward pass outside, weights and loss in float32."""
    torch.manual_seed(0)
    net = tiny_net(sampler=LeaveOneOut(3))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(1)
    engine = trainer(net, amp=True)
    engine.run()
    by_hand = tiny_net(sampler=LeaveOneOut(3))
    by_hand.load_state_dict(state)
    _, _, loss = train_by_hand(by_hand, in_bfloat16=True)
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)
        assert net.state_dict()[name].dtype == state[name].dtype
    assert engine.state.output["loss"].dtype == torch.float32
    assert torch.equal(engine.state.output["loss"], loss.detach())


def test_mixed_precision_on_a_cpu_evaluates_in_bfloat16():
    """What the attention is made of differs by rounding, and only with it."""
    results = []
    for amp in (False, True):
        evaluator = JSMAEvaluator(
            torch.device("cpu"), loader(), tiny_net(), inferer=JSMAInferer(TopK(5)), decollate=False, amp=amp
        )
        evaluator.run()
        results.append(evaluator.state.output)
    exact, rounded = results
    assert not torch.equal(exact["attention"], rounded["attention"])
    torch.testing.assert_close(exact["attention"], rounded["attention"], rtol=0.1, atol=0.01)
    torch.testing.assert_close(exact["pred"].softmax(1), rounded["pred"].softmax(1).float(), rtol=0.05, atol=0.01)


@pytest.mark.parametrize(
    ("architecture", "has", "warned"), [("x86_64", False, True), ("x86_64", True, False), ("arm", False, False)]
)
def test_a_processor_without_bfloat16_is_told(monkeypatch, caplog, architecture, has, warned):
    capabilities = {"architecture": architecture, "avx512_bf16": has}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    JSMAEvaluator(torch.device("cpu"), loader(), tiny_net(), amp=True)
    assert ("'amp': this processor computes bfloat16 by float32" in caplog.text) == warned
