# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on mean features: the network's probabilities are scikit-learn's on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_networks import CELLS, ragged_batch, tiny_net

from monai_jsma.engines import fit_classifier
from monai_jsma.networks import AllPatches, fit_logistic
from monai_jsma.predictions.patch_counts import EpochPatches, read_patch_counts


def reference(balanced: bool):
    weights = "balanced" if balanced else None
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight=weights, max_iter=10_000, tol=1e-8))


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_linear_layer_has_the_probabilities_of_the_model(num_classes, balanced):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 6)) * [1, 5, 0.1, 1, 0, 1] + [0, 3, 0, 0, 2, 0]  # one is constant
    labels = rng.choice(num_classes, 40, p=[0.7, 0.3] if num_classes == 2 else [0.6, 0.2, 0.2])
    weight, bias = fit_logistic(features, labels, num_classes=num_classes, balanced=balanced)
    logits = torch.from_numpy(features @ weight.T + bias)
    expected = reference(balanced).fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-4)


def test_a_class_without_images_is_named():
    with pytest.raises(ValueError, match="no training image has the label 1: logistic regression needs every class"):
        fit_logistic(np.eye(4), np.array([0, 2, 0, 2]), num_classes=3)


def test_the_network_predicts_as_the_model_on_the_mean_of_all_patches(tmp_path):
    net = tiny_net(thumbnail_encoder=None, sampler=AllPatches(), chunk_size=8, frozen=True)
    before = {name: value.clone() for name, value in net.state_dict().items() if "classifier" not in name}
    thumbnails, images = ragged_batch()
    labels = torch.tensor([0, 1, 2])
    batch = {"image": thumbnails, "pyramid": images, "label": labels}
    fit_classifier(net, [batch, batch], file=tmp_path / "model.pt")

    one = torch.tensor([0])
    means = []
    for single, count in zip(images.singles, CELLS):
        patches = [single.read(one, torch.tensor([cell])) for cell in range(count)]
        means.append(torch.cat([net.patch_encoder(patch) for patch in patches]).mean(0))
    means = torch.stack(means).detach().numpy()
    model = reference(balanced=True).fit(np.concatenate((means, means)), [0, 1, 2] * 2)
    found = net.eval()(thumbnails, images).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, model.predict_proba(means), atol=1e-3)

    for name, value in before.items():
        torch.testing.assert_close(net.state_dict()[name], value)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.testing.assert_close(saved["classifier.weight"], net.classifier.weight.detach())
    assert read_patch_counts(tmp_path / "patches.csv") == [EpochPatches(1, 6, 2 * sum(CELLS))]
