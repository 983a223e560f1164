# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A network whose reading depends on the image is not exported as the graph of one image."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from monai.networks import convert_to_torchscript
from tiny_networks import mil_net, tiny_net
from torch import nn

IMAGES = torch.rand(1, 3, 24, 20)
MESSAGE = "(JSMANet|AttentionMIL) cannot be exported .*which patches are read depends on the image.*state dict"

EXPORTS = {
    "trace": lambda net: torch.jit.trace(net, IMAGES),
    "trace a wrapper": lambda net: torch.jit.trace(nn.Sequential(net), IMAGES),
    "script": torch.jit.script,
    "script a wrapper": lambda net: torch.jit.script(nn.Sequential(net)),
    "MONAI's ckpt_export": convert_to_torchscript,
    "MONAI's ckpt_export --use_trace": lambda net: convert_to_torchscript(net, inputs=IMAGES, use_trace=True),
    "trace_module": lambda net: torch.jit.trace_module(net, {"forward": IMAGES}),
    "torch.export": lambda net: torch.export.export(net, (IMAGES,), strict=False),
    "torch.export, strict": lambda net: torch.export.export(net, (IMAGES,), strict=True),
    "torch.export of a wrapper, strict": lambda net: torch.export.export(nn.Sequential(net), (IMAGES,), strict=True),
    "ONNX by tracing": lambda net: torch.onnx.export(net, (IMAGES,), io.BytesIO(), dynamo=False),
    "ONNX": lambda net: torch.onnx.export(net, (IMAGES,), io.BytesIO(), dynamo=True, verbose=False),
    "ONNX by tracing, a wrapper": lambda net: torch.onnx.export(
        nn.Sequential(net), (IMAGES,), io.BytesIO(), dynamo=False
    ),
}


@pytest.mark.parametrize("make", [tiny_net, mil_net])
@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_refused_in_words(make, name):
    if name == "ONNX":
        pytest.importorskip("onnxscript")  # without it, this exporter ends before it sees the network
    begin = "^" if "strict" in name else ""  # not somewhere among the words of torch.export
    with pytest.raises(RuntimeError, match=f"{begin}{MESSAGE}"):
        EXPORTS[name](make().eval())


def test_the_way_out_is_named():
    with pytest.raises(RuntimeError, match="'python -m monai_jsma export MODEL OUT' writes the graphs of its parts"):
        torch.jit.trace(tiny_net().eval(), IMAGES)
    with pytest.raises(RuntimeError, match="Its encoder alone can be exported"):
        torch.jit.trace(mil_net().eval(), IMAGES)


def test_a_backbone_alone_is_exported_and_right_for_other_images():
    network = tiny_net().eval()
    traced = torch.jit.trace(network.thumbnail_encoder.model, IMAGES)
    other = torch.rand(1, 3, 24, 20)
    torch.testing.assert_close(traced(other), network.thumbnail_encoder.model(other))


def test_copies_and_whole_modules_are_no_exports(tmp_path):
    network = tiny_net().eval()
    torch.save(network, tmp_path / "network.pt")
    loaded = torch.load(tmp_path / "network.pt", weights_only=False)
    for same in (copy.deepcopy(network), loaded):
        assert torch.equal(same(IMAGES), network(IMAGES))


@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_a_compiled_network_is_no_export(make):
    """``torch.compile`` reads the patches of each image anew."""
    network = make().eval()
    compiled = torch.compile(network, backend="eager")
    for image in (IMAGES, torch.rand(1, 3, 24, 20), torch.rand(1, 3, 40, 33)):
        torch.testing.assert_close(compiled(image), network(image))
