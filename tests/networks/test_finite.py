# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""No prediction from numbers that are none: each case names the image and the cause."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_cases import load, thumbnails
from monai.data import MetaTensor
from tiny_networks import Pictures, mil_net, pictures, ragged_batch, tiny_net
from torch import nn

from monai_jsma.data.prediction_dataset import NotFiniteError
from monai_jsma.engines import JSMAEvaluator, JSMAPredictor, JSMATrainer
from monai_jsma.inferers import JSMAInferer
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import (
    AllPatches,
    Certified,
    Confident,
    ConvBackbone,
    Draws,
    FeatureStore,
    LeaveOneOut,
    PatchEncoder,
    Pathwise,
    Prefix,
    TopK,
    negative_entropy,
    top_cells,
)
from monai_jsma.networks.finite import defer_checks

NAN, INF = float("nan"), float("inf")
TRAINING = [Pathwise(3), Pathwise(3, estimator="systematic"), LeaveOneOut(3), Prefix(3), AllPatches()]
EVALUATION = [TopK(3), AllPatches(), Draws(3, 2), Certified(), Confident()]


def spoil(layer: nn.Module, number: float, *, image: int = 1) -> None:
    """Let a layer give ``number`` somewhere in what it computes of one image of a batch."""

    def put(module, inputs, output):
        output = output.clone()
        place = (image, 0) if output.ndim == 2 else (image, 0, ..., 0)
        output[place] = number
        return output

    layer.register_forward_hook(put)


@pytest.mark.parametrize("number", [NAN, INF, -INF])
@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
@pytest.mark.parametrize("sampler", [*TRAINING, *EVALUATION], ids=repr)
def test_features_of_the_thumbnail(sampler, normalization, number):
    """An infinite logit would have a finite sigmoid, and NaN would be taken for padding."""
    net = tiny_net(normalization=normalization, feature_norm="l2").train(sampler in TRAINING[:4])
    spoil(net.thumbnail_encoder, number)
    thumbnails, images = ragged_batch()
    with pytest.raises(
        NotFiniteError, match="^image 1 of the batch: its attention is NaN or infinite; .*lower 'lr'"
    ) as e:
        net(thumbnails, images, sampler=sampler)
    assert list(e.value.errors) == [1]
    assert images.patches_read == 0


@pytest.mark.parametrize("number", [NAN, INF])
@pytest.mark.parametrize("sampler", [*TRAINING, *EVALUATION], ids=repr)
def test_features_of_a_patch(sampler, number):
    net = tiny_net(feature_norm="l2").train(sampler in TRAINING[:4])
    spoil(net.patch_encoder.backbone, number, image=0)
    with pytest.raises(NotFiniteError, match="^image 0 of the batch: its logits are NaN or infinite"):
        net(*ragged_batch(), sampler=sampler)


@pytest.mark.parametrize("number", [NAN, INF])
def test_attention_mil(number):
    net = mil_net().eval()
    spoil(net.patch_encoder.backbone, number, image=0)
    with pytest.raises(NotFiniteError, match="^image 0 of the batch: its logits are NaN or infinite"):
        net(*ragged_batch())


def test_features_whose_length_overflows():
    """1e25 is a float32, its square is not: normalized to 0, such a patch would count nothing."""
    encoder = PatchEncoder(ConvBackbone((8,)), feature_norm="l2").eval()
    spoil(encoder.backbone, 1e25, image=0)
    features = encoder(torch.rand(2, 3, 8, 8))
    assert features[0].isnan().all()
    assert torch.linalg.vector_norm(features[1]).item() == pytest.approx(1)


def test_overflow_of_mixed_precision_names_the_way_out():
    encoder = nn.Conv2d(3, 8, 3)
    encoder.num_features = 8
    nn.init.constant_(encoder.weight, 1e4)
    net = tiny_net(thumbnail_encoder=encoder).eval()
    images = torch.full((1, 3, 24, 20), 255, dtype=torch.uint8)
    net(images)  # float32 is wide enough
    with torch.autocast("cpu", torch.float16), pytest.raises(NotFiniteError, match=r"too large for float16: .*'amp'"):
        net(images)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", [NAN, INF])
