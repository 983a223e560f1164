# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

LONGEST = (  # a file is run by one process: begun last, these would leave the other one idle
    "test_tutorials.py",
    "test_docs.py",
    "test_compare.py",
    "test_bundle_distributed.py",
    "test_packaging.py",
    "test_learning.py",
    "test_benchmarks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, in the order of :data:`LONGEST`; all others stay as they were."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True)
def log_levels_as_at_the_start() -> None:
    """A bundle's logging.conf, read by an earlier test, would let the tests of messages see more of them.

    What an earlier test, or a library that it called, has switched off would let them see less.
    """
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.disabled = False
        if name.startswith("monai_jsma"):
            logger.setLevel(logging.NOTSET)


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


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the ``report`` command and returns the numbers of ``report.json``."""
    from monai_jsma.__main__ import main

    def run(*arguments: str, resamples: int = 20) -> dict[str, Any]:
        options = ["--output", str(tmp_path / "out"), "--resamples", str(resamples), "--base-dir", str(tmp_path)]
        assert main(["report", *arguments, *options]) == 0, capsys.readouterr().err
        return json.loads((tmp_path / "out" / "report.json").read_text())

    return run


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Pictures of three sizes; the last is smaller than a patch."""
    from PIL import Image
    from tiny_networks import SIZES, pictures

    paths = [tmp_path / f"{i}.png" for i in range(len(SIZES))]
    for path, picture in zip(paths, pictures(*SIZES)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    return paths
