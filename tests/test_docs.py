# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The README and the quick start are followed word by word: all blocks of a page run in order, in a copy of bundles/.

Python blocks of a page share one namespace. Each ``bash`` block begins where the last one ended. Of its commands

- ``make TARGET`` and the activation of ``.venv`` are not run: the suite itself runs in what they made. The target must
  exist;
- those in :data:`COVERED` would take minutes; each names the test that runs the same thing;
- everything else is run.
"""

from __future__ import annotations

import math
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT
from warm_python import warm_python

PAGES = ("README.md", "docs/quickstart.md", "docs/own_slides.md", "docs/encoders.md", "docs/export.md")
LINKING = sorted(p for pattern in ("*.md", "docs/*.md", "bundles/*/docs/*.md") for p in ROOT.glob(pattern))

# command as written: the test that covers it
COVERED = {
    "python -m monai.bundle run training --config_file configs/train.json "
    "--dataset_dir /path/to/ICIAR2018_BACH_Challenge": "tests/bundles/test_bundle.py::test_trains",
    "python -m monai_jsma export bundles/bach/models/model.pt exported --bundle bundles/bach --config demo": (
        "tests/cli/test_export.py::test_a_trained_bundle_is_exported"
    ),
    "pip install .": "tests/test_packaging.py::test_wheel_holds_every_module",
}


class Block(NamedTuple):
    """A fenced block of a page: its language, the line of its first line of code, and the code."""

    language: str
    line: int
    code: str


def find_blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    blocks = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        language, code = match.groups()
        lines_before = text.count("\n", 0, match.start(2))
        blocks.append(Block(language, lines_before + 1, code))
    return blocks


def split_commands(code: str) -> list[str]:
    """Commands of a bash block, without comments, continued lines joined."""
    joined = code.replace("\\\n", " ")
    plain = re.sub(r"\s+#.*|^#.*", "", joined, flags=re.MULTILINE)
    commands = [" ".join(line.split()) for line in plain.splitlines()]
    return [command for command in commands if command]


def is_run(command: str) -> bool:
    target = re.fullmatch(r"make (\w+)", command)
    if target:
        makefile = (ROOT / "Makefile").read_text()
        assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), f"no target: {command}"
        return False
    return command not in COVERED and command != "source .venv/bin/activate"


def run_bash(block: Block, page: str, end: Path) -> None:
    """Run a block with a Python that starts at once first on the path, and go to the folder where it ended."""
    commands = [command for command in split_commands(block.code) if is_run(command)]
    script = "\n".join(["set -euo pipefail", *commands, 'pwd > "$END"'])
    env = {**os.environ, "PATH": f"{warm_python().parent}:{os.environ['PATH']}", "END": str(end)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    written = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, f"{page}:{block.line} failed:\n{script}\n{written}"
    os.chdir(end.read_text().strip())


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = shutil.ignore_patterns("data", "eval", "models", "predictions", "runs")
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=outputs)
    monkeypatch.chdir(tmp_path)

    blocks = find_blocks(page)
    assert {"bash", "python"} <= {block.language for block in blocks}
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.language == "python":
            on_its_line = "\n" * (block.line - 1) + block.code
            exec(compile(on_its_line, page, "exec"), namespace)
        elif block.language == "bash":
            run_bash(block, page, tmp_path / "end")


def test_covered_commands_are_written_and_covered() -> None:
    written = set()
    for page in PAGES:
        for block in find_blocks(page):
            if block.language == "bash":
                written.update(split_commands(block.code))

    for command, test in COVERED.items():
        file, name = test.split("::")
        assert command in written, f"no page says: {command}"
        assert f"def {name}(" in (ROOT / file).read_text(), f"{command} is said to be covered by {test}"


def test_loop_of_the_components_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loop = runpy.run_path(str(ROOT / "docs/examples/loop.py"), run_name="__main__")
    assert math.isfinite(loop["loss"].item())


@pytest.mark.parametrize("page", LINKING, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_name_real_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
