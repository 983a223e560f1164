# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The viewer in a real browser: slide, attention, boxes and annotations lie where they should, and keys work."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from record_cases import pyramid_of, record_of
from slide_files import shared_slide, write_pyramid
from viewer_cases import serve

from monai_jsma.datalists.regions import Area
from monai_jsma.viewer import Viewer
from monai_jsma.viewer import slide_tiles as tiles

SIZE = (600, 900)
GROUND = (200, 120, 160)
SQUARE = np.array([(300, 450), (300, 600), (450, 600), (450, 450)], float)  # row, column
# The page's own objects are in its module: what is asked for is what is seen.
PLACE = "Object.fromEntries(new URLSearchParams(location.hash.slice(1)))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def slides(folder):
    """Two slides of one color, the second with a dark corner."""
    plain = np.full((*SIZE, 3), GROUND, np.uint8)
    cornered = plain.copy()
    cornered[:300, :300] = 20
    return [
        write_pyramid(folder / name, [pixels, pixels[::2, ::2]], compression="deflate")
        for name, pixels in (("a.tif", plain), ("<b>&.tif", cornered))
    ]


@pytest.fixture(scope="module")
def server(slides):
    """Of the first slide one prediction, right; of the second two regions, the second wrong."""
    first = record_of(pyramid_of(slides[0], patch_size=150), {1: 0.25, 9: 0.75}, label=1)  # 2 x 3 and 4 x 6 cells
    whole = record_of(pyramid_of(slides[1], patch_size=150, size=(600, 450)), {0: 1.0}, label=1)
    part = record_of(pyramid_of(slides[1], patch_size=150, origin=(0, 450), size=(600, 450)), {2: 1.0}, label=0)
    part = replace(part, probabilities=(0.25, 0.75))
    areas = {slides[0]: [Area(("tumour",), SQUARE)]}
    with serve(Viewer([first, whole, part], title="<i>runs</i>", areas=areas)) as server:
        yield server


@pytest.fixture(scope="module")
def browser(folder):
    browser = Browser(folder / "profile")
    yield browser
    browser.close()


def visit(browser, server, place=""):
    browser.said.clear()
    browser.requested.clear()
    browser.visit(server.url + place)
    browser.wait("document.querySelectorAll('#classes dt').length > 0 && !document.querySelector('.legends').hidden")
    settle(browser)


def settle(browser):
    """Until two pictures are equal: tiles have come, and nothing moves."""
    before = browser.shoot()
    for _ in range(100):
        time.sleep(0.25)
        after = browser.shoot()
        if np.array_equal(before, after):
            return
        before = after
    raise AssertionError("the page does not come to rest")


def view_of(browser):
    """Where the slide is on the screen: left, top and pixels of the screen for each of the slide."""
    left, top, width, height = browser.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('#slide').getBoundingClientRect())"
    )
    scale = min(width / (SIZE[1] * 1.05), height / (SIZE[0] * 1.05))
    return left + width / 2 - SIZE[1] / 2 * scale, top + height / 2 - SIZE[0] / 2 * scale, scale


def pixel(browser, x, y):
    """The color at a pixel of the slide, when all of it is shown."""
    left, top, scale = view_of(browser)
    return browser.shoot()[round(top + y * scale), round(left + x * scale)].astype(int)


def switch(browser, name, is_on):
    browser.run(
        f"(box => {{ if (box.checked !== {str(is_on).lower()}) box.click(); }})(document.getElementById('{name}'))"
    )


def test_the_slide_is_seen_and_nothing_is_said_or_fetched_from_elsewhere(browser, server):
    visit(browser, server)
    assert browser.said == []
    assert browser.requested
    assert all(url.startswith((server.url, "data:", "about:")) for url in browser.requested)
    assert browser.run("document.getElementById('title').textContent") == "<i>runs</i>"
    assert browser.run("document.getElementById('name').textContent") == "a.tif"
    for name in ("show-attention", "show-patches", "show-regions", "show-annotations"):
        switch(browser, name, False)
    for x, y in ((5, 5), (895, 595), (450, 300), (5, 595), (895, 5)):
        assert np.abs(pixel(browser, x, y) - GROUND).max() <= 4
    left, top, _ = view_of(browser)
    assert np.abs(browser.shoot()[round(top) - 6, round(left) + 40].astype(int) - GROUND).max() > 30  # beside it


