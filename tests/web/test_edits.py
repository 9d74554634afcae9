"""Uploads and edits: the same images as those of the commands, from hostile files too."""

import base64
import io
import json
import math
import shlex
import zipfile

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cases import mark_slow
from ddim.cli import main
from ddim.web.application import build_application
from ddim.web.settings import Limits, Settings
from serving import read_stream

RUN = "photos-tiny-1"
EDITS = f"/api/runs/{RUN}/edits"


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def photo(seed=0, size=40):
    return png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def mask(size=40):
    pixels = np.zeros((size, size), np.uint8)
    pixels[: size // 2] = 255
    return png(pixels)


def upload(client, content):
    answer = client.post("/api/uploads", content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()["upload"]


KINDS = {
    "vary": {"n": 2, "strength": 0.6, "steps": 3, "seed": 5},
    "inpaint": {"n": 1, "resample": 2, "steps": 3},
    "interpolate": {"frames": 3, "steps": 3, "fields": {"grid": "uniform"}},
    "invert": {"steps": 4},
}
GUIDED = {"guidance": 2.5, "guide_with": "@guide", "interval": [-3.1234567, 9.0]}
CASES = [
    ("vary", "upload", {}),
    ("vary", "upload", GUIDED),
    ("vary", "seed", GUIDED | {"guide_with": "weaker"}),
    ("inpaint", "seed", {}),
    ("inpaint", "upload", GUIDED),
    ("interpolate", "upload", {}),
    ("interpolate", "seed", GUIDED),
    ("invert", "upload", {}),
    ("invert", "seed", {"exact": True}),
]
QUICK = CASES[2:3] + CASES[4:5] + CASES[6:8]


@pytest.mark.parametrize("kind, start, more", mark_slow(CASES, lambda case: case in QUICK))
def test_edits_equal_those_of_the_commands(
    client, kind, start, more, weaker_run, tmp_path, monkeypatch, capsys
):
    count = 2 if kind == "interpolate" else 1
    sources = [
        {"seed": 3 + k} if start == "seed" else {"upload": upload(client, photo(k))} for k in range(count)
    ]
    body = {"kind": kind, "sources": sources, **KINDS[kind], **more}
    if kind == "inpaint":
        body["mask"] = upload(client, mask(32))  # The page draws masks at the size of the run.
    answer = client.post(EDITS, json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(io.BytesIO(client.get(found["archive"]).content)) as archive:
        archive.extractall()
    for command in found["command"].splitlines():
        words = shlex.split(command)[1:]
        assert main([*words, *([] if "--out" in words else ["--out", "own"]), "--quiet"]) == 0
    for image in found["images"]:
        assert client.get(image["url"]).content == (tmp_path / "own" / image["name"]).read_bytes()
    own = json.loads((tmp_path / "own/record.json").read_text())
    record = client.get(found["record"]).json()
    assert {**record, "time": 0, "seal": 0} == {**own, "time": 0, "seal": 0}
    if kind == "interpolate":
        assert client.get(found["film"]).content == (tmp_path / "own/film.webp").read_bytes()
    python = {}
    exec(found["python"], python)
    pixels = (python["edit"].images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for image, own in zip(found["images"][-len(pixels) :], pixels, strict=True):
        assert (own == Image.open(io.BytesIO(client.get(image["url"]).content))).all()
    capsys.readouterr()


@pytest.mark.parametrize("kind", ["inpaint"])
def test_a_stream_shows_the_steps_of_an_edit(client, kind):
    body = {"kind": kind, "steps": 4, "sources": [{"upload": upload(client, photo())}]}
    if kind == "interpolate":
        body |= {"sources": [{"seed": 1}, {"seed": 2}], "frames": 5}
    if kind == "inpaint":
        body |= {"mask": upload(client, mask()), "n": 2, "resample": 1}
    answer = client.post(EDITS, json=body, headers={"Accept": "text/event-stream"})
    found = read_stream(answer.text)
    assert found[-1][0] == "done", found[-1]
    steps = [data for name, data in found if name == "step" and data["sheet"]]
    assert steps
    count, columns = len(found[-1][1]["images"]), steps[-1]["columns"]
    assert columns == math.ceil(math.sqrt(count))
    with Image.open(io.BytesIO(base64.b64decode(steps[-1]["sheet"].partition(",")[2]))) as sheet:
        assert sheet.size == (34 * columns - 2, 34 * math.ceil(count / columns) - 2)


def test_an_upload_says_its_size(client):
    answer = client.post("/api/uploads", content=png(np.zeros((20, 30, 3), np.uint8)))
    assert (answer.json()["width"], answer.json()["height"]) == (30, 20)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", photo()[:-40]])
def test_uploads_that_are_not_images_are_refused_with_a_reason(client, content):
    answer = client.post("/api/uploads", content=content)
    assert answer.status_code == 422
    assert "cannot be used" in answer.json()["error"]


def test_an_upload_is_limited(trained):
    application = build_application(Settings(trained, limits=Limits(upload_bytes=1000)))

    def parts():
        for _ in range(20):
            yield b"x" * 100

    with TestClient(application, base_url="http://localhost") as client:
        assert client.post("/api/uploads", content=b"x" * 1001).status_code == 413
        assert client.post("/api/uploads", content=parts()).status_code == 413


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "nothing"},
        {"sources": []},
        {"sources": [{"seed": 1}, {"seed": 2}]},
        {"mask": "x"},
        {"n": 65},
        {"strength": 0},
        {"resample": 2},
        {"steps": 10**7},
        {"fields": {"sampler": "ddim"}},
        {"fields": {"grid": "mine.py:Grid"}},
        {"path": "/etc/passwd"},
    ],
    ids=str,
)
def test_edits_that_contradict_themselves_are_one_sentence(client, change):
    answer = client.post(EDITS, json={"kind": "vary", "sources": [{"seed": 0}], **change})
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]


def test_only_uploads_of_this_server_are_edited(client):
    for own in ("nothing", "../../etc/passwd", "/etc/passwd"):
        answer = client.post(EDITS, json={"kind": "invert", "sources": [{"upload": own}]})
        assert answer.status_code == 404


def test_an_edit_names_no_folder_of_the_server(client):
    sources, hole = [{"upload": upload(client, photo())}], upload(client, png(np.eye(20, 40, dtype=np.uint8)))
    answer = client.post(EDITS, json={"kind": "inpaint", "sources": sources, "mask": hole, "steps": 2})
    assert answer.status_code == 422
    assert "mask" in answer.json()["error"]
    assert "/" not in answer.json()["error"].replace("40x40", "")
