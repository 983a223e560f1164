# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole images without pyramids, or as a TensorPyramidBatch, through all that shows or measures the attention."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, list_data_collate
from tiny_networks import MAGNIFICATIONS, PATCH, mil_net, tiny_net

from monai_jsma.data import TensorPyramidBatch
from monai_jsma.engines import JSMAEvaluator
from monai_jsma.handlers.attention_images import AttentionImageHandler, AttentionImageSaver
from monai_jsma.inferers import JSMAInferer
from monai_jsma.metrics import AttentionOnTruth, AttentionShare, PatchesRead
from monai_jsma.networks import AllPatches, TopK
from monai_jsma.predictions.from_engine import collect_evidence

SIZE = (24, 20)  # 2 x 2 cells at 2 um/px, then 3 x 3
FORMS = pytest.mark.parametrize("decollate", [True, False])


def whole_images(kind="uint8", number=3):
    """Items of whole images, named as a loader names them."""
    items = []
    for i in range(number):
        generator = torch.Generator().manual_seed(i)
        pixels = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        image = pixels if kind == "uint8" else pixels.float() / 255
        items.append({"image": MetaTensor(image, meta={"filename_or_obj": f"whole/{i}.png"}), "label": i})
    return items


def evaluate(items, net, *attach, **options):
    batches = [list_data_collate(items[:2]), list_data_collate(items[2:])]
    if options.pop("as_pyramids", False):
        for batch in batches:
            batch["pyramid"] = TensorPyramidBatch(batch["image"].as_tensor(), MAGNIFICATIONS, PATCH)
            batch["image"] = MetaTensor(batch["pyramid"].thumbnail((16, 16)), meta=batch["image"].meta)
    options.setdefault("inferer", JSMAInferer(TopK(3, normalize=False)))
    metrics = options.pop("metrics", {})
    evaluator = JSMAEvaluator(torch.device("cpu"), batches, net, **options)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    for function in attach:
        function(evaluator)
    evaluator.run()
    return evaluator


@FORMS
@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("as_pyramids", [False, True])
def test_metrics_and_evidence_of_whole_images(decollate, kind, as_pyramids):
    metrics = {"attention": AttentionShare(), "patches": PatchesRead()}
    items = whole_images(kind)
    net = tiny_net()
    engine = evaluate(items, net, decollate=decollate, metrics=metrics, as_pyramids=as_pyramids)
    with torch.no_grad():
        images = torch.stack([item["image"].as_tensor() for item in items])
        expected = net.eval()(images, return_attention=True, sampler=TopK(3, normalize=False))
    share = expected["attention"][:, :4].sum(dim=1).mean().item()
    assert engine.state.metrics["attention_share_50X"] == pytest.approx(share, abs=1e-5)
    assert engine.state.metrics["attention_enrichment_50X"] == pytest.approx(share / (4 / 13), abs=1e-4)
    assert engine.state.metrics["patches_read"] == 3

    (evidence,) = collect_evidence(engine)  # of the last batch, of one image
    assert evidence.file == "whole/2.png"
    assert evidence.geometry.grids == ((2, 2), (3, 3))
    assert (evidence.geometry.size, evidence.geometry.mpp) == (SIZE, 1.0)
    assert evidence.location == (0, 0)
    np.testing.assert_allclose(evidence.attention, expected["attention"][2], atol=1e-6)
    assert evidence.cells.tolist() == expected["cells"][2].tolist()
    assert (evidence.thumbnail.dtype, evidence.thumbnail.shape) == (np.uint8, (3, 16, 16))
    direct = TensorPyramidBatch(images[2:], MAGNIFICATIONS, PATCH)
    patches = direct.read(torch.zeros(3, dtype=torch.long), expected["cells"][2])
    np.testing.assert_allclose(evidence.read_patches(evidence.cells) / 255, patches, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(evidence.thumbnail / 255, direct.thumbnail((16, 16))[0], atol=1 / 255)


@FORMS
@pytest.mark.parametrize("make_net", [tiny_net, mil_net])
def test_handlers_draw_whole_images(tmp_path, decollate, make_net):
    saver = AttentionImageSaver(tmp_path / "png", ["a", "b", "c"], max_pictures=3)
    board = AttentionImageHandler(log_dir=str(tmp_path / "board"))

    attach = (saver.attach, board.attach)
    evaluate(whole_images(), make_net(), *attach, decollate=decollate, inferer=JSMAInferer(AllPatches()))
    board.close()
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert [re.sub("_[0-9a-f]{6}", "", name) for name in names] == ["0.png", "1.png", "2.png"]
    assert list((tmp_path / "board").iterdir())


def test_whole_images_with_an_answer():
    items = [{**item, "cell": torch.tensor([2, 5]), "level": "100X"} for item in whole_images()]
    engine = evaluate(items, tiny_net(), metrics={"truth": AttentionOnTruth()})
    with torch.no_grad():
        images = torch.stack([item["image"].as_tensor() for item in items])
        attention = engine.network(images, return_attention=True)["attention"]
    assert engine.state.metrics["truth_cell_attention"] == pytest.approx(attention[:, [2, 5]].sum(1).mean().item())


def test_whole_images_without_a_name_cannot_be_saved(tmp_path):
    items = [{"image": item["image"].as_tensor(), "label": 0} for item in whole_images()]
    evaluate(items, tiny_net(), metrics={"attention": AttentionShare()})
    with pytest.raises(ValueError, match="image without a file name cannot be saved"):
        evaluate(items, tiny_net(), AttentionImageSaver(tmp_path).attach)


def test_whole_images_need_the_network():
    engine = Engine(lambda engine, batch: None)
    engine.state.batch = [{"image": torch.zeros(3, *SIZE)}]
    engine.state.output = [{"attention": torch.ones(13)}]
    with pytest.raises(ValueError, match="'pyramid' .of the transforms; or 'image', and a network of monai_jsma"):
        collect_evidence(engine)


def test_a_batch_of_tensors_is_taken_apart_as_pyramids():
    images = torch.rand(2, 3, 20, 30)
    batch = TensorPyramidBatch(images, (1.0, 0.5), 8, mpp=0.25, aligned=True)
    assert len(batch) == 2
    for pyramid, image in zip(batch, images, strict=True):
        assert (pyramid.mpp, pyramid.mpp_source) == (0.25, "given")
        assert pyramid.geometry == batch.geometry
        np.testing.assert_array_equal(pyramid.reader.array, (image * 255).round().byte().permute(1, 2, 0))
    with pytest.raises(ValueError, match="reach 255: divide images of"):
        TensorPyramidBatch(torch.full((1, 3, 8, 8), 255.0), (1.0,), 8)[0]