def test_attention_lies_on_its_cells_and_layers_are_switched(browser, server):
    visit(browser, server)
    for name in ("show-patches", "show-regions", "show-annotations"):
        switch(browser, name, False)
    coarse = (450, 75)  # x, y in cell 1 of 100X: row 0, column 1 of 2 x 3
    fine = (525, 75)  # cell 9 of all is cell 3 of 200X: row 0, column 3 of 4 x 6, in that of 100X too
    nothing = (75, 500)
    assert np.abs(pixel(browser, *nothing) - GROUND).max() <= 2
    assert np.abs(pixel(browser, 320, 200) - GROUND).max() > 5
    both = pixel(browser, *fine)
    assert both[0] > 200  # the yellow end: the most there is
    assert both[2] < 130
    switch(browser, "layer-1", False)
    assert np.abs(pixel(browser, *fine) - pixel(browser, *coarse)).max() <= 2
    assert np.abs(pixel(browser, *fine) - GROUND).max() > 5
    switch(browser, "layer-1", True)
    switch(browser, "layer-0", False)
    assert np.abs(pixel(browser, 320, 200) - GROUND).max() <= 4
    assert np.abs(pixel(browser, *fine) - GROUND).max() > 8
    switch(browser, "layer-0", True)


def test_boxes_and_annotations_lie_where_they_should(browser, server):
    visit(browser, server)
    switch(browser, "show-attention", False)
    left, top, scale = view_of(browser)
    picture = browser.shoot().astype(int)

    def has_color(x, y, color):
        row, col = round(top + y * scale), round(left + x * scale)
        near = picture[row - 2 : row + 3, col - 2 : col + 3]
        return (np.abs(near - color).max(axis=-1) < 30).any()

    yellow, sky, blue = (240, 228, 66), (86, 180, 233), (0, 38, 255)
    assert has_color(375, 300, yellow)  # lower edge of the patch of 100X in columns 300 to 600, rows 0 to 300
    assert has_color(600, 200, yellow)
    assert has_color(525, 150, sky)  # and of that of 200X in columns 450 to 600, rows 0 to 150
    assert has_color(450, 400, blue) or has_color(452, 400, blue)
    assert has_color(525, 450, blue)
    assert not has_color(700, 500, blue)
    assert not has_color(75, 300, yellow)
    switch(browser, "show-patches", False)
    switch(browser, "show-annotations", False)
    assert np.abs(pixel(browser, 525, 150) - GROUND).max() <= 4
    assert np.abs(pixel(browser, 525, 450) - GROUND).max() <= 4


def test_keys_go_from_patch_to_patch_and_move_the_view(browser, server):
    visit(browser, server)
    browser.press("n")
    assert browser.run(PLACE) == {"slide": "0", "region": "0", "patch": "0"}
    assert "weight 0.750" in browser.run("document.getElementById('patch-status').textContent")
    settle(browser)
    assert browser.run("document.getElementById('scale-text').textContent") == "20 \u00b5m"
    browser.press("n")
    assert browser.run(PLACE)["patch"] == "1"
    browser.press("n")
    assert browser.run(PLACE)["patch"] == "0"
    browser.press("p")
    assert browser.run(PLACE)["patch"] == "1"
    settle(browser)
    before = browser.shoot()
    browser.press("ArrowRight")
    settle(browser)
    assert not np.array_equal(before, browser.shoot())
    browser.press("0")
    settle(browser)
    assert browser.run("document.getElementById('scale-text').textContent") == "50 \u00b5m"
    browser.press("a")
    assert browser.run("document.getElementById('show-attention').checked") is False
    browser.press("2")
    assert browser.run("document.getElementById('layer-1').checked") is False
    browser.press("2")
    browser.press("a")
    browser.press("j")
    browser.wait("document.getElementById('name').textContent === '<b>&.tif'")
    assert browser.run(PLACE) == {"slide": "1", "region": "0"}
    browser.press("j")
    assert browser.run(PLACE)["region"] == "1"
    assert "wrong" in browser.run("document.getElementById('verdict').textContent")


def test_the_scale_bar_is_as_long_as_it_says(browser, server):
    visit(browser, server)
    _, _, scale = view_of(browser)
    width = browser.run("document.getElementById('scale-line').getBoundingClientRect().width")
    assert browser.run("document.getElementById('scale-text').textContent") == "50 \u00b5m"
    assert width == pytest.approx(50 / 0.5 * scale, abs=1)  # 0.5 um per pixel


def test_filters_leave_what_they_name(browser, server):
    visit(browser, server)

    def choose(name, value):
        browser.run(
            f"(select => {{ select.value = '{value}'; select.dispatchEvent(new Event('change')); }})"
            f"(document.getElementById('filter-{name}'))"
        )
        return browser.run("[...document.querySelectorAll('#slides b')].map(name => name.textContent)")

    assert choose("answer", "wrong") == ["<b>&.tif"]
    assert "1 of 3 predictions, 1 of 2 slides" in browser.run("document.getElementById('count').textContent")
    assert choose("answer", "right") == ["a.tif", "<b>&.tif"]
    assert choose("answer", "unknown") == []
    choose("answer", "")
    assert choose("true", "benign") == ["<b>&.tif"]
    assert choose("predicted", "benign") == []
    choose("predicted", "")
    assert choose("true", "") == ["a.tif", "<b>&.tif"]


