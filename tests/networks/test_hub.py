# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A hub that cannot be reached is an error at once or its cache, one that can be is left alone."""

from __future__ import annotations

import importlib
import socket
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from monai_jsma.networks import build_backbone
from monai_jsma.networks.hub import find_hub_fault, hub_within_seconds

timm = importlib.import_module("timm")  # only now: monai_jsma.networks makes it importable

NAME = "test_resnet"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """No network, an empty cache, and no pause between attempts; the list has what was asked for."""
    asked = []

    def refuse(address, *_, **__):
        asked.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("monai_jsma.networks.hub.getproxies", dict)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to try again"))
    return asked


@pytest.mark.parametrize("name", [NAME, f"hf-hub:timm/{NAME}.r160_in1k"])
def test_without_a_network_the_error_comes_at_once(asked, name):
    message = (
        rf"could not be loaded into '{name}': huggingface.co cannot be reached \(.*Name or service not known\), and"
    )
    with pytest.raises(RuntimeError, match=message):
        build_backbone(name, "imagenet")
    assert len(asked) == 1
    assert constants.HF_HUB_OFFLINE is False


def test_random_weights_ask_nobody(asked):
    build_backbone(NAME, None)
    assert not asked
    with pytest.raises(ValueError, match=r"'hf-hub:owner/model' cannot be made: huggingface.co cannot be reached"):
        build_backbone("hf-hub:owner/model", None)


def test_without_a_network_the_cache_is_used(asked, tmp_path, caplog):
    donor = timm.create_model(NAME)
    folder = tmp_path / "hub" / f"models--timm--{NAME}.r160_in1k"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    save_file(donor.state_dict(), folder / "snapshots" / commit / "model.safetensors")
    backbone = build_backbone(NAME, "imagenet")
    assert torch.equal(backbone.model.conv1[0].weight, donor.conv1[0].weight)
    assert len(asked) == 1
    assert "huggingface.co cannot be reached" in caplog.text
    assert "weights can come from the cache only" in caplog.text


def test_a_hub_that_takes_connections_is_left_alone(monkeypatch):
    """However slowly it answers afterwards: its client keeps its own times."""
    connection = SimpleNamespace(close=lambda: None)
    addresses = []

    def connect(address, timeout):
        addresses.append(address)
        return connection

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr("monai_jsma.networks.hub.getproxies", dict)
    with hub_within_seconds():
        assert constants.HF_HUB_OFFLINE is False
    assert addresses == [("huggingface.co", 443)]
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.example:8080")
    assert find_hub_fault() is None
    monkeypatch.setattr("monai_jsma.networks.hub.getproxies", lambda: {"http": "proxy.example:3128"})
    assert find_hub_fault() is None
    monkeypatch.setattr("monai_jsma.networks.hub.proxy_bypass", lambda host: host == "mirror.example")
    assert find_hub_fault() is None
    assert addresses[1:] == [("mirror.example", 8080), ("proxy.example", 3128), ("mirror.example", 8080)]


def test_other_errors_and_the_setting_of_the_user_stay(asked, monkeypatch):
    inside = []

    def fail():
        with hub_within_seconds():
            inside.append(constants.HF_HUB_OFFLINE)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [True]
    assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_within_seconds():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is True
    assert len(asked) == 1
