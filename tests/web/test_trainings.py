"""Commands that the page starts, the images it shows, and comparisons."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import sweeping
import tiny
from browsing import wait_until
from ddim.files import is_locked
from ddim.web import processes
from evaluated_runs import record, write_record
from serving import open_client

RUN = "photos-tiny-1"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Image sets: two classes, a single image, an array, and a link that leads out of the folder."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_grays(folder / "one", [10, 20, 30, 30])
    tiny.write_grays(folder / "two", [50, 60])
    tiny.write_grays(folder / "few", [70])
    (folder / "two/broken.png").write_bytes(b"broken")
    np.save(folder / "stack.npy", np.full((4, 32, 32), 200, np.uint8))
    (folder / "elsewhere").symlink_to("/")
    return folder


@pytest.fixture(scope="module")
def client(trained, data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("training") / "runs"
    shutil.copytree(trained / RUN, runs / RUN)
    commands = processes.Processes()
    with open_client(runs, processes=commands, data=data) as found:
        found.runs, found.processes = runs, commands
        yield found


def list_rows(client):
    """The rows of the list of runs, keyed by id."""
    return {row["id"]: row for row in client.get("/api/runs").json()["runs"]}


def test_without_data_nothing_is_trained(copy_client):
    assert copy_client.get("/api/about").json()["may_train"] is False
    assert copy_client.get("/api/choices").json()["data"] == []
    for path in ("", f"/{RUN}/stop", f"/{RUN}/resume", f"/{RUN}/evaluate", f"/{RUN}/distill"):
        assert copy_client.post(f"/api/runs{path}", json={}).status_code == 403
    assert copy_client.post("/api/data/built-in~blossoms").status_code == 403


def test_the_choices_are_those_of_the_command_and_the_sets_below_the_folder(client):
    found = client.get("/api/choices").json()
    sets = ["built-in~blossoms", "folder", "folder~few", "folder~one", "folder~two", "file~stack.npy"]
    assert sorted(entry["id"] for entry in found["data"]) == sorted(sets)
    recipes = {recipe["name"]: recipe for recipe in found["recipes"]}
    assert {"fast", "flow", "dit", "smoke"} <= recipes.keys()
    assert recipes["fast"]["size"] == [64, 64]
    found = client.post("/api/data/folder").json()
    assert found["classes"] == {"few": 1, "one": 4, "two": 2}
    assert [each["name"] for each in found["rejects"]] == ["elsewhere", "two/broken.png"]
    assert found["duplicates"] == [["one/2.png", "one/3.png"]]


CHANGES = [{"data": own} for own in ("..", "folder~..", "folder~elsewhere", "%2fetc", "blossoms")]
CHANGES += [{"recipe": "mine.yaml"}, {"minutes": -1.0}, {"out": "/tmp/x"}, {"callbacks": []}]
FIELDS = {"net": "mine.py:Net", "--out": "x", "data.source": "/etc", "data.vectors": __file__}
CHANGES += [{"fields": {name: value}} for name, value in {**FIELDS, "optim.lr": "nan"}.items()]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_training_that_cannot_begin_is_one_sentence_and_leaves_nothing(client, change):
    """No set outside the folder is shown or trained on, no code of a user runs, and no file is read."""
    before = sorted(client.runs.iterdir())
    answer = client.post("/api/runs", json={"data": "folder~one", "recipe": "smoke", **change})
    assert answer.status_code == (404 if "data" in change else 422)
    assert "\n" not in answer.json()["error"]
    assert sorted(client.runs.iterdir()) == before
    if "data" in change:
        assert client.post(f"/api/data/{change['data']}").status_code == 404


def test_what_has_ended_cannot_be_stopped_and_a_trial_is_resumed_by_its_sweep(client, trained):
    assert client.post(f"/api/runs/{RUN}/stop").status_code == 409
    assert client.post(f"/api/runs/{RUN}/resume", json={}).status_code == 409
    (folder,) = sweeping.plan_sweep(client.runs / "rates", ["0.001"])
    shutil.copytree(trained / RUN, folder)
    assert client.post(f"/api/runs/rates~trials~{folder.name}/resume", json={}).status_code == 409
    shutil.rmtree(client.runs / "rates")


def test_a_training_that_fails_at_its_start_is_a_row_with_the_reason(client):
    """It is in the list at once, its empty folder goes away, and its row can be removed."""
    own = client.post("/api/runs?name=A few", json={"data": "folder~few", "recipe": "smoke"}).json()["id"]
    assert (own, list_rows(client)[own]["state"]) == ("A few", "waiting")
    wait_until(lambda: list_rows(client)[own]["state"] == "failed", 120)
    assert "`ddim train`: " in list_rows(client)[own]["why"]
    assert not (client.runs / own).exists()
    assert client.delete(f"/api/runs/{own}").status_code == 204
    assert own not in list_rows(client)


@pytest.mark.slow
def test_a_training_is_started_stopped_resumed_and_distilled(client):
    """It goes on when the server ends, saves when it is stopped, and ends where it was to end."""
    fields = {"report.validation_images": "2", "data.validation": "0.3"}
    body = {"data": "folder", "recipe": "smoke", "images": 60_000, "fields": fields}
    assert client.post("/api/plans", json=body).json()["verdict"]
    assert client.post("/api/runs?name=../x", json=body).status_code == 422
    own = client.post(f"/api/runs?name={RUN}", json=body).json()["id"]
    assert own == "photos-tiny-2"  # the name is taken
    folder = client.runs / own

    def stop():
        wait_until(lambda: list_rows(client)[own]["images"] and is_locked(folder), 250)
        (child,) = client.processes.running
        assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
        assert client.post(f"/api/runs/{own}/stop").status_code == 202
        wait_until(lambda: client.get(f"/api/runs/{own}").json()["state"] == "stopped", 120)

    stop()
    stopped = client.get(f"/api/runs/{own}").json()
    assert (stopped["can_change"], stopped["why"], bool(stopped["checkpoints"])) == (True, "", True)
    assert client.post(f"/api/runs/{own}/resume", json={}).status_code == 202
    stop()
    student = client.post(f"/api/runs/{RUN}/distill", json={"minutes": 0.01}).json()["id"]
    wait_until(lambda: list_rows(client)[student]["state"] == "finished", 300)
    wait_until(lambda: not client.processes.running, 60)


def test_an_evaluation_that_fails_says_why_and_only_a_few_commands_run(client, trained, monkeypatch):
    shutil.copytree(trained / RUN, client.runs / "early", ignore=shutil.ignore_patterns("checkpoints"))
    (client.runs / "early/metrics.jsonl").write_text("")
    found = client.get("/api/runs/early").json()
    assert (found["state"], found["checkpoints"]) == ("stopped", [])
    assert client.post("/api/runs/early/evaluate", json={"n": 20}).status_code == 202
    wait_until(lambda: "`ddim evaluate`: " in list_rows(client)["early"]["why"], 120)
    assert "checkpoint" in list_rows(client)["early"]["why"]
    monkeypatch.setattr(processes, "MOST", 0)
    before = sorted(client.runs.iterdir())
    assert client.post("/api/runs", json={"data": "folder~one", "recipe": "smoke"}).status_code == 429
    assert client.post(f"/api/runs/{RUN}/distill", json={}).status_code == 429
    assert sorted(client.runs.iterdir()) == before


def test_of_many_starts_at_once_one_succeeds(tmp_path):
    commands = processes.Processes()

    def start(_):
        try:
            commands.start("train", tmp_path, ["--help"])
        except processes.Refused as refused:
            return refused.status_code
        return 202

    with closing(commands), ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(start, range(8))) == [202] + [409] * 7
        wait_until(lambda: not commands.running, 60)


def test_the_command_that_still_works_is_stopped_also_by_a_later_server(client, trained):
    """After an evaluation of the same run has ended, and after a restart of the server."""
    run = client.runs / "long"
    shutil.copytree(trained / RUN, run)
    first = client.processes

    def evaluate():
        """Begin an evaluation that takes minutes."""
        first.start("evaluate", run, [str(run), "-n", "50000"])
        return first.find(run).process

    process = evaluate()
    first.start("diagnose", run, ["--help"])
    wait_until(lambda: len(first.running) == 1, 60)
    assert client.post("/api/runs/long/stop").status_code == 202
    wait_until(lambda: process.poll() is not None, 60)
    process = evaluate()
    wait_until(lambda: client.get("/api/runs/long").json()["said"], 60)
    assert "samples" in client.get("/api/runs/long").json()["said"]
    with open_client(client.runs, data=client.runs.parent) as later:
        assert later.get("/api/runs/long").json()["doing"] == "evaluate"
        assert later.post("/api/runs/long/evaluate", json={"n": 20}).status_code == 409
        assert later.post("/api/runs/long/stop").status_code == 202
        wait_until(lambda: process.poll() is not None, 60)
        assert later.post("/api/runs/long/stop").status_code == 409


def test_a_later_server_finds_the_commands_of_its_own_folders(tmp_path, monkeypatch):
    """However it writes the folder; none of another folder of this name, and no student of a teacher."""
    monkeypatch.chdir(tmp_path)
    with closing(processes.Processes()) as commands:
        commands.start("distill", Path("runs/one"), ["runs/teacher", "--out", "runs/one"])
        here = [processes.find_commands(path) for path in (tmp_path / "runs/one", Path("runs/teacher"))]
        monkeypatch.chdir("/")
        found = [*here, processes.find_commands(Path("runs/one"))]
        wait_until(lambda: not commands.running, 60)
    assert [[*each.values()] for each in found] == [["distill"], [], []]


def test_runs_are_compared_by_evaluations_made_under_the_same_conditions(client, trained):
    for name in "abc":
        shutil.copytree(trained / RUN, client.runs / name)
    few = {"kid": 0.1, "samples": 7}
    for path, values in {"a/1": {"kid": 0.3}, "a/2": few, "b/1": {"kid": 0.2}}.items():
        write_record(client.runs / path.replace("/", "/evaluations/"), record(step=10, **values))
    wait_until(lambda: "c" in list_rows(client) and "kid" in list_rows(client)["b"]["metrics"])
    found = client.get("/api/compare?run=b&run=c&run=none,b&run=a&metric=kid").json()
    assert (len(found["runs"]), found["excluded"]) == (2, ["c", "none,b"])
    found = client.get("/api/compare?run=b&run=a&metric=fid").json()
    assert (found["runs"], "FID" in found["comparison"]["verdict"]) == ([], True)
    details = client.get("/api/runs/a").json()
    assert details["metrics"]["kid"] == {"value": 0.3, "low": 0.29, "high": 0.31}
    shown = [(each["metrics"]["kid"]["value"], each["comparable"]) for each in details["evaluations"]]
    assert shown == [(0.3, True), (0.1, False)]
