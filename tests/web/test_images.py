"""Samples, edits and uploads of the page: the same files as those of the commands, within limits."""

import io
import json
import shlex
import zipfile

import numpy as np
import pytest
from PIL import Image

import ddim
import tiny
from ddim.cli import main
from ddim.plots.pictures import render_png
from ddim.sampling.searched import save_grid
from ddim.web import images
from ddim.web.settings import Limits
from deep_files import noise16, png16, tiff
from serving import open_client

RUN = "photos-tiny-1"
GUIDED = {"guidance": 2.5, "guide_with": "weaker", "guidance_interval": [-3.1234567, None]}


@pytest.fixture(scope="module")
def limited(trained):
    """A client of a server that accepts little work and keeps two results."""
    limits = Limits(seconds=20, upload_bytes=10_000, results=2)
    with open_client(trained, limits=limits) as found:
        yield found


@pytest.fixture
def repeat(client, here):
    """Run the shown commands and code of a result beside the files of its archive, and compare the files.

    Returns what the code makes.
    """

    def run(found):
        with zipfile.ZipFile(io.BytesIO(client.get(found["archive"]).content)) as archive:
            assert not [name for name in archive.namelist() if name.startswith((".", "view-"))]
            archive.extractall()
        lines = found["command"].splitlines()
        # The second time, the folders that they name are not empty.
        assert [main(shlex.split(line)[1:]) for line in lines[:-1] * 2] == [0, 0] * len(lines[:-1])
        assert main([*shlex.split(lines[-1])[1:], "--out", "own"]) == 0
        made = [image["file"] for image in found["images"]] + [found["sheet"], found["film"]]
        for url in filter(None, made):
            assert client.get(url).content == (here / "own" / url.rpartition("/")[2]).read_bytes()
        other = dict.fromkeys(["time", "seconds", "seal", "notes"])
        own = json.loads((here / "own/record.json").read_text())
        assert {**client.get(found["record"]).json(), **other} == {**own, **other}
        names = {}
        exec(found["python"], names)
        return names.get("images", names.get("result"))

    return run


