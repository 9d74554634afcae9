"""What the page shows of runs, live and damaged ones too."""

import asyncio
import io
import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ddim.experiments.index import read_run
from ddim.files import lock_folder, read_sealed, write_sealed
from ddim.runs.log import read_metrics
from ddim.web.application import build_application
from ddim.web.details import list_seconds
from ddim.web.processes import Processes
from ddim.web.run_routes import watch_runs
from ddim.web.runs import RunList, name_id
from ddim.web.settings import Settings
from ddim.web.state import Server

RUN = "photos-tiny-1"


def test_the_list_and_the_details_equal_the_files(client, trained):
    answer, folder = client.get("/api/runs").json(), trained / RUN
    row, run = next(row for row in answer["runs"] if row["id"] == RUN), read_run(folder)
    assert answer["sweeps"] == []
    shown = [row[name] for name in ("state", "images", "total", "errors", "size", "parameters")]
    assert shown == ["finished", 80, 80, dict(run.errors), [32, 32], run.facts["parameters"]]
    assert client.get(row["sheet"]).content == max((folder / "samples").glob("step-*.png")).read_bytes()
    found = client.get(f"/api/runs/{RUN}").json()
    assert {field["field"]: field["value"] for field in found["fields"]}["optim.batch"] == "8"
    assert [sheet["images"] for sheet in found["sheets"]] == [40, 80]
    for url in [found["real_sheet"], *(sheet["url"] for sheet in found["sheets"])]:
        with Image.open(io.BytesIO(client.get(url).content)) as picture:
            assert picture.format == "PNG"
    assert (found["checkpoints"][-1]["images"], found["can_sample"]) == (80, True)


def test_the_curves_are_the_log(client, trained):
    curves = client.get(f"/api/runs/{RUN}/curves").json()
    lines = read_metrics(trained / RUN)
    assert curves["images"] == [line["images"] for line in lines]
    assert curves["loss"] == [line.get("loss") for line in lines]
    assert curves["errors"]["image_mae"] == [line.get("image_mae") for line in lines]
    assert set(map(len, curves["more"].values())) == {len(lines)}
    assert curves["lines"] == lines


def test_a_pause_of_a_training_is_left_out():
    assert list_seconds([5.0, 6.0, 7.5, 3600.0, 3601.0]) == [0.0, 1.0, 2.5, 2.5, 3.5]
    assert (list_seconds([5.0]), list_seconds([])) == ([0.0], [])


