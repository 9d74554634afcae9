"""Samples that the page makes: the same as those of the command, within limits, and cancelled in time."""

import io
import json
import shlex
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import tiny
from ddim.cli import main
from ddim.recipe.recipe import Data, Recipe
from ddim.sampling.labels import find_label
from ddim.sampling.searched import save_grid
from ddim.web.answers import Refused
from ddim.web.application import build_application
from ddim.web.perform_samples import sample_run
from ddim.web.repeat import sample_command
from ddim.web.results import ResultStore
from ddim.web.settings import Limits, Settings
from ddim.web.tasks import SampleTask
from serving import read_stream

RUN = "photos-tiny-1"
SAMPLES = f"/api/runs/{RUN}/samples"


def comparable(record):
    return {name: value for name, value in record.items() if name not in ("time", "seconds", "seal")}


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": [3, 4, 5, 9], "steps": 3, "film": True},
        {"seeds": [0], "sampler": "ddim", "eta": 0.5, "grid": "uniform", "fields": {"clip": "yes"}},
        {
            "seeds": [3, 4],
            "steps": 3,
            "guidance": 2.5,
            "guide_with": "@guide",
            "interval": [-3.1234567, None],
        },
        {"seeds": [3], "steps": 3, "guidance": 2.0, "guide_with": "weaker"},
        {"seeds": [0, 1], "steps": 2, "vector": [120.7, -0.3]},
        {"seeds": [0, 1], "steps": 2, "vector": [-1.5, 1e-05], "guidance": 2, "interval": [-4, 3]},
    ],
    ids=["film", "fields", "guided by its guide", "guided by a run", "vector", "guided vector"],
)
def test_samples_equal_those_of_the_command(client, options, vector_run, weaker_run, tmp_path, capsys):
    run = vector_run if "vector" in options else RUN
    answer = client.post(f"/api/runs/{run}/samples", json=options)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    words = shlex.split(found["command"])
    assert words[:2] == ["ddim", "sample"]
    assert main([*words[1:], "--out", str(tmp_path / "own"), "--quiet"]) == 0
    assert [image["seed"] for image in found["images"]] == options["seeds"]
    # A sampler, its options, a grid and a vector are lost in an interpolation between seeds.
    assert found["seeded"] == ("fields" not in options and "vector" not in options)
    for image in found["images"]:
        own = tmp_path / f"own/{image['seed']:05d}.png"
        assert client.get(image["url"]).content == own.read_bytes()
    assert client.get(found["sheet"]).content == (tmp_path / "own/grid.png").read_bytes()
    record = client.get(found["record"]).json()
    assert comparable(record) == comparable(json.loads((tmp_path / "own/record.json").read_text()))
    if options.get("film"):
        assert client.get(found["film"]).content == (tmp_path / "own/film.webp").read_bytes()
    with zipfile.ZipFile(io.BytesIO(client.get(found["archive"]).content)) as archive:
        assert set(archive.namelist()) == {path.name for path in (tmp_path / "own").iterdir()}
    python = {}
    exec(found["python"], python)
    pixels = (python["images"].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for image, own in zip(found["images"], pixels, strict=True):
        file = Image.open(io.BytesIO(client.get(image["url"]).content))
        assert np.array_equal(own.squeeze(), np.asarray(file))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "seeded"),
    [
        ({"guidance": 2.5, "guide_with": "@guide", "interval": [-3.0, None]}, True),
        ({"sampler": "adams_bashforth"}, False),
    ],
    ids=str,
)
def test_an_interpolation_between_the_seeds_ends_at_samples_that_are_called_seeded(client, options, seeded):
    options = {"steps": 3, **options}
    answer = client.post(SAMPLES, json={"seeds": [3, 5], **options})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    shared = {name: options[name] for name in options if name not in ("sampler", "grid")}
    ends = {"kind": "interpolate", "sources": [{"seed": 3}, {"seed": 5}], "frames": 2}
    way = client.post(f"/api/runs/{RUN}/edits", json={**ends, **shared}).json()
    files = [[client.get(image["url"]).content for image in each["images"]] for each in (found, way)]
    assert found["seeded"] == seeded == (files[0] == files[1])


def test_samples_on_a_searched_grid_are_not_called_seeded(trained, tmp_path):
    run, recipe = shutil.copytree(trained / RUN, tmp_path / "run"), tiny.BASE
    save_grid(run, recipe.sampler, 3, "ema", (1.0, 0.4, 0.1), 0.0)
    monitor = SimpleNamespace(check=lambda: None)
    for steps, seeded in ((2, True), (3, False)):
        (tmp_path / str(steps)).mkdir()
        task = SampleTask(str(run), str(tmp_path / str(steps)), [3, 5], steps)
        assert sample_run(task, monitor)["seeded"] == seeded


