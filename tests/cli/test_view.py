# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The command ``view``: what it prints, serves and refuses."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection

import pytest
from viewer_cases import make_records, make_slide

from monai_jsma.__main__ import main
from monai_jsma.viewer import ViewerServer

TUMOUR = [[100, 100], [300, 100], [300, 250], [100, 250], [100, 100]]  # x, y


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Predictions with paths relative to a folder of slides."""
    make_slide(tmp_path, "slides/a.tif")
    monkeypatch.chdir(tmp_path / "slides")
    records = make_records("a.tif")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    return tmp_path


def get(server, path):
    connection = HTTPConnection(server.access.address, server.server_port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


@pytest.fixture
def visit(monkeypatch):
    """Lets the command serve as long as a visit takes, which ends as Ctrl-C does."""

    def with_visit(look):
        serve_forever = ViewerServer.serve_forever

        def serve(server):
            thread = threading.Thread(target=serve_forever, args=(server, 0.02))
            thread.start()
            try:
                look(server)
            finally:
                server.shutdown()
                thread.join()
            raise KeyboardInterrupt

        monkeypatch.setattr(ViewerServer, "serve_forever", serve)

    return with_visit


def test_serves_the_slides_of_the_predictions(folder, visit, capsys):
    seen = {}

    def look(server):
        seen["page"] = get(server, "/predictions.json")
        seen["slide"] = get(server, "/slides/0.json")
        seen["url"] = server.url

    visit(look)
    assert main(["view", "p.jsonl", "--base-dir", "slides", "--port", "0"]) == 0
    page = json.loads(seen["page"][1])
    assert (page["title"], [slide["file"] for slide in page["slides"]]) == ("p.jsonl", ["a.tif"])
    assert json.loads(seen["slide"][1])["width"] == 900
    printed = capsys.readouterr().out
    assert seen["url"] in printed
    assert seen["url"].startswith("http://127.0.0.1:")
    assert "token" not in printed


def test_annotations_are_shown_and_those_without_a_slide_told(folder, visit, capsys):
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [TUMOUR]},
        "properties": {"classification": {"name": "tumour"}},
    }
    (folder / "annotations").mkdir()
    for name in ("a", "stranger"):
        (folder / "annotations" / f"{name}.geojson").write_text(json.dumps([feature]))
    seen = {}
    visit(lambda server: seen.update(slide=get(server, "/slides/0.json")))
    argv = ["view", "p.jsonl", "--base-dir", "slides", "--port", "0", "--annotations"]
    assert main([*argv, "annotations"]) == 0
    (annotation,) = json.loads(seen["slide"][1])["annotations"]
    assert annotation["name"] == "tumour"
    assert {tuple(point) for point in annotation["outlines"][0]} == set(map(tuple, TUMOUR))
    assert "stranger" in capsys.readouterr().err

    assert main([*argv, "annotations/stranger.geojson"]) == 1
    assert "holds no annotation of a file that was predicted" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--token"], ["--host", "0.0.0.0"]])
def test_a_token_where_others_may_ask(folder, visit, capsys, options):
    seen = {}
    visit(lambda server: seen.update(answer=get(server, "/"), token=server.access.token))
    assert main(["view", "p.jsonl", "--port", "0", *options]) == 0
    assert seen["answer"][0] == 401
    printed = capsys.readouterr().out
    assert f"/?token={seen['token']}" in printed
    assert ("unencrypted" in printed) == ("--host" in options)


@pytest.mark.parametrize("is_asked", [True, False])
def test_the_browser_is_opened_where_that_is_asked(folder, visit, monkeypatch, is_asked):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    visit(lambda server: None)
    assert main(["view", "p.jsonl", "--port", "0", *["--open"] * is_asked]) == 0
    assert len(opened) == is_asked


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing.jsonl"], "there are no such predictions"),
        (["empty.jsonl"], "empty.jsonl: no predictions"),
        (["p.jsonl", "--port", "65536"], "ports go up to 65535"),
        (["p.jsonl", "--host", "no such host"], "there is no such host"),
        (["p.jsonl", "--annotations", "nowhere"], "there are no such annotations"),
    ],
)
def test_wrong_input_is_one_line(folder, capsys, argv, message):
    (folder / "empty.jsonl").touch()
    assert main(["view", *argv]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_in_use_is_one_line(folder, visit, capsys):
    def look(server):
        argv = ["view", "p.jsonl", "--port", str(server.server_port)]
        assert main(argv) == 1

    visit(look)
    assert main(["view", "p.jsonl", "--port", "0"]) == 0
    error = capsys.readouterr().err
    assert "the port is in use; choose another with --port" in error
    assert error.count("\n") == 1