def photo(seed=0, height=40, width=40):
    return render_png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(size=32):
    return render_png(np.repeat(np.uint8([255, 0]), size // 2)[:, None].repeat(size, 1))


def read(client, url):
    """The pixels of an image of a result, an array or a picture."""
    content = io.BytesIO(client.get(url).content)
    return np.load(content) if url.endswith(".npy") else np.asarray(Image.open(content))


def upload(client, content, name="rose.png"):
    answer = client.post(f"/api/uploads?name={name}", content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


def make(client, what="samples", run=RUN, **body):
    answer = client.post(f"/api/runs/{run}/{what}", json={"steps": 3, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


ASKED = {
    "film": {"seeds": [3, 4, 5, 9], "film": True},
    "fields": {"seeds": [0], "sampler": "ddim", "grid": "uniform", "fields": {"sampler.eta": "0.5"}},
    "guided by its guide": {"seeds": [3, 4], **GUIDED, "guide_with": "@guide"},
    "guided vector": {"seeds": [0, 1], "vector": [-1.5, 1e-05], "guidance": 2, "guidance_interval": [-4, 3]},
}


@pytest.mark.parametrize("options", ASKED.values(), ids=ASKED)
def test_samples_equal_those_of_the_command_and_of_the_function(client, repeat, options):
    found = make(client, run="vectors-1" if "vector" in options else RUN, **options)
    assert found["request"] == {"steps": 3, **options}
    assert [image["seed"] for image in found["images"]] == options["seeds"]
    assert bool(found["film"]) == ("film" in options)
    # A sampler, its fields, a grid and a vector are lost in an interpolation between seeds.
    assert found["seeded"] == ("fields" not in options and "vector" not in options)
    pixels = (repeat(found).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for image, exact in zip(found["images"], pixels, strict=True):
        assert (exact.squeeze() == read(client, image["url"])).all()


def test_samples_on_a_searched_grid_are_not_called_seeded(copy_client, runs):
    save_grid(runs / RUN, tiny.BASE.sampler, 3, "ema", (1.0, 0.4, 0.1), 0.0)
    found = [make(copy_client, seeds=[3], steps=steps) for steps in (2, 3)]
    assert [each["seeded"] for each in found] == [True, False]
    assert "searched=True" in found[1]["python"]


EDITS = [
    ("vary", "result", {"seeds": [5, 6], "strength": 0.6, **GUIDED}),
    ("inpaint", "upload", {"seeds": [0], "resample": 2, **GUIDED}),
    ("interpolate", "upload", {"frames": 3, "fields": {"grid": "uniform"}}),
    ("interpolate", "seeds", {"frames": 3, "seeds": [3, 4], **GUIDED}),
    ("invert", "result", {"steps": 4}),
]


@pytest.mark.parametrize(("kind", "start", "options"), EDITS)
def test_edits_equal_those_of_the_commands(client, repeat, kind, start, options):
    """Photos of odd sizes too, with a mask of the size of the run, as the page draws it."""
    body = dict(options)
    if start == "upload":
        photos = [photo(k, 47, 83) for k in range(2 if kind == "interpolate" else 1)]
        body["sources"] = [{"upload": upload(client, each, "my rose.png")["upload"]} for each in photos]
    else:
        made = make(client, seeds=[3, 4], **(GUIDED if start == "seeds" else {}))
    if start == "result":
        body["sources"] = [{"result": made["id"], "name": made["images"][0]["name"]}]
    if kind == "inpaint":
        body["mask"] = upload(client, mask())["upload"]
    found = make(client, f"edits/{kind}", **body)
    assert (found["kind"], found["request"]) == (kind, {"steps": 3, **body})
    assert isinstance(repeat(found), ddim.sampling.edits.Edit)
    assert not [note for note in found["notes"] if "/" in note]
    if kind == "inpaint":
        before, after = read(client, found["before"]), read(client, found["images"][0]["url"])
        assert np.array_equal(before[16:], after[16:])
    if start == "seeds":  # it ends at the samples of these seeds
        ends = [[client.get(image["url"]).content for image in each["images"]] for each in (found, made)]
        assert ends[0][::2] == ends[1]
        assert made["seeded"]


@pytest.mark.parametrize("start", ["sample", "upload"])
def test_a_chain_of_edits_is_repeated_as_shown_and_keeps_its_input(client, repeat, start):
    """Also an upload that has the name of an output, and an image of each edit by the next one."""
    if start == "upload":
        source = {"upload": upload(client, photo(), "varied-00.png")["upload"]}
    else:
        source = {"result": make(client, seeds=[3])["id"], "name": "00003.png"}
    for strength in (0.4, 0.5, 0.6):
        found = make(client, "edits/vary", sources=[source], seeds=[0, 1], strength=strength)
        source = {"result": found["id"], "name": "varied-00.png"}
    repeat(found)


def test_images_of_8_channels_of_16_bits_are_shown_and_saved_exactly(client, deep_run, repeat):
    made = make(client, run=deep_run, seeds=[3])
    body = {"sources": [{"result": made["id"], "name": "00003.npy"}], "resample": 1}
    body["mask"] = upload(client, mask(16))["upload"]
    found = make(client, "edits/inpaint", run=deep_run, seeds=[0], **body)
    repeat(found)
    before = read(client, made["images"][0]["file"])
    exact, shown = (read(client, found["images"][0][name]) for name in ("file", "url"))
    assert (exact.shape, exact.dtype) == ((16, 16, 8), np.uint16)
    assert abs(shown - np.rint(exact[..., :3] / 65535.0 * 255)).max() <= 1
    assert np.array_equal(exact[8:], before[8:])


WRONG = [
    {"seeds": [*range(65)]},
    {"steps": 1001},
    {"out": "/tmp/x"},
    {"sampler": "mine.py:Sampler"},
    {"grid": "../../etc"},
    {"fields": {"data.source": "/etc"}},
    {"guidance": 2, "guide_with": f"../{RUN}@guide"},
    {"sources": [], "mask": "x"},
    {"sources": [{"upload": "../../etc/passwd"}]},
    {"sources": [{"upload": "RESULT"}]},
    {"sources": [{"result": "RESULT", "name": "../x"}]},
    {"sources": [{"result": "x", "name": "00000.png"}]},
]


@pytest.mark.parametrize("body", WRONG, ids=str)
def test_what_cannot_be_made_is_refused_in_one_sentence(client, body):
    """The page runs no code of a user, reads no file, and edits only uploads and results of this server."""
    text = json.dumps({"seeds": [0], **body}).replace("RESULT", make(client, seeds=[0])["id"])
    path = "edits/vary" if "sources" in body else "samples"
    answer = client.post(f"/api/runs/{RUN}/{path}", json=json.loads(text))
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_request_of_which_nothing_can_be_ready_in_time_ends_at_its_first_steps(limited, monkeypatch):
    monkeypatch.setattr(images, "PATIENCE", 0.0)
    body = {"seeds": [0, 1], "frames": 64, "steps": 1000, "guidance": 2, "guide_with": "@guide"}
    answer = limited.post(f"/api/runs/{RUN}/edits/interpolate", json=body)
    assert (answer.status_code, "ask for less" in answer.json()["error"]) == (422, True)


def test_results_are_found_by_their_ids_only_until_they_are_removed_or_newer_ones_come(limited):
    first, found, photos = make(limited, seeds=[0]), make(limited, seeds=[0]), upload(limited, photo(0, 9, 7))
    assert limited.get("/api/results").json() == {"results": [found], "uploads": [photos]}
    assert read(limited, photos["url"]).shape == (9, 7, 3)
    for path in (first["sheet"], f"/api/results/{found['id']}/..%2f..%2fsecret", "/api/results/x/grid.png"):
        assert limited.get(path).status_code == 404
    for run in ("nothing", "..", "%2e%2e%2fetc"):
        assert limited.post(f"/api/runs/{run}/samples", json={"seeds": [0]}).status_code in (404, 405)
    removed = [limited.delete(f"/api/results/{key}").status_code for key in (found["id"], "..", "%2e%2e")]
    assert removed == [204, 404, 404]
    assert limited.get(found["sheet"]).status_code == 404


def test_an_upload_is_shown_and_limited(limited):
    for content in (photo(0, 20, 30), tiff(noise16(20, 30, 8)), png16(noise16(20, 30, 3))):
        assert read(limited, upload(limited, content)["url"]).shape[:2] == (20, 30)
    for content in (b"x" * 10_001, (b"x" * 1000 for _ in range(20))):
        assert limited.post("/api/uploads", content=content).status_code == 413
    for content in (b"", b"text", photo()[:-40]):
        answer = limited.post("/api/uploads", content=content)
        assert (answer.status_code, "cannot be used" in answer.json()["error"]) == (422, True)