def test_a_stream_shows_each_step_and_ends_with_the_result(client):
    options = {"seeds": [1, 2], "steps": 4}
    answer = client.post(SAMPLES, json=options, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = read_stream(answer.text)
    names = [name for name, _ in found]
    assert names[0] == "queued"
    assert names[-1] == "done"
    steps = [data for name, data in found if name == "step"]
    assert steps[-1]["k"] == steps[-1]["of"] == 5
    assert [step["k"] for step in steps] == sorted({step["k"] for step in steps})
    assert all(step["sheet"].startswith("data:image/png;base64,") for step in steps)
    assert {(step["first"], step["columns"]) for step in steps} == {(0, 2)}
    whole = client.post(SAMPLES, json=options).json()
    for one, other in zip(found[-1][1]["images"], whole["images"], strict=True):
        assert client.get(one["url"]).content == client.get(other["url"]).content


@pytest.mark.parametrize(
    "change",
    [
        '"steps": 0',
        '"steps": 1001',
        '"steps": 1e308',
        '"steps": true',
        f'"steps": {"9" * 400}',
        '"eta": NaN',
        '"interval": [1]',
        '"interval": [NaN, 1]',
        '"label": "rose"',
        '"sampler": "mine.py:Sampler"',
        '"grid": "../../etc"',
        '"fields": {"net": "unet"}',
        '"fields": {"clip": "mine.py:Clip"}',
        '"fields": {"../x": "1"}',
        '"unknown": 1',
        '"seeds": []',
        '"seeds": [-1]',
        '"seeds": [1, 1]',
        '"seeds": ["1"]',
    ],
)
def test_invalid_requests_for_samples_are_refused_in_one_sentence(client, change):
    text = "{" + ('"seeds": [0], ' if "seeds" not in change else "") + change + "}"
    answer = client.post(SAMPLES, content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    sentence = answer.json()["error"]
    assert sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 30_000, '{"seeds": [' + "9" * 5000 + "]}", "\xff"]
)
def test_a_body_that_is_no_request_is_refused(client, text):
    headers = {"Content-Type": "application/json"}
    answer = client.post(SAMPLES, content=text.encode("latin-1"), headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_the_images_and_the_work_of_a_request_are_limited(client, trained):
    answer = client.post(SAMPLES, json={"seeds": list(range(65))})
    assert answer.status_code == 422
    assert "64" in answer.json()["error"]
    limits = Limits(work=2 * 3 * 32 * 32)
    with TestClient(
        build_application(Settings(trained, limits=limits)), base_url="http://localhost"
    ) as other:
        answer = other.post(SAMPLES, json={"seeds": [0, 1, 2], "steps": 3})
    assert answer.status_code == 422
    assert "at most 2 images" in answer.json()["error"]


def test_a_run_that_is_not_listed_is_not_sampled(client):
    for run in ("nothing", "..", "%2e%2e%2fetc"):
        assert client.post(f"/api/runs/{run}/samples", json={"seeds": [0]}).status_code in (404, 405)


def test_results_are_found_by_their_ids_only(client):
    found = client.post(SAMPLES, json={"seeds": [0]}).json()
    for path in (f"{found['id']}/..%2f..%2fsecret", f"{found['id']}/%2e%2e", "nothing/grid.png"):
        assert client.get(f"/api/results/{path}").status_code == 404


def test_old_results_make_room(tmp_path):
    store, made = ResultStore(tmp_path, 2), []
    for _ in range(3):
        own, folder = store.make()
        (folder / "grid.png").write_bytes(b"picture")
        store.keep(own)
        made.append(own)
    with pytest.raises(Refused, match="newer ones took its place"):
        store.find(made[0], "grid.png")
    assert [store.find(own, "grid.png").is_file() for own in made[1:]] == [True, True]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_command_names_the_class_that_was_chosen_if_the_names_are_numbers():
    """The page sends the index of a class. As text, it would be the name of another class."""
    classes = ("1", "10", "2")
    for label, word in ((1, "10"), (2, "2"), ("all", "all"), (0, "0")):
        command = sample_command(SampleTask("run", "out", [0], label=label), classes)
        assert command.split()[-1] == f"--label={word}"
        given = word if label == "all" else find_label(word, Recipe(data=Data(labels=True)), classes)
        assert given == label
