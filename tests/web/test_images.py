"""Samples, edits and uploads of the page: the same files as those of the commands, within limits."""

import base64
import io
import json
import math
import shlex
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import ddim
import tiny
from cases import mark_slow
from ddim.cli import main
from ddim.sampling.searched import save_grid
from ddim.web import images
from ddim.web.answers import Refused
from ddim.web.application import build_application
from ddim.web.images import Preview, Result, fill_result
from ddim.web.jobs import Enough
from ddim.web.results import ResultStore
from ddim.web.settings import Limits, Settings
from deep_files import noise16, png16
from serving import read_stream

RUN = "photos-tiny-1"
SAMPLES = f"/api/runs/{RUN}/samples"
EDITS = f"/api/runs/{RUN}/edits"


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def photo(seed=0, height=40, width=40):
    return png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(size=32):
    return png(np.repeat(np.uint8([255, 0]), size // 2)[:, None].repeat(size, 1))


def npy(pixels):
    content = io.BytesIO()
    np.save(content, pixels)
    return content.getvalue()


def read(client, url):
    """The pixels of an image of a result, an array or a picture."""
    content = io.BytesIO(client.get(url).content)
    return np.load(content) if url.endswith(".npy") else np.asarray(Image.open(content))


def upload(client, content, name="rose.png"):
    answer = client.post(f"/api/uploads?name={name}", content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()["upload"]


def make(client, what="samples", run=RUN, **body):
    answer = client.post(f"/api/runs/{run}/{what}", json={"steps": 3, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def repeat(client, found, folder):
    """Run the commands and the code of a result beside the files of its archive, and compare the files.

    Returns the names that the code defines.
    """
    with zipfile.ZipFile(io.BytesIO(client.get(found["archive"]).content)) as archive:
        assert not [name for name in archive.namelist() if name.startswith((".", "view-"))]
        archive.extractall(folder)
    *before, last = [shlex.split(line)[1:] for line in found["command"].splitlines()]
    for words in before:
        assert main([*words[:-1], "elsewhere", "--quiet"]) == 0
    assert main([*last, "--out", "own", "--quiet"]) == 0
    for image in found["images"]:
        assert client.get(image["file"]).content == (folder / "own" / image["name"]).read_bytes()
    for part, name in (("sheet", found["sheet"].rpartition("/")[2]), ("film", "film.webp")):
        if found[part]:
            assert client.get(found[part]).content == (folder / "own" / name).read_bytes()
    own = json.loads((folder / "own" / "record.json").read_text())
    assert comparable(client.get(found["record"]).json()) == comparable(own)
    names = {}
    exec(found["python"], names)
    return names


def comparable(record):
    return {name: value for name, value in record.items() if name not in ("time", "seconds", "seal", "notes")}


GUIDED = {"guidance": 2.5, "guide_with": "@guide", "guidance_interval": [-3.1234567, None]}
ASKED = {
    "film": {"seeds": [3, 4, 5, 9], "film": True},
    "fields": {
        "seeds": [0],
        "sampler": "ddim",
        "grid": "uniform",
        "fields": {"sampler.eta": "0.5", "clip": "yes"},
    },
    "guided by its guide": {"seeds": [3, 4], **GUIDED},
    "guided by a run": {"seeds": [3], "guidance": 2.0, "guide_with": "weaker"},
    "vector": {"seeds": [0, 1], "vector": [120.7, -0.3]},
    "guided vector": {"seeds": [0, 1], "vector": [-1.5, 1e-05], "guidance": 2, "guidance_interval": [-4, 3]},
}


@pytest.mark.parametrize("options", ASKED.values(), ids=ASKED)
def test_samples_equal_those_of_the_command(
    client, options, vector_run, weaker_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = vector_run if "vector" in options else RUN
    found = make(client, run=run, **options)
    assert (found["run"], found["request"]) == (run, {"steps": 3, **options})
    assert [image["seed"] for image in found["images"]] == options["seeds"]
    assert bool(found["film"]) == ("film" in options)
    # A sampler, its fields, a grid and a vector are lost in an interpolation between seeds.
    assert found["seeded"] == ("fields" not in options and "vector" not in options)
    names = repeat(client, found, tmp_path)
    if "images" in names:
        pixels = (names["images"].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for image, exact in zip(found["images"], pixels, strict=True):
            assert (exact.squeeze() == read(client, image["url"])).all()
    capsys.readouterr()


@pytest.mark.parametrize(("options", "seeded"), [(GUIDED, True), ({"sampler": "adams_bashforth"}, False)])
def test_an_interpolation_between_the_seeds_ends_at_samples_that_are_called_seeded(client, options, seeded):
    found = make(client, seeds=[3, 5], **options)
    shared = {name: options[name] for name in options if name != "sampler"}
    way = make(client, "edits/interpolate", seeds=[3, 5], frames=2, **shared)
    files = [[client.get(image["url"]).content for image in each["images"]] for each in (found, way)]
    assert found["seeded"] == seeded == (files[0] == files[1])


def test_samples_on_a_searched_grid_are_not_called_seeded(copy_client, runs):
    save_grid(runs / RUN, tiny.BASE.sampler, 3, "ema", (1.0, 0.4, 0.1), 0.0)
    assert [make(copy_client, seeds=[3], steps=steps)["seeded"] for steps in (2, 3)] == [True, False]


@pytest.mark.parametrize("kind", ["sample", "inpaint"])
def test_a_stream_shows_each_step_and_ends_with_the_result(client, kind):
    body, path = {"seeds": [0, 1], "steps": 4}, SAMPLES
    if kind == "inpaint":
        body |= {
            "sources": [{"upload": upload(client, photo())}],
            "mask": upload(client, mask()),
            "resample": 1,
        }
        path = f"{EDITS}/inpaint"
    found = read_stream(client.post(path, json=body, headers={"Accept": "text/event-stream"}).text)
    names = [name for name, _ in found]
    assert (names[:2], names[-1]) == (["begun", "queued"], "done")
    steps = [data for name, data in found if name == "step" and data["sheet"]]
    assert {(step["first"], step["columns"]) for step in steps} == {(0, 2)}
    with Image.open(io.BytesIO(base64.b64decode(steps[-1]["sheet"].partition(",")[2]))) as sheet:
        assert sheet.size == (66, 32)
    again = client.post(path, json=body).json()
    for one, other in zip(found[-1][1]["images"], again["images"], strict=True):
        assert client.get(one["url"]).content == client.get(other["url"]).content


class Late:
    """A job that shall end as soon as an image is ready."""

    until = math.inf

    def __init__(self, folder):
        self.folder = folder

    def check(self):
        if [*self.folder.glob("*.png")]:
            raise Enough

    def show(self, *_):
        self.check()


def test_a_request_that_is_stopped_or_takes_too_long_has_the_images_that_are_ready(trained, tmp_path):
    found = Result(RUN, "sample", {})
    fill_result(found, Late(tmp_path), trained / RUN, tmp_path, {"seeds": range(200), "steps": 2})
    assert 0 < len(found.images) < 200
    assert f"only {len(found.images)} of 200 images" in found.notes[0]
    whole = ddim.sample(trained / RUN, seeds=[0], steps=2)
    assert (np.asarray(Image.open(tmp_path / "00000.png")) == np.asarray(ddim.sheet(whole, zoom=1))).all()


SEEDLESS = [
    '"steps": 0', '"steps": 1001', '"steps": 1e308', '"steps": true', f'"steps": {"9" * 400}',
    '"guidance_interval": [1]', '"guidance": NaN', '"label": "rose"', '"sampler": "mine.py:Sampler"',
    '"grid": "../../etc"', '"fields": {"net": "unet"}', '"fields": {"clip": "mine.py:Clip"}',
    '"fields": {"../x": "1"}', '"vector": "/etc/passwd"', '"out": "/tmp/x"', '"unknown": 1',
]  # fmt: skip
BODIES = [f'{{"seeds": [0], {change}}}' for change in SEEDLESS]
BODIES += ['{"seeds": [-1]}', '{"seeds": ["1"]}', f'{{"seeds": {list(range(65))}}}', '{"seeds": []}', "", "{"]
BODIES += ["[]", "null", "[" * 30_000, f'{{"seeds": [{"9" * 5000}]}}', "\xff"]


@pytest.mark.parametrize("text", BODIES, ids=lambda text: text[:40])
def test_invalid_requests_for_samples_are_refused_in_one_sentence(client, text):
    kind = {"Content-Type": "application/json"}
    answer = client.post(SAMPLES, content=text.encode("latin-1"), headers=kind)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(("part", "refused"), [(16, True), (0, True), (1, False)])
def test_a_request_of_which_nothing_can_be_ready_in_time_ends_at_its_first_steps(part, refused, monkeypatch):
    """64 images take 19,200 s, and 16 of them, which are ready together, 4,800 s."""
    job = SimpleNamespace(until=600.0, seconds=600.0, check=lambda: None)
    preview = Preview(job, None, range(64), part)
    told = []
    for now, done in ((0.0, 0.0), (3.0, 0.01)):
        monkeypatch.setattr(images.time, "monotonic", lambda now=now: now)
        try:
            preview.progress("samples", done, 64)
        except Refused as refusal:
            told.append(refusal.detail)
    text = "this takes about 5:20:00 here, and a request may take 10:00; ask for less"
    assert told == [text] * refused


def test_results_are_listed_found_by_their_ids_only_and_removed(client):
    found, photos = (
        make(client, seeds=[0]),
        client.post("/api/uploads?name=a.png", content=photo(0, 20, 30)).json(),
    )
    kept = client.get("/api/results").json()
    assert (kept["results"][-1], kept["uploads"][-1]) == (found, photos)
    assert (photos["name"], read(client, photos["url"]).shape) == ("a.png", (20, 30, 3))
    for path in (f"{found['id']}/..%2f..%2fsecret", f"{found['id']}/%2e%2e", "nothing/grid.png"):
        assert client.get(f"/api/results/{path}").status_code == 404
    for run in ("nothing", "..", "%2e%2e%2fetc"):
        assert client.post(f"/api/runs/{run}/samples", json={"seeds": [0]}).status_code in (404, 405)
    assert [client.delete(f"/api/results/{key}").status_code for key in (found["id"], "..", "%2e%2e")] == [
        204,
        404,
        404,
    ]
    assert client.get(found["sheet"]).status_code == 404


def test_old_results_make_room():
    store = ResultStore(2)
    made = [store.make() for _ in range(3)]
    for folder in made:
        (folder / "grid.png").write_bytes(b"picture")
        store.keep(folder)
    with pytest.raises(Refused, match="newer images took its place"):
        store.find(made[0].name, "grid.png")
    assert [store.find(folder.name, "grid.png").is_file() for folder in made[1:]] == [True, True]
    store.close()


# Edits

KINDS = {
    "vary": {"seeds": [5, 6], "strength": 0.6, "steps": 3},
    "inpaint": {"seeds": [0], "resample": 2, "steps": 3},
    "interpolate": {"frames": 3, "steps": 3, "fields": {"grid": "uniform"}},
    "invert": {"steps": 4},
}
CASES = [
    ("vary", "upload", {}),
    ("vary", "result", GUIDED | {"guide_with": "weaker"}),
    ("inpaint", "result", {}),
    ("inpaint", "upload", GUIDED),
    ("interpolate", "upload", {}),
    ("interpolate", "seeds", GUIDED),
    ("invert", "upload", {}),
    ("invert", "result", {"exact": True}),
]
QUICK = CASES[1:2] + CASES[3:6]


@pytest.mark.parametrize("kind, start, more", mark_slow(CASES, lambda case: case in QUICK))
def test_edits_equal_those_of_the_commands(
    client, kind, start, more, weaker_run, tmp_path, monkeypatch, capsys
):
    """Photos of odd sizes too, with a mask of the size of the run, as the page draws it."""
    monkeypatch.chdir(tmp_path)
    count, body = 2 if kind == "interpolate" else 1, {**KINDS[kind], **more}
    if start == "seeds":
        body["seeds"] = [3, 4]
    elif start == "result":
        made = make(client, seeds=[3, 4], steps=2)
        body["sources"] = [{"result": made["id"], "name": each["name"]} for each in made["images"][:count]]
    else:
        files = [upload(client, photo(k, 47, 83), f"my rose {k}.png") for k in range(count)]
        body["sources"] = [{"upload": file} for file in files]
    if kind == "inpaint":
        body["mask"] = upload(client, mask())
    found = make(client, f"edits/{kind}", **body)
    assert (found["kind"], found["request"]) == (kind, body)
    assert isinstance(repeat(client, found, tmp_path)["result"], ddim.sampling.edits.Edit)
    assert not [note for note in found["notes"] if "/" in note]
    if kind == "inpaint":
        assert np.array_equal(
            read(client, found["before"])[16:], read(client, found["images"][0]["url"])[16:]
        )
    capsys.readouterr()


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", photo()[:-40], npy(np.zeros(4))])
def test_uploads_that_are_not_images_are_refused_with_a_reason(client, content):
    answer = client.post("/api/uploads", content=content)
    assert (answer.status_code, "cannot be used" in answer.json()["error"]) == (422, True)


def test_an_upload_is_shown_and_limited(client, trained):
    for content in (photo(0, 20, 30), npy(noise16(20, 30, 8)), png16(noise16(20, 30, 3))):
        answer = client.post("/api/uploads", content=content).json()
        assert read(client, answer["url"]).shape[:2] == (20, 30)
    application = build_application(Settings(trained, limits=Limits(upload_bytes=1000)))
    with TestClient(application, base_url="http://localhost") as other:
        for content in (b"x" * 1001, (b"x" * 100 for _ in range(20))):
            assert other.post("/api/uploads", content=content).status_code == 413


WRONG = [
    {"sources": []}, {"sources": [1]}, {"mask": "x"}, {"seeds": list(range(65))}, {"strength": 0},
    {"resample": 2}, {"steps": 10**7}, {"fields": {"sampler": "ddim"}},
    {"fields": {"grid": "mine.py:Grid"}}, {"path": "/etc/passwd"},
    *({"sources": [{"upload": key}]} for key in ("nothing", "../../etc/passwd", "RESULT")),
    *({"sources": [{"result": key, "name": name}]} for key, name in (("RESULT", "../x"), ("x", "00000.png"))),
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_edits_that_cannot_be_made_are_one_sentence(client, change):
    """Only uploads and results of this server are edited."""
    made = make(client, seeds=[0])["id"]
    body = {"sources": [{"upload": upload(client, photo())}], **change}
    answer = client.post(f"{EDITS}/vary", content=json.dumps(body).replace("RESULT", made))
    assert answer.status_code in (404, 422)
    assert "\n" not in answer.json()["error"]
    assert client.post(f"{EDITS}/nothing", json={}).status_code == 422


@pytest.mark.parametrize("kind", ["sample", "vary", "inpaint"])
def test_images_of_8_channels_of_16_bits_are_shown_and_saved_exactly(
    client, deep_run, kind, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    pixels = noise16(16, 16, 8)
    if kind == "sample":
        found = make(client, run=deep_run, seeds=[3, 4], film=True)
    else:
        body = {"sources": [{"upload": upload(client, npy(pixels), "cells.npy")}], "steps": 2, "seeds": [0]}
        body |= {"mask": upload(client, mask(16)), "resample": 1} if kind == "inpaint" else {}
        found = make(client, f"edits/{kind}", run=deep_run, **body)
    repeat(client, found, tmp_path)
    assert any("the first 3 of 8 channels" in note for note in found["notes"])
    for image in found["images"]:
        exact = read(client, image["file"])
        assert (exact.shape, exact.dtype) == ((16, 16, 8), np.uint16)
        assert abs(read(client, image["url"]) - np.rint(exact[..., :3] / 65535.0 * 255)).max() <= 1
    if kind == "inpaint":
        assert np.array_equal(exact[8:], pixels[8:])
    capsys.readouterr()
