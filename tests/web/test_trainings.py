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


def test_without_data_nothing_is_trained(trained):
    with TestClient(build_application(Settings(trained)), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["may_train"] is False
        assert client.get("/api/choices").json()["data"] == []
        body = {"data": "built-in~blossoms", "recipe": "fast"}
        assert client.post("/api/runs", json=body).status_code == 403
        assert client.post(f"/api/runs/{RUN}/stop").status_code == 403
        assert client.post(f"/api/runs/{RUN}/resume", json={}).status_code == 403
        assert client.get("/api/data/built-in~blossoms").status_code == 403


def test_the_image_sets_are_those_below_the_folder(client, data):
    entries = client.get("/api/choices").json()["data"]
    kinds = {entry["id"]: entry["kind"] for entry in entries}
    assert kinds == {
        "built-in~blossoms": "built-in",
        "folder": "folder",
        "folder~one": "folder",
        "folder~two": "folder",
        "archive~packed.zip": "archive",
        "array~stack.npy": "array",
    }
    assert all(source == "blossoms" or source.startswith(str(data)) for _, source in list_data(data).values())


def test_a_set_is_described_as_the_command_does(client):
    found = client.get("/api/data/folder").json()
    assert found["images"] == 6
    assert found["classes"] == {"one": 4, "two": 2}
    assert found["verdict"].startswith("6 ")
    assert [each["name"] for each in found["rejects"]] == ["elsewhere", "two/broken.png"]
    assert found["duplicates"] == [["one/2.png", "one/3.png"]]
    with Image.open(io.BytesIO(client.get(found["sheet"]).content)) as sheet:
        assert sheet.format == "PNG"


@pytest.mark.parametrize("own", ["..", "folder~..", "folder~elsewhere", "%2fetc", "blossoms"])
def test_only_listed_sets_are_shown_or_trained(client, own):
    assert client.get(f"/api/data/{own}").status_code == 404
    body = {"data": own, "recipe": "fast"}
    assert client.post("/api/runs", json=body).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "mine.yaml"},
        {"minutes": -1.0},
        {"images": 10**30},
        {"out": "/tmp/x"},
        {"fields": {"callback": "mine.py:Call"}},
        {"fields": {"own": "mine.py"}},
        {"fields": {"net": "mine.py:Net"}},
        {"fields": {"net": "/tmp/mine.py :Net"}},
        {"fields": {"out": "/tmp/x"}},
        {"fields": {"data.source": "/etc"}},
        {"fields": {"data.vectors": __file__}},
        {"fields": {"objective.guide": "/tmp"}},
        {"fields": {"optim.lr": "nan"}},
        {"fields": {"--out": "x"}},
    ],
    ids=str,
)
def test_a_training_that_cannot_begin_is_one_sentence_and_leaves_nothing(client, change):
    before = sorted(client.runs.iterdir())
    body = {"data": "folder~one", "recipe": "smoke", **change}
    answer = client.post("/api/runs", json=body)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["error"]
    assert sorted(client.runs.iterdir()) == before


def test_the_recipes_are_those_of_the_command(client):
    found = client.get("/api/choices").json()
    assert {"fast", "flow", "dit", "smoke"} <= {recipe["name"] for recipe in found["recipes"]}
    texts = {field["field"]: field["help"] for field in found["fields"]}
    assert "learning rate" in texts["optim.lr"].lower()


def test_a_finished_run_needs_minutes_to_go_on(client):
    assert client.post(f"/api/runs/{RUN}/stop").status_code == 409
    answer = client.post(f"/api/runs/{RUN}/resume", json={})
    assert answer.status_code == 409
    assert "minutes" in answer.json()["error"]


def test_a_trial_is_stopped_with_its_worker_and_resumed_with_its_sweep(trained, tmp_path, data):
    (folder,) = sweeping.plan_sweep(tmp_path / "runs" / "rates", ["0.001"])
    shutil.copytree(trained / RUN, folder)
    # Without its last checkpoint, the run is not finished.
    shutil.rmtree(max((folder / "checkpoints").glob("step-*")))

    def refusal(what):
        application = build_application(Settings(tmp_path / "runs", data=data))
        with TestClient(application, base_url="http://127.0.0.1:8000") as client:
            (trial,) = (run["id"] for run in client.get("/api/runs").json()["runs"])
            answer = client.post(f"/api/runs/{trial}/{what}", json={})
        assert answer.status_code == 409
        return answer.json()["error"]

    assert "stop a training where it was started" in refusal("stop")
    assert "belongs to a sweep" in refusal("resume")


def wait_for(question, seconds=120):
    """Wait until a question is answered with yes."""
    until = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < until, question
        time.sleep(0.1)


