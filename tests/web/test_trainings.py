"""Trainings that the page starts, the images it shows, and comparisons."""

import io
import json
import os
import re
import shutil
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import sweeping
import tiny
from ddim.files import is_locked
from ddim.web import processes
from ddim.web.application import build_application
from ddim.web.data_sets import list_data
from ddim.web.settings import Settings
from evaluated_runs import record

RUN = "photos-tiny-1"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Image sets: two classes of images, an archive, an array, and a link that leads out of the folder."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_grays(folder / "one", [10, 20, 30, 30])
    tiny.write_grays(folder / "two", [50, 60])
    (folder / "two/broken.png").write_bytes(b"broken")
    shutil.make_archive(str(folder / "packed"), "zip", folder / "one")
    np.save(folder / "stack.npy", np.full((4, 32, 32), 200, np.uint8))
    (folder / "elsewhere").symlink_to("/")
    return folder


@pytest.fixture(scope="module")
def client(trained, data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("training") / "runs"
    shutil.copytree(trained / RUN, runs / RUN)
    settings, commands = Settings(runs, data=data), processes.Processes()
    with TestClient(build_application(settings, commands), base_url="http://127.0.0.1:8000") as found:
        found.runs, found.processes = runs, commands
        yield found


def test_without_data_nothing_is_trained(copy_client):
    assert copy_client.get("/api/about").json()["may_train"] is False
    assert copy_client.get("/api/choices").json()["data"] == []
    for path in ("", f"/{RUN}/stop", f"/{RUN}/resume", f"/{RUN}/evaluate", f"/{RUN}/distill"):
        assert copy_client.post(f"/api/runs{path}", json={}).status_code == 403
    assert copy_client.get("/api/data/built-in~blossoms").status_code == 403


def test_the_choices_are_those_of_the_command_and_the_sets_below_the_folder(client, data):
    found = client.get("/api/choices").json()
    assert {entry["id"]: entry["kind"] for entry in found["data"]} == {
        "built-in~blossoms": "built-in",
        "folder": "folder",
        "folder~one": "folder",
        "folder~two": "folder",
        "file~packed.zip": "file",
        "file~stack.npy": "file",
    }
    assert all(source == "blossoms" or source.startswith(str(data)) for _, source in list_data(data).values())
    recipes = {recipe["name"]: recipe for recipe in found["recipes"]}
    assert {"fast", "flow", "dit", "smoke"} <= recipes.keys()
    assert recipes["fast"]["size"] == [64, 64]
    texts = {field["field"]: field["help"] for field in found["fields"]}
    assert "learning rate" in texts["optim.lr"].lower()


def test_a_set_is_described_as_the_command_does(client):
    found = client.get("/api/data/folder").json()
    assert (found["classes"], found["verdict"][:2]) == ({"one": 4, "two": 2}, "6 ")
    assert [each["name"] for each in found["rejects"]] == ["elsewhere", "two/broken.png"]
    assert found["duplicates"] == [["one/2.png", "one/3.png"]]
    with Image.open(io.BytesIO(client.get(found["sheet"]).content)) as sheet:
        assert sheet.format == "PNG"


@pytest.mark.parametrize("own", ["..", "folder~..", "folder~elsewhere", "%2fetc", "blossoms"])
def test_only_listed_sets_are_shown_or_trained(client, own):
    assert client.get(f"/api/data/{own}").status_code == 404
    assert client.post("/api/runs", json={"data": own, "recipe": "fast"}).status_code == 404


FIELDS = {"callback": "mine.py:Call", "own": "mine.py", "net": "mine.py:Net", "out": "/tmp/x", "--out": "x"}
FIELDS |= {"data.source": "/etc", "data.vectors": __file__, "objective.guide": "/tmp", "optim.lr": "nan"}
CHANGES = [{"recipe": "mine.yaml"}, {"minutes": -1.0}, {"images": 10**30}, {"out": "/tmp/x"}]
CHANGES += [{"fields": {name: value}} for name, value in FIELDS.items()]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_training_that_cannot_begin_is_one_sentence_and_leaves_nothing(client, change):
    before = sorted(client.runs.iterdir())
    answer = client.post("/api/runs", json={"data": "folder~one", "recipe": "smoke", **change})
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]
    assert sorted(client.runs.iterdir()) == before


def test_a_finished_run_needs_minutes_to_go_on_and_a_trial_its_sweep(client, trained):
    assert client.post(f"/api/runs/{RUN}/stop").status_code == 409
    answer = client.post(f"/api/runs/{RUN}/resume", json={})
    assert (answer.status_code, "give minutes" in answer.json()["error"]) == (409, True)
    (folder,) = sweeping.plan_sweep(client.runs / "rates", ["0.001"])
    shutil.copytree(trained / RUN, folder)
    answer = client.post(f"/api/runs/rates~trials~{folder.name}/resume", json={})
    assert (answer.status_code, "belongs to a sweep" in answer.json()["error"]) == (409, True)
    shutil.rmtree(client.runs / "rates")


def wait_for(question, seconds=120):
    """Wait until a question is answered with yes."""
    until = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < until, question
        time.sleep(0.1)


def list_rows(client):
    """The rows of the list of runs, keyed by id."""
    return {row["id"]: row for row in client.get("/api/runs").json()["runs"]}