def test_a_click_chooses_the_patch_under_it(browser, server):
    visit(browser, server)
    left, top, scale = view_of(browser)
    browser.click(left + 525 * scale, top + 75 * scale)
    assert browser.run(PLACE)["patch"] == "0"  # the smaller of two
    visit(browser, server)
    browser.click(left + 350 * scale, top + 200 * scale)
    assert browser.run(PLACE)["patch"] == "1"


def test_an_address_leads_back_to_its_view(browser, server):
    visit(browser, server, "#slide=1&region=1&patch=0")
    assert browser.run(PLACE) == {"slide": "1", "region": "1", "patch": "0"}
    browser.run("location.hash = '#slide=0&patch=1'")
    browser.wait("document.getElementById('name').textContent === 'a.tif'")
    assert browser.run(PLACE) == {"slide": "0", "region": "0", "patch": "1"}
    for nonsense in ("#slide=99&region=-1&patch=x", "#slide=1e1", "#<script>alert(1)</script>", "#slide=0&patch=99"):
        visit(browser, server, nonsense)
        assert browser.said == []
        assert browser.run("document.getElementById('name').textContent") == "a.tif"


def test_a_slide_that_goes_away_is_told_on_the_page(browser, server, slides, monkeypatch):
    monkeypatch.setattr(tiles, "_CHECKED_FOR", 0)
    visit(browser, server)
    path = Path(slides[1])
    aside = path.rename(path.with_name("aside.tif"))
    try:
        browser.press("j")
        browser.wait("!document.getElementById('message').hidden")
        assert "there is no such file" in browser.run("document.getElementById('message').textContent")
        browser.press("k")
        browser.wait("document.getElementById('message').hidden")
    finally:
        aside.rename(path)


def test_a_slide_that_is_read_slowly_says_so_until_it_is_there(browser, server, monkeypatch):
    may_read = threading.Event()
    read = tiles.SlideTiles.read

    def wait_and_read(store, number, index):
        may_read.wait(30)
        return read(store, number, index)

    monkeypatch.setattr(tiles.SlideTiles, "read", wait_and_read)
    browser.visit(server.url)
    browser.wait("!document.getElementById('loading').hidden")
    may_read.set()
    browser.wait("document.getElementById('loading').hidden")


def test_the_page_fits_narrow_and_wide_windows(browser, server):
    visit(browser, server)
    try:
        for size in ((1920, 1080), (1280, 720), (600, 900)):
            browser.resize(size)
            settle(browser)
            assert browser.run("document.documentElement.scrollWidth - window.innerWidth") <= 0
            assert browser.run("document.getElementById('slide').clientWidth") > 300
    finally:
        browser.resize((1500, 950))


def test_a_real_slide_is_seen_as_its_file_has_it(browser):
    path = shared_slide("cmu-1-small-region.svs")
    record = record_of(pyramid_of(path, (2.0, 1.0), 299), {0: 0.4, 20: 0.6}, label=1)
    pyramid = pyramid_of(path, (2.0,), 299)
    height, width = record.size
    with serve(Viewer([record])) as server:
        visit(browser, server)
        for name in ("show-attention", "show-patches", "show-regions"):
            switch(browser, name, False)
        rectangle = browser.run(
            "(({left, top, width, height}) => [left, top, width, height])"
            "(document.querySelector('#slide').getBoundingClientRect())"
        )
        picture = browser.shoot().astype(float)
        assert browser.said == []
    left, top, slide_width, slide_height = rectangle
    scale = min(slide_width / (width * 1.05), slide_height / (height * 1.05))
    rows, cols = round(height * scale), round(width * scale)
    first_row = round(top + (slide_height - rows) / 2)
    first_col = round(left + (slide_width - cols) / 2)
    seen = picture[first_row : first_row + rows, first_col : first_col + cols]
    expected = pyramid.thumbnail((rows, cols)).transpose(1, 2, 0).astype(float)
    middle = (slice(rows // 4, 3 * rows // 4), slice(cols // 4, 3 * cols // 4))  # without what lies over the corners

    def correlate(shifted):
        """Of means of 4 x 4 pixels: the browser reduces tiles without averaging."""
        return np.corrcoef(average(seen[middle]).ravel(), average(shifted[middle]).ravel())[0, 1]

    assert correlate(expected) > 0.97
    for axis in (0, 1):
        for step in (-4, 4):
            assert correlate(np.roll(expected, step, axis)) < correlate(expected) - 0.02


def average(pixels):
    rows, cols = pixels.shape[0] // 4, pixels.shape[1] // 4
    return pixels[: 4 * rows, : 4 * cols].reshape(rows, 4, cols, 4, 3).mean(axis=(1, 3))