@pytest.mark.slow
def test_a_training_is_started_stopped_and_resumed(client, monkeypatch):
    """It goes on when the server ends, saves when it is stopped, and ends where it was to end."""
    fields = {"net.widths": "8,16", "net.down": "0,1", "net.up": "1,1", "net.attention": "false,true"}
    fields |= {"report.validation_images": "2", "report.events": "2", "data.validation": "0.3"}
    body = {"data": "folder", "recipe": "smoke", "images": 60_000, "fields": fields, "size": 32}
    answer = client.post("/api/runs", json=body)
    assert answer.status_code == 202, answer.text
    own = answer.json()["id"]
    assert re.fullmatch(r".+-smoke-1", own)
    folder = client.runs / own
    wait_for(lambda: is_locked(folder))
    (child,) = client.processes.running
    assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
    wait_for(lambda: (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").stat().st_size)
    wait_for(lambda: client.get(f"/api/runs/{own}").json().get("can_stop"))
    assert client.post(f"/api/runs/{own}/stop").status_code == 202
    wait_for(lambda: not is_locked(folder))
    wait_for(lambda: client.get(f"/api/runs/{own}").json()["state"] == "stopped")
    stopped = client.get(f"/api/runs/{own}").json()
    assert stopped["can_resume"]
    assert stopped["checkpoints"]
    assert client.post(f"/api/runs/{own}/resume", json={}).status_code == 202
    wait_for(lambda: is_locked(folder))
    wait_for(lambda: client.get(f"/api/runs/{own}").json().get("can_stop"))
    assert client.post(f"/api/runs/{own}/stop").status_code == 202
    wait_for(lambda: not is_locked(folder))


def test_a_run_without_checkpoints_cannot_go_on(client, trained):
    folder = client.runs / "early"
    shutil.copytree(trained / RUN, folder, ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "metrics.jsonl").write_text("")
    wait_for(lambda: client.get(f"/api/runs/{folder.name}").status_code == 200)
    found = client.get(f"/api/runs/{folder.name}").json()
    assert (found["state"], found["can_resume"]) == ("stopped", False)


def write_evaluation(run, number, **values):
    """Write the record of an evaluation and its features."""
    folder = run / f"evaluations/{number}"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(record(**values)))
    np.save(folder / "features.npy", np.zeros((4, 4), np.float32))


def list_rows(client):
    """The rows of the list of runs, keyed by id."""
    return {row["id"]: row for row in client.get("/api/runs").json()["runs"]}


def read_kid(row):
    """The KID of a row, None without an evaluation."""
    return row["metrics"].get("kid", {}).get("value")


def test_runs_are_compared_and_those_without_an_evaluation_are_named(client, trained):
    runs = client.runs
    for name in "abc":
        shutil.copytree(trained / RUN, runs / name)
    for name, kid in (("a", 0.3), ("b", 0.2)):
        write_evaluation(runs / name, 1, kid=kid, step=10)
    kid = {"a": 0.3, "b": 0.2, "c": None}
    wait_for(lambda: kid.items() <= {own: read_kid(row) for own, row in list_rows(client).items()}.items())
    found = client.get("/api/compare?run=a&run=b&run=c&metric=kid").json()
    assert found["runs"] == ["b", "a"]
    assert [row["kid"] for row in found["comparison"]["rows"]] == [0.2, 0.3]
    assert found["excluded"] == ["c"]
    assert client.get("/api/compare?run=a").json()["comparison"] is None
    assert client.get("/api/compare?run=a&run=none,b").json()["excluded"] == ["none,b"]
    assert client.get("/api/compare?run=a&metric=beauty").status_code == 422
    details = client.get("/api/runs/a").json()
    assert details["evaluations"][0]["metrics"]["kid"] == {"value": 0.3, "low": 0.29, "high": 0.31}
    assert details["evaluations"][0]["comparable"]
    assert details["metrics"]["kid"]["value"] == 0.3


def test_the_evaluation_that_is_comparable_with_other_runs_is_marked_even_if_a_newer_one_is_not(
    client, trained
):
    for name in "ef":
        shutil.copytree(trained / RUN, client.runs / name)
        write_evaluation(client.runs / name, 1, kid=0.3, step=10)
    write_evaluation(client.runs / "e", 2, kid=0.1, step=10, samples=7)
    wait_for(lambda: {"e", "f"} <= list_rows(client).keys())
    shown = client.get("/api/runs/e").json()["evaluations"]
    assert [(each["metrics"]["kid"]["value"], each["comparable"]) for each in shown] == [
        (0.3, True), (0.1, False)
    ]  # fmt: skip


def test_the_report_on_a_sweep_runs_no_code(client, trained):
    runs = client.runs
    recipe = json.loads((trained / RUN / "run.json").read_text())["recipe"]
    shutil.copytree(trained / RUN, runs / "<b>sweep/trials/1")
    (runs / "<b>sweep/trials/1.trial.json").write_text(json.dumps(recipe))
    wait_for(lambda: client.get("/api/runs").json()["sweeps"])
    (found,) = client.get("/api/runs").json()["sweeps"]
    answer = client.get(f"/api/sweeps/{found['id']}/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script" not in answer.headers["content-security-policy"]
    assert "<b>sweep" not in answer.text
    assert client.get("/api/sweeps/none/report").status_code == 404


def test_the_page_starts_no_more_than_a_few_trainings(client, monkeypatch):
    monkeypatch.setattr(processes, "MOST", 0)
    body = {"data": "folder~one", "recipe": "smoke"}
    assert client.post("/api/runs", json=body).status_code == 429


def test_a_command_that_fails_says_why_in_the_row_of_its_run(client, trained):
    shutil.copytree(trained / RUN, client.runs / "lonely")
    shutil.rmtree(client.runs / "lonely" / "checkpoints")
    wait_for(lambda: "lonely" in list_rows(client))
    assert client.post("/api/runs/lonely/evaluate", json={"n": 20}).status_code == 202
    wait_for(lambda: "`ddim evaluate`: " in list_rows(client)["lonely"]["why"])
    assert "checkpoint" in list_rows(client)["lonely"]["why"]


@pytest.mark.slow
def test_a_plan_and_a_student_are_started_from_the_page(client):
    body = {"data": "folder~one", "recipe": "smoke", "minutes": 5, "size": 32}
    answer = client.post("/api/plans", json=body)
    assert answer.status_code in (200, 422), answer.text
    answer = client.post(f"/api/runs/{RUN}/distill", json={"minutes": 0.01})
    assert answer.status_code == 202, answer.text
    wait_for(lambda: not client.processes.running, 300)
    assert client.processes.children[-1].name == "distill"
