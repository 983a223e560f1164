# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the viewer answers, and what it does not: paths, methods, hosts, tokens, many at once, files that go away."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record_cases import pyramid_of, record_of
from slide_files import picture, shared_slide
from viewer_cases import ask, make_records, make_slide, send, serve

from monai_jsma.geometry import Box
from monai_jsma.slides import area_resample, inspect_slide, open_slide
from monai_jsma.viewer import Access, Viewer, ViewerServer
from monai_jsma.viewer import slide_tiles as tiles

SECRET = b"what no request may get"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    make_slide(folder, "slides/a.tif")
    (folder / "secret.txt").write_bytes(SECRET)
    (folder / "slides" / "secret.txt").write_bytes(SECRET)
    (folder / "slides" / "b.tif").write_bytes((folder / "slides" / "a.tif").read_bytes())
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serve(Viewer(make_records(folder / "slides" / "a.tif"))) as server:
        yield server


def as_sent(pixels):
    """Pixels as JPEG makes them."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    return shown(buffer.getvalue())


def shown(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def tile_path(server, tile="0/0_0", slide=0):
    version = ask(server, f"/slides/{slide}.json")
    return f"/slides/{slide}/{json.loads(version.content)['version']}/{tile}.jpg"


# --------------------------------------------------------------------------------------------------- what is answered


def test_tiles_are_the_pixels_of_the_slide(server):
    page = json.loads(ask(server, "/slides/0.json").content)
    assert (page["width"], page["height"], page["tileSize"], page["minLevel"]) == (900, 600, 256, 0)
    pixels = picture(600, 900)
    for level, col, row, box in (
        (page["maxLevel"], 1, 2, Box(512, 256, 88, 256)),
        (page["maxLevel"], 3, 0, Box(0, 768, 256, 132)),
    ):
        answer = ask(server, tile_path(server, f"{level}/{col}_{row}"))
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
        stored = area_resample(pixels, box, (int(box.height), int(box.width)))
        np.testing.assert_array_equal(shown(answer.content), as_sent(stored))


def test_tiles_of_a_real_slide_are_its_pixels():
    path = shared_slide("cmu-1-small-region.svs")
    info = inspect_slide(path)
    height, width = info.size
    record = record_of(pyramid_of(path, (2.0, 1.0), 299), {0: 1.0})
    with serve(Viewer([record])) as server:
        page = json.loads(ask(server, "/slides/0.json").content)
        level = page["maxLevel"] - 2
        answer = ask(server, tile_path(server, f"{level}/1_2"))
        pixels = open_slide(info).read(0, (0, 0), (height, width))
    stored = area_resample(pixels, Box(2048, 1024, min(1024, height - 2048), 1024), (-(-(height - 2048) // 4), 256))
    np.testing.assert_array_equal(shown(answer.content), as_sent(stored))


def test_every_file_that_the_page_names_is_served(server):
    page = ask(server, "/").text
    names = re.findall(r'(?:href|src)="(/[^"#]+)"', page)
    scripts = [name for name in names if name.endswith("viewer.js")]
    for name in scripts:
        names += [f"/{module}" for module in re.findall(r'from "\./([^"]+)"', ask(server, name).text)]
    assert {"/viewer.js", "/overlay.js", "/panels.js", "/viewer.css", "/openseadragon.min.js"} <= set(names)
    for name in names:
        assert ask(server, name).status == 200, name
    assert "CodePlex" in ask(server, "/openseadragon-LICENSE.txt").text


def test_nothing_of_the_page_is_from_elsewhere(server):
    for name in ("/", "/viewer.css", "/viewer.js", "/overlay.js", "/panels.js"):
        text = ask(server, name).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|url\(|@import", text), name
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", ask(server, "/").text)


def test_every_answer_forbids_what_it_can(server):
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    for path in ("/", "/predictions.json", "/slides/0.json", tile_path(server), "/nothing"):
        headers = ask(server, path).headers
        assert headers["Content-Security-Policy"].startswith(policy), path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


# ----------------------------------------------------------------------------------------------- what is not answered

PATHS = [
    "/secret.txt", "/slides/secret.txt", "/slides/a.tif", "/a.tif", "/../secret.txt", "/../../etc/passwd",
    "/static/../../server.py", "/viewer.css/../page.html", "/./viewer.css", "//viewer.css/", "/viewer.css/",
    "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/..%5c..%5csecret.txt",
    "/%252e%252e%252fsecret.txt", "/..;/secret.txt", "/....//secret.txt", "/%c0%ae%c0%ae/secret.txt",
    "/\\..\\secret.txt", "/etc/passwd", "//etc/passwd", "/file:///etc/passwd", "/%00", "/viewer.css%00.jpg",
    "/page.html", "/viewer.css?x=1/../../secret.txt%00", "/.git/config", "/__init__.py", "/server.py", "/VIEWER.CSS",
    "/slides/", "/slides/0", "/slides/1.json", "/slides/-1.json", "/slides/+0.json", "/slides/0x0.json",
    "/slides/00000000000000000000.json", "/slides/999999999.json", "/slides/a.json", "/slides/..%2f..%2fsecret.json",
    "/slides/0.json/", "/slides/%30.json", "/slides/٣.json".encode().decode("latin-1"),
    "/openseadragon.min.js.map", "/favicon.ico",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_to_another_file(server, path):
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode("latin-1")
    answer = send(server, request)
    status = int(answer.split()[1])
    is_query_of_a_page = path.startswith("/viewer.css?")
    assert status == (200 if is_query_of_a_page else 404), answer
    assert SECRET not in answer
    assert b"root:" not in answer
    if status == 404:
        assert answer.rstrip().endswith(b".")  # in words
        assert b"Traceback" not in answer


TILES = [
    "99/0_0", "11/0_0", "10/4_0", "10/0_3", "10/999999999_0", "10/0_999999999", "10/9999999999999999999_0", "10/-1_0",
    "-1/0_0", "100/0_0", "10/0_0_0", "10/0", "10/0_0.5", "1e1/0_0", "10/ 0_0", "10/0_0%00", "10/../../0_0",
]  # fmt: skip


@pytest.mark.parametrize("tile", TILES)
def test_no_number_of_a_tile_does_harm(server, tile):
    path = tile_path(server, tile).replace(" ", "%20")
    answer = ask(server, path)
    assert answer.status == 404
    assert answer.text.startswith("There is no")


def test_tiles_of_another_version_are_refused(server):
    path = re.sub(r"/[0-9a-f]{12}/", "/0123456789ab/", tile_path(server))
    answer = ask(server, path)
    assert answer.status == 410
    assert "load the page again" in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_other_methods_are_refused(server, method):
    answer = ask(server, "/", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert "Only GET, HEAD" in answer.text
    assert answer.headers["Connection"] == "close"


def test_head_says_what_get_would(server):
    head = ask(server, "/viewer.css", "HEAD")
    assert (head.status, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(ask(server, "/viewer.css").content))


@pytest.mark.parametrize(
    "extra", ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0\r\nContent-Length: 9"]
)
def test_a_body_is_refused_and_is_no_second_request(server, extra):
    hidden = b"GET /viewer.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = send(server, f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n\r\n".encode() + hidden)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 403),  # no host
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        (b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 403),  # HTTP/0.9
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # TLS
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_in_words(server, request_, status):
    answer = send(server, request_)
    assert f" {status} ".encode() in answer.split(b"\r\n")[0], answer[:200]
    assert b"Content-Security-Policy: default-src 'none'" in answer
    content = answer.partition(b"\r\n\r\n")[2]
    assert content.endswith(b".\n")
    assert b"<" not in content
    assert b"nonsense" not in content
    assert ask(server, "/").status == 200


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("127.0.0.1:8000", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:80", True), ("127.0.0.2", True),
        ("evil.example", False), ("evil.example:80", False), ("127.0.0.1.evil.example", False), ("10.0.0.7", False),
        ("localhost.evil.example", False), ("127.0.0.1@evil.example", False), ("", False), ("[::1", False),
        ("localhost/evil.example", False), ("0x7f000001", False), ("localhost evil.example", False),
    ],
)  # fmt: skip
def test_a_name_that_leads_here_from_elsewhere_is_refused(server, host, is_known):
    for path in ("/", "/slides/0.json", "/nothing"):
        answer = ask(server, path, Host=host)
        if is_known:
            assert answer.status in (200, 404)
        else:
            assert answer.status == 403
            assert "another host" in answer.text


# ---------------------------------------------------------------------------------------------------------- the token


@pytest.fixture(scope="module")
def guarded(folder):
    viewer = Viewer(make_records(folder / "slides" / "a.tif"))
    with serve(viewer, Access(needs_token=True)) as server:
        yield server


def test_without_the_token_nothing_is_answered(guarded):
    token = guarded.access.token
    assert len(token) >= 40
    name = guarded.cookie
    for cookie in ("", token, f"{name}=", f"{name}={token[:-1]}", f"{name}={token}x", f"x{name}={token}", f"{name}=é"):
        for path in (
            "/",
            "/viewer.css",
            "/predictions.json",
            "/slides/0.json",
            "/nothing",
            f"/viewer.css?token={token}",
        ):
            answer = ask(guarded, path, **({"Cookie": cookie} if cookie.isascii() else {}))
            assert answer.status == 401, (path, cookie)
            assert "token" in answer.text
            assert token not in answer.text
    for query in (
        "token=",
        "token",
        f"token={token[:-1]}",
        f"token={token}x",
        f"Token={token}",
        "&" * 5000,
        "token=%ff",
    ):
        assert ask(guarded, f"/?{query}").status == 401


def test_the_token_in_the_address_becomes_a_cookie(guarded):
    answer = ask(guarded, guarded.url.partition(f":{guarded.server_port}")[2])
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    pair = cookie.split(";")[0]
    for path in ("/", "/predictions.json", "/slides/0.json"):
        assert ask(guarded, path, Cookie=f"other=1; {pair}").status == 200
    assert ask(guarded, "/", Cookie=pair, Host="evil.example").status == 403


def test_tokens_are_compared_in_constant_time(monkeypatch):
    access = Access(needs_token=True)
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("monai_jsma.viewer.access.hmac.compare_digest", compare)
    assert not access.is_token("wrong")
    assert access.is_token(access.token)
    assert compared == [(b"wrong", access.token.encode()), (access.token.encode(),) * 2]
    assert Access(needs_token=True).token != access.token


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_no_token_is_needed(host):
    try:
        access = Access(host)
    except ValueError:
        pytest.skip(f"this machine has no {host}")
    assert access.is_local
    assert access.token is None
    assert Access(host, needs_token=True).token is not None


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_the_address_that_is_printed_is_answered(server, host):
    try:
        access = Access(host)
        own = ViewerServer(server.viewer, access)
    except (ValueError, OSError):
        pytest.skip(f"this machine has no {host}")
    own.server_close()
    name = own.url.removeprefix("http://").partition("/")[0]
    assert access.is_known_host([name])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_a_host_that_others_reach_needs_a_token(host):
    access = Access(host)
    assert not access.is_local
    assert access.token is not None
    assert access.is_known_host(["192.0.2.7:80"])
    assert not access.is_known_host(["evil.example"])


def test_a_host_that_does_not_exist_is_told():
    with pytest.raises(ValueError, match="no such host; name an address of this machine"):
        Access("no such host")


# ------------------------------------------------------------------------------------------ many, and what goes away


def test_a_port_in_use_is_told(server):
    with pytest.raises(OSError, match="in use; choose another with --port"):
        ViewerServer(server.viewer, Access(), port=server.server_port)


def test_ten_viewers_at_once_get_the_same_tiles(folder):
    names = [f"slides/c{i}.png" for i in range(5)]
    for i, name in enumerate(names):  # images that are decoded whole: more than are held
        Image.fromarray(picture(300, 400, seed=i)).save(folder / name)
    records = make_records(folder / "slides" / "a.tif")
    records += [record_of(pyramid_of(folder / name), {0: 1.0}) for name in names]
    failures = []

    def look(server, number):
        for step in range(6):
            slide = (number + step) % 6
            page = json.loads(ask(server, f"/slides/{slide}.json").content)
            answer = ask(server, f"/slides/{slide}/{page['version']}/{page['maxLevel']}/1_1.jpg")
            expected = picture(600, 900) if slide == 0 else picture(300, 400, seed=slide - 1)
            if answer.status != 200 or not np.array_equal(shown(answer.content), as_sent(expected[256:512, 256:512])):
                failures.append((slide, answer.status))

    with serve(Viewer(records)) as server:
        threads = [threading.Thread(target=look, args=(server, number)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = [slot.slide for slot in server.viewer._tiles._slots[1:] if slot.slide is not None]
    assert failures == []
    assert len(held) <= tiles._MAX_DECODED


def test_memory_of_tiles_is_bounded(folder):
    records = {"a": make_records(folder / "slides" / "a.tif")}
    file = records["a"][0].file
    store = tiles.SlideTiles({file: records["a"]}, max_bytes=30_000)
    zoom = store.open(0).zoom
    rows, cols = zoom.grid(zoom.max_level)
    sizes = []
    for row in range(rows):
        for col in range(cols):
            sizes.append(len(store.read(0, tiles.TileIndex(zoom.max_level, row, col))))
    assert sum(sizes) > 30_000
    assert store._kept._num_bytes == sum(map(len, store._kept._contents.values())) <= 30_000


def test_a_kept_tile_is_not_read_again(folder, monkeypatch):
    records = make_records(folder / "slides" / "a.tif")
    store = tiles.SlideTiles({records[0].file: records})
    first = store.read(0, tiles.TileIndex(9, 0, 0))
    monkeypatch.setattr(tiles, "read_averaged", None)
    assert store.read(0, tiles.TileIndex(9, 0, 0)) is first


@pytest.fixture
def no_patience(monkeypatch):
    """Files are looked at for every request."""
    monkeypatch.setattr(tiles, "_CHECKED_FOR", 0)


def test_a_slide_that_goes_away_and_comes_back(tmp_path, no_patience):
    path = Path(make_slide(tmp_path))
    other = make_slide(tmp_path, "b.tif", seed=5)
    records = [*make_records(path), *make_records(other)]
    with serve(Viewer(records)) as server:
        tile = tile_path(server, "10/0_0")
        assert ask(server, tile).status == 200
        aside = path.rename(tmp_path / "aside.tif")
        for address in (tile, "/slides/0.json"):
            answer = ask(server, address)
            assert answer.status == 410
            assert f"{path}: there is no such file" in answer.text
        assert ask(server, tile_path(server, "10/0_0", slide=1)).status == 200  # the others go on
        aside.rename(path)
        assert ask(server, tile_path(server, "10/0_0")).status == 200


def test_a_slide_that_is_replaced_is_never_mixed_with_the_old_one(tmp_path, no_patience):
    path = Path(make_slide(tmp_path))
    with serve(Viewer(make_records(path))) as server:
        old = tile_path(server, "10/0_0")
        assert ask(server, old).status == 200
        time.sleep(0.01)
        os.replace(make_slide(tmp_path, "new.tif", seed=3), path)
        answer = ask(server, old)
        assert answer.status == 410
        assert "the file has changed; load the page again" in answer.text
        new = shown(ask(server, tile_path(server, "10/0_0")).content)
    np.testing.assert_array_equal(new, as_sent(picture(600, 900, seed=3)[:256, :256]))


def test_a_slide_that_is_not_what_was_predicted_is_refused(tmp_path, no_patience):
    path = tmp_path / "a.png"
    Image.fromarray(picture(300, 400)).save(path)
    records = [record_of(pyramid_of(path), {0: 1.0})]
    with serve(Viewer(records)) as server:
        assert ask(server, "/slides/0.json").status == 200
        Image.fromarray(picture(100, 100)).save(path)
        answer = ask(server, "/slides/0.json")
        assert answer.status == 422
        assert "predict the changed file again" in answer.text
        path.write_bytes(b"this is no image")
        answer = ask(server, "/slides/0.json")
        assert answer.status == 422
        assert str(path) in answer.text


def test_a_record_that_contradicts_itself_is_told(folder):
    record, other = make_records(folder / "slides" / "a.tif")
    with serve(Viewer([replace(record, patches=other.patches)])) as server:
        answer = ask(server, "/slides/0.json")
    assert answer.status == 422
    assert "does not lie at a cell of the region" in answer.text


def test_a_link_is_followed_only_where_a_prediction_names_it(folder, tmp_path):
    link = tmp_path / "linked.tif"
    link.symlink_to(folder / "slides" / "a.tif")
    stray = tmp_path / "stray.tif"
    stray.symlink_to(folder / "secret.txt")
    with serve(Viewer(make_records(link))) as server:
        assert ask(server, tile_path(server)).status == 200
        for path in ("/stray.tif", "/linked.tif", "/slides/stray.tif"):
            assert ask(server, path).status == 404
    with serve(Viewer([*make_records(link)])) as server:
        link.unlink()
        link.symlink_to(folder / "secret.txt")
        answer = ask(server, "/slides/0.json")
    assert answer.status == 422
    assert SECRET not in answer.content


def test_a_failure_of_ours_is_told_without_its_details(server, monkeypatch, caplog):
    def fail(address):
        raise RuntimeError("/private/path")

    monkeypatch.setattr(server.viewer, "answer", fail)
    answer = ask(server, "/")
    assert answer.status == 500
    assert "private" not in answer.text
    assert "/private/path" in caplog.text
