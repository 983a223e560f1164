# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: every picture is there, nothing is fetched or complained about, and it fits."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from browser import find_browser
from PIL import Image
from report_cases import ten, write

from monai_jsma.report import Settings, read_runs, write_report

# Appended to a copy of the page, whose policy then has to allow it. It writes what it found where --dump-dom shows it.
PROBE = """<script>addEventListener("load", () => {
const shown = image => image.complete && image.naturalWidth > 0 ? "shown" : "MISSING";
const found = [...document.images].map(image => `${shown(image)}:${image.alt}`);
const fetched = performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:"));
const wide = document.documentElement.scrollWidth - window.innerWidth;
const lines = [`images ${found.length}`, ...found, `fetched ${fetched.length}`, `wide ${wide}`];
document.body.innerHTML = `<pre id="probe">${lines.join("\\n")}</pre>`;
});</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs; of the pictures of their errors one is there."""
    folder = tmp_path_factory.mktemp("report")
    Image.fromarray(np.full((60, 100, 3), 200, np.uint8)).save(folder / "9.png")
    runs = read_runs([f"{name}={write(folder / f'{name}.jsonl', ten())}" for name in ("multi", "50X")])
    write_report(runs, folder / "out", Settings(resamples=10), base_dir=folder)
    return folder / "out" / "report.html"


def browse(page: Path, width: int = 1200) -> tuple[str, str]:
    """What the page became, and what the browser said."""
    command = [
        find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--enable-logging=stderr", f"--user-data-dir={page.parent / f'profile{width}'}", f"--window-size={width},900",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def probed(page: Path, text: str, width: int = 1200) -> str:
    """The probe's finding in a copy of the page."""
    copy = page.with_name("copy.html")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    copy.write_text(text.replace("</body>", f"{PROBE}</body>"))
    return re.search(r'<pre id="probe">(.*?)</pre>', browse(copy, width)[0], re.DOTALL)[1]


@pytest.mark.parametrize("width", [1200, 500])
def test_every_picture_is_shown_and_the_page_fits(page, width):
    text = page.read_text()
    found = probed(page, text, width)
    # Of each run confusion, ROC, precision-recall, calibration, risk-coverage, attention and one error; four for the
    # comparison.
    assert "images 18\n" in found
    assert found.count("shown:") == 18, found
    assert "shown:\n" not in found  # each has its text
    assert "fetched 0\n" in found
    assert int(re.search(r"wide (-?\d+)", found)[1]) <= 0, "the page must not scroll sideways"


def test_the_probe_sees_a_broken_picture(page):
    text = page.read_text()
    broken = text.replace("data:image/png;base64,", "data:image/png;base64,AAAA", 1)
    assert probed(page, broken).count("MISSING:Thumbnail of") == 1


def test_the_browser_has_nothing_to_say(page):
    _, said = browse(page)
    assert "CONSOLE" not in said
    bad = page.with_name("bad.html")
    bad.write_text(page.read_text().replace("</body>", "<script>1</script></body>"))
    assert "CONSOLE" in browse(bad)[1]  # the page's policy forbids scripts