def test_pixels(training, number):
    """Batch statistics carry the NaN of image 1 to all others, but it alone is named."""
    net = tiny_net().train(training)
    images = torch.rand(3, 3, 24, 20)
    images[1, 2, 3, 4] = number
    with pytest.raises(NotFiniteError, match="^image 1 of the batch: it holds pixels that are NaN or infinite") as e:
        net(images)
    assert list(e.value.errors) == [1]


@pytest.mark.parametrize("part", ["attention.logits.0.weight", "classifier.bias", "patch_encoder.backbone"])
def test_weights(part):
    """One error of the network, not one for each image."""
    net = tiny_net().eval()
    name, weight = next((n, w) for n, w in net.named_parameters() if n.startswith(part))
    with torch.no_grad():
        weight.view(-1)[0] = NAN
    with pytest.raises(ValueError, match=f"its weights '{name}' are NaN or infinite. Load others"):
        net(*ragged_batch())


def test_batch_statistics_are_weights_after_training():
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    encoder.num_features = 8
    net = tiny_net(thumbnail_encoder=encoder).eval()
    name, buffer = next((n, b) for n, b in net.named_buffers() if n.endswith("running_var"))
    buffer[0] = NAN
    with pytest.raises(ValueError, match=f"its weights '{name}' are NaN"):
        net(*ragged_batch())


def test_nan_is_no_padding():
    """Padding is -inf; NaN comes out of everything that takes log probabilities."""
    log_prob = torch.tensor([[0.5, 0.5, 0.0], [NAN, 0.5, 0.5]]).log()
    entropy = negative_entropy(log_prob)
    assert entropy[0].item() == pytest.approx(-0.693147, abs=1e-5)
    assert entropy[1].isnan()
    draw = top_cells(log_prob, 3)
    assert draw.drawn.tolist() == [[True, True, False], [True, True, True]]
    assert draw.weights[1].isnan().any()
    assert torch.equal(draw.weights[0], torch.tensor([0.5, 0.5, 0.0]))


def test_the_error_names_the_file(files):
    """Of a pyramid its path, of a region also where it is; of a whole image the file of its MetaTensor."""
    net = tiny_net().eval()
    spoil(net.thumbnail_encoder, NAN)
    batch = load(files)
    with pytest.raises(NotFiniteError) as whole:
        net(thumbnails(batch), batch)
    assert str(whole.value).startswith(f"{files[1]}: its attention")
    batch = load(files, lambda pyramid: pyramid.cropped((4, 2), (8, 8)) if pyramid.path == str(files[1]) else pyramid)
    with pytest.raises(NotFiniteError) as region:
        net(thumbnails(batch), batch)
    assert str(region.value).startswith(f"{files[1]} at (4, 2): its attention")
    image = MetaTensor(torch.rand(2, 3, 24, 20), meta={"filename_or_obj": ["a.png", "b.png"]})
    with pytest.raises(NotFiniteError, match=r"^b\.png: its attention"):
        net(image)


def whole_images():
    image = MetaTensor(torch.rand(3, 3, 24, 20), meta={"filename_or_obj": ["a.png", "b.png", "c.png"]})
    return {"image": image, "label": torch.tensor([0, 1, 2])}


