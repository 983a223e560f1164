# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def log_levels_as_at_the_start() -> None:
    """A bundle's logging.conf, read by an earlier test, would let the tests of messages see more of them."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("monai_jsma"):
            logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def net() -> Any:
    """The network of the tests of predictions."""
    from tiny_networks import tiny_net

    return tiny_net().eval()


@pytest.fixture
def items(tmp_path) -> list[dict[str, Any]]:
    """What it predicts there; a module that has other items names its own."""
    from prediction_cases import make_items

    return make_items(tmp_path)