def test_a_training_that_fails_at_its_start_is_a_row_with_the_reason(client, data):
    """It is in the list at once, its empty folder goes away, and its row can be removed."""
    shutil.copytree(data / "one", data / "few")
    (data / "few").joinpath("0.png").rename(data / "few/only.png")
    for path in data.glob("few/[0-9].png"):
        path.unlink()
    own = client.post("/api/runs?name=few", json={"data": "folder~few", "recipe": "smoke"}).json()["id"]
    assert (own, list_rows(client)[own]["state"]) == ("few-1", "waiting")
    wait_for(lambda: list_rows(client)[own]["state"] == "failed")
    assert "`ddim train`: " in list_rows(client)[own]["why"]
    assert not (client.runs / own).exists()
    assert client.get(f"/api/runs/{own}").json()["can_change"]
    assert client.delete(f"/api/runs/{own}").status_code == 204
    assert own not in list_rows(client)
    shutil.rmtree(data / "few")


@pytest.mark.slow
def test_a_training_is_started_stopped_and_resumed(client):
    """It goes on when the server ends, saves when it is stopped, and ends where it was to end."""
    fields = {"net.widths": "8,16", "net.down": "0,1", "net.up": "1,1", "net.attention": "false,true"}
    fields |= {"report.validation_images": "2", "report.events": "2", "data.validation": "0.3"}
    body = {"data": "folder", "recipe": "smoke", "images": 60_000, "fields": fields, "size": 32}
    assert client.post("/api/plans", json=body).json()["verdict"]
    own = client.post("/api/runs", json=body).json()["id"]
    assert re.fullmatch(r".+-smoke-1", own)
    folder = client.runs / own

    def stop():
        wait_for(lambda: (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size)
        wait_for(lambda: is_locked(folder) and client.get(f"/api/runs/{own}").json()["can_stop"])
        (child,) = client.processes.running
        assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
        assert client.post(f"/api/runs/{own}/stop").status_code == 202
        wait_for(lambda: client.get(f"/api/runs/{own}").json()["state"] == "stopped")

    stop()
    stopped = client.get(f"/api/runs/{own}").json()
    assert (stopped["can_resume"], stopped["why"], bool(stopped["checkpoints"])) == (True, "", True)
    assert client.post(f"/api/runs/{own}/resume", json={}).status_code == 202
    stop()


def write_evaluation(run, number, **values):
    """Write the record of an evaluation and its features."""
    folder = run / f"evaluations/{number}"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record(**values)))
    np.save(folder / "features.npy", np.zeros((4, 4), np.float32))


def test_runs_are_compared_and_those_without_an_evaluation_are_named(client, trained):
    for name, kid in {"a": 0.3, "b": 0.2, "c": None}.items():
        shutil.copytree(trained / RUN, client.runs / name)
        if kid:
            write_evaluation(client.runs / name, 1, kid=kid, step=10)
    write_evaluation(client.runs / "a", 2, kid=0.1, step=10, samples=7)
    wait_for(lambda: "c" in list_rows(client) and "kid" in list_rows(client)["b"]["metrics"])
    found = client.get("/api/compare?run=b&run=c&run=none,b&run=a&metric=kid").json()
    assert (len(found["runs"]), found["excluded"]) == (2, ["c", "none,b"])
    assert client.get("/api/compare?run=a").json()["comparison"] is None
    assert client.get("/api/compare?run=a&metric=beauty").status_code == 422
    details = client.get("/api/runs/a").json()
    assert details["metrics"]["kid"] == {"value": 0.3, "low": 0.29, "high": 0.31}
    shown = [(each["metrics"]["kid"]["value"], each["comparable"]) for each in details["evaluations"]]
    assert shown == [(0.3, True), (0.1, False)]


def test_the_report_on_a_sweep_runs_no_code(client, trained):
    recipe = json.loads((trained / RUN / "run.json").read_text())["recipe"]
    shutil.copytree(trained / RUN, client.runs / "<b>sweep/trials/1")
    (client.runs / "<b>sweep/trials/1.trial.json").write_text(json.dumps(recipe))
    wait_for(lambda: client.get("/api/runs").json()["sweeps"])
    (found,) = client.get("/api/runs").json()["sweeps"]
    answer = client.get(f"/api/sweeps/{found['id']}/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    assert "<b>sweep" not in answer.text
    assert client.get("/api/sweeps/none/report").status_code == 404


def test_a_command_that_fails_says_why_and_there_are_no_more_than_a_few(client, trained, monkeypatch):
    shutil.copytree(trained / RUN, client.runs / "early", ignore=shutil.ignore_patterns("checkpoints"))
    (client.runs / "early/metrics.jsonl").write_text("")
    wait_for(lambda: "early" in list_rows(client))
    found = client.get("/api/runs/early").json()
    assert (found["state"], found["can_resume"]) == ("stopped", False)
    assert client.post("/api/runs/early/evaluate", json={"n": 20}).status_code == 202
    wait_for(lambda: "`ddim evaluate`: " in list_rows(client)["early"]["why"])
    assert "checkpoint" in list_rows(client)["early"]["why"]
    monkeypatch.setattr(processes, "MOST", 0)
    assert client.post("/api/runs", json={"data": "folder~one", "recipe": "smoke"}).status_code == 429


@pytest.mark.slow
def test_a_student_is_started_from_the_page(client):
    answer = client.post(f"/api/runs/{RUN}/distill", json={"minutes": 0.01})
    assert answer.status_code == 202, answer.text
    wait_for(lambda: not client.processes.running, 300)
    assert client.processes.children[-1].name == "distill"