def test_training_stops_and_names_the_file():
    net = tiny_net(normalization="sigmoid")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    spoil(net.thumbnail_encoder, NAN)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = JSMATrainer(torch.device("cpu"), 1, [whole_images()], net, optimizer, JSMALoss(), decollate=False)
    with pytest.raises(RuntimeError, match=r"^b\.png: .*its attention is NaN"):
        engine.run()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("sampler", TRAINING, ids=repr)
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_training_stops_at_the_logits_of_an_image(sampler, number):
    """Logits are looked at with the loss, and yet the image is named and no weight is changed.

    With -inf for a class that is not the image's, the loss is finite.
    """
    net = tiny_net(sampler=sampler)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    spoil(net.classifier, number, image=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = JSMATrainer(torch.device("cpu"), 1, [whole_images()], net, optimizer, JSMALoss(), decollate=False)
    with pytest.raises(RuntimeError, match=r"^c\.png: .*its logits are NaN or infinite"):
        engine.run()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def count_waits(monkeypatch) -> list[str]:
    """The file of each place that asks a tensor for its truth from now on, for which a device would be waited for."""
    waits = []
    ask = torch.Tensor.__bool__

    def count(tensor):
        waits.append(Path(inspect.stack()[1].filename).name)
        return ask(tensor)

    monkeypatch.setattr(torch.Tensor, "__bool__", count)
    return waits


def test_logits_and_loss_of_a_step_are_looked_at_together(monkeypatch):
    """Once before patches are read, for which the attention is waited for anyway, and once for all that follows."""
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = JSMATrainer(torch.device("cpu"), 1, [whole_images()], net, optimizer, JSMALoss(), decollate=False)
    waits = count_waits(monkeypatch)
    engine.run()
    assert [file for file in waits if file in ("finite.py", "engines.py")] == ["finite.py", "finite.py"]


def test_checks_that_nobody_looks_at_are_looked_at_in_the_end():
    net = tiny_net().train()
    spoil(net.classifier, NAN)
    with pytest.raises(NotFiniteError, match="^image 1 of the batch: its logits"), defer_checks():
        net(*ragged_batch())


def test_an_error_inside_is_not_replaced():
    """The block's own error is the one that is seen, and later calls check at once again."""
    net = tiny_net().train()

    def fail():
        with defer_checks():
            net(*ragged_batch())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    spoil(net.classifier, NAN)
    with pytest.raises(NotFiniteError):
        net(*ragged_batch())


def test_evaluation_stops_and_names_the_file():
    net = tiny_net()
    spoil(net.thumbnail_encoder, NAN)
    with pytest.raises(RuntimeError, match=r"^b\.png: .*its attention is NaN"):
        JSMAEvaluator(torch.device("cpu"), [whole_images()], net, decollate=False).run()


@pytest.mark.parametrize("sampler", [TopK(3), Draws(3, 2)], ids=repr)
def test_prediction_loses_nothing_but_the_image(sampler):
    net = tiny_net()
    batch = whole_images()
    batch["image"][1, 0, 0, 0] = NAN
    inferer = JSMAInferer(sampler, seed=0)
    engine = JSMAPredictor(torch.device("cpu"), [batch], net, inferer=inferer)
    engine.run()
    (failure,) = engine.state.failures
    assert (failure.where, failure.stage) == ("b.png", "network")
    assert "b.png" in failure.reason
    assert "pixels that are NaN" in failure.reason
    assert [output["pred"].isfinite().all().item() for output in engine.state.output] == [True, True]


def test_nan_is_kept_in_no_cache(tmp_path):
    """Features that overflowed once are computed again, when they no longer do."""
    encoder = PatchEncoder(ConvBackbone((8,)), frozen=True, feature_cache=tmp_path / "cache", feature_norm="l2")
    keys = [bytes(24), bytes(23) + b"1"]
    outputs = [torch.full((2, 8), NAN), torch.ones(2, 8)]
    for expected in outputs:
        features = encoder.feature_cache.features(
            encoder.backbone, keys, length=8, encode=lambda places, values=expected: values[places]
        )
        assert np.array_equal(features.numpy(), expected.numpy(), equal_nan=True)


def test_nan_in_a_cache_of_an_earlier_version_is_computed_again(tmp_path):
    store = FeatureStore(tmp_path, 4)
    store.add({bytes(24): np.full(4, NAN, np.float32)})
    _, known = store.get([bytes(24)])
    assert known.tolist() == [False]


def test_pictures_of_the_helper_are_sound():
    """What the other tests spoil predicts as it is."""
    images = Pictures(pictures((24, 20), (40, 33)))
    for sampler in EVALUATION:
        assert tiny_net(feature_norm="l2").eval()(images.thumbnails(), images, sampler=sampler).isfinite().all()