def test_long_curves_are_thinned_and_keep_validations(copy_client, runs):
    lines = [{"step": k, "images": 8 * k, "time": float(k), "loss": 1 / k} for k in range(1, 10_000)]
    lines += [{"step": 9_999, "images": 79_992, "time": 1e4, "image_mae": 0.5, "noise_mae": 0.5}]
    (runs / RUN / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = copy_client.get(f"/api/runs/{RUN}/curves").json()
    assert 1000 < len(curves["images"]) <= 2000
    assert curves["errors"]["image_mae"][-1] == 0.5
    assert {len(curves["images"])} == {len(curves["loss"]), len(curves["errors"]["noise_mae"])}
    assert curves["more"]["images_per_second"][1] == 8.0


@pytest.mark.parametrize("run", ["..", "..%2f..%2fetc", "photos-tiny-1~..", "a" * 3000])
def test_only_listed_runs_and_pictures_are_shown(client, run):
    for path in ("", "/curves", "/pictures/real.png"):
        assert client.get(f"/api/runs/{run}{path}").status_code == 404
    for name in ("../run.json", "..%2frun.json", "5"):
        assert client.get(f"/api/runs/{RUN}/pictures/{name}").status_code == 404


DAMAGES = {
    "not JSON": "{",
    "no recipe": '{"recipe": {}}',
    "deep": "[" * 100_000,
    "texts for numbers": '{"recipe": {"optim": {"batch": "x"}, "data": {"size": "xy"}, "images": "many"}}',
    "infinite": '{"recipe": {"optim": {"batch": 1e999}, "data": {"source": 1, "size": [NaN]}, "images": 1}}',
}


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_a_row_with_its_reason(copy_client, runs, text):
    (runs / "broken").mkdir()
    (runs / "broken/run.json").write_text(text)
    rows = {row["id"]: row for row in copy_client.get("/api/runs").json()["runs"]}
    assert (rows[RUN]["state"], rows["broken"]["state"]) == ("finished", "damaged")
    assert rows["broken"]["why"]
    assert str(runs) not in rows["broken"]["why"]
    assert copy_client.get("/api/runs/broken").status_code == 200


SOUND = {"verdict": "It copies nothing.", "sampling": {}, "copies": {"count": 0, "of": 40}, "step": 1200}
SOUND |= {"checkpoint": {"sha256": "0" * 64}, "weights": "raw"}


@pytest.mark.parametrize("record", ["", '{"seal": "0", "verdict": "no copies"}', SOUND], ids=str)
def test_a_memorisation_test_names_its_weights_or_its_damage(copy_client, runs, record):
    folder = runs / RUN / "memorisation" / "1"
    folder.mkdir(parents=True)
    if record is SOUND:
        write_sealed(folder / "record.json", record)
    else:
        (folder / "record.json").write_text(record)
    said = "the record of memorisation test 1 is damaged"
    said = "It copies nothing. Tested: the raw weights at step 1,200." if record is SOUND else said
    assert copy_client.get(f"/api/runs/{RUN}").json()["memorisation"] == said


@pytest.mark.parametrize(("labels", "classes", "drawn"), [("clusters:3", 3, True), (True, 12, False)])
def test_clusters_are_counted_and_drawn_by_default(copy_client, runs, labels, classes, drawn):
    document = read_sealed(runs / RUN / "run.json")
    document["recipe"]["data"]["labels"] = labels
    document["recipe"]["net"]["classes"] = classes
    write_sealed(runs / RUN / "run.json", document)
    found = copy_client.get(f"/api/runs/{RUN}").json()
    assert (len(found["class_names"]), found["draws_labels"]) == (classes, drawn)


def test_ids_are_unique_and_parts_of_an_address(copy_client, runs, tmp_path):
    paths = ["a/b", "a~b", "a b", "ü", "a%2fb", "a?b", "a#b", "\udcff", "."]
    ids = [name_id(tmp_path / path, tmp_path) for path in paths]
    assert (len(set(ids)), ids[0]) == (len(ids), "a~b")
    assert all("/" not in each and each.isascii() for each in ids)
    name = "<img src=x onerror=alert(1)>\udcff"
    (runs / RUN).rename(runs / name)
    (row,) = copy_client.get("/api/runs").json()["runs"]
    assert (row["name"], row["id"][:4]) == (name, "run-")
    assert copy_client.get(f"/api/runs/{row['id']}").json()["name"] == name


def test_the_trials_of_a_sweep_name_their_sweep(copy_client, runs):
    recipe = json.dumps(read_run(runs / RUN).recipe)
    (runs / "sweep/trials").mkdir(parents=True)
    (runs / RUN).rename(runs / "sweep/trials/trial-0")
    for k in range(2):
        (runs / f"sweep/trials/trial-{k}.trial.json").write_text(recipe)
    answer = copy_client.get("/api/runs").json()
    ids = ["sweep~trials~trial-0", "sweep~trials~trial-1"]
    assert answer["sweeps"] == [{"id": "sweep", "name": "sweep"}]
    assert {row["id"]: row["state"] for row in answer["runs"]} == dict(
        zip(ids, ["finished", "waiting"], strict=True)
    )


def test_changes_are_streamed_once_and_faults_are_told(runs, monkeypatch):
    """The first event has all rows, and each further one those that changed."""

    async def listen():
        listed = RunList(runs, Processes())
        parts = dict.fromkeys(["models", "store", "jobs"])
        events = watch_runs(Server(Settings(runs), listed, processes=listed.processes, **parts))
        name, change = await anext(events)
        assert (name, [row.id for row in change.changed]) == ("runs", [RUN])
        (runs / RUN).rename(runs / "moved")
        _, change = await anext(events)
        assert ([row.id for row in change.changed], change.gone) == (["moved"], [RUN])
        monkeypatch.setattr(listed, "read", lambda: runs.joinpath("none").stat())
        name, failure = await anext(events)
        assert (name, "cannot be read" in failure["error"]) == ("failed", True)

    asyncio.run(listen())


def test_only_running_or_changed_runs_are_read_again(runs, monkeypatch):
    read = []
    monkeypatch.setattr("ddim.web.runs.FRESH", 0)
    monkeypatch.setattr("ddim.web.runs.read_run", lambda path: (read.append(1), read_run(path))[1])
    known = RunList(runs, Processes())
    assert (known.read(), known.read(now=True), len(read))[2] == 1
    known.read()[RUN].run = replace(known.read()[RUN].run, state="running")
    assert (known.read(), len(read))[1] == 2
    with (runs / RUN / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "images": 88, "time": 1.0, "loss": 0.25}\n')
    assert (known.read(), len(read))[1] == 3


def test_a_run_is_renamed_noted_and_deleted(runs, tmp_path, copy_client):
    assert copy_client.delete(f"/api/runs/{RUN}").status_code == 403
    with TestClient(build_application(Settings(runs, data=tmp_path)), base_url="http://localhost") as client:
        row = client.patch(f"/api/runs/{RUN}", json={"name": "roses", "note": "the best"}).json()
        assert (row["id"], row["note"]) == ("roses", "the best")
        for name in ("../x", ".hidden", "roses/x"):
            assert client.patch("/api/runs/roses", json={"name": name}).status_code == 422
        with lock_folder(runs / "roses"):
            assert client.delete("/api/runs/roses").status_code == 409
        assert client.delete("/api/runs/roses").status_code == 204
        assert client.get("/api/runs").json()["runs"] == []
        assert not (runs / "roses").exists()
