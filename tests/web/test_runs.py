"""What the page shows of runs, and of damaged ones too."""

import io
import json

import pytest
from PIL import Image

from ddim.experiments.index import read_run
from ddim.files import lock_folder, write_sealed
from serving import open_client

RUN = "photos-tiny-1"


def test_the_list_and_the_details_equal_the_files(client, trained):
    answer, folder = client.get("/api/runs").json(), trained / RUN
    row, run = next(row for row in answer["runs"] if row["id"] == RUN), read_run(folder)
    shown = [row[name] for name in ("state", "images", "total", "errors", "size", "parameters")]
    assert shown == ["finished", 80, 80, dict(run.errors), [32, 32], run.facts["parameters"]]
    assert client.get(row["sheet"]).content == max((folder / "samples").glob("step-*.png")).read_bytes()
    found = client.get(f"/api/runs/{RUN}").json()
    assert {field["field"]: field["value"] for field in found["fields"]}["optim.batch"] == "8"
    assert [sheet["images"] for sheet in found["sheets"]] == [40, 80]
    assert found["checkpoints"][-1]["images"] == 80
    with Image.open(io.BytesIO(client.get(found["real_sheet"]).content)) as picture:
        assert picture.format == "PNG"


def test_long_curves_are_thinned_keep_validations_and_leave_out_a_pause(copy_client, runs):
    lines = [{"step": k, "images": 8 * k, "time": float(k), "loss": 1 / k} for k in range(1, 10_000)]
    lines += [{"step": 9_999, "images": 79_992, "time": 1e5, "image_mae": 0.5, "noise_mae": 0.5}]
    (runs / RUN / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = copy_client.get(f"/api/runs/{RUN}/curves").json()
    assert 1000 < len(curves["images"]) <= 2000
    assert curves["errors"]["image_mae"][-1] == 0.5
    assert {len(curves["images"])} == {len(curves["loss"]), len(curves["errors"]["noise_mae"])}
    assert (curves["more"]["images_per_second"][1], curves["seconds"][-1]) == (8.0, 9998.0)


@pytest.mark.parametrize("run", ["..", "..%2f..%2fetc", "photos-tiny-1~..", "a" * 3000])
def test_only_listed_runs_and_pictures_are_shown(client, run):
    for path in ("", "/curves", "/pictures/real.png"):
        assert client.get(f"/api/runs/{run}{path}").status_code == 404
    for name in ("../run.json", "..%2frun.json", "5"):
        assert client.get(f"/api/runs/{RUN}/pictures/{name}").status_code == 404


DAMAGES = {
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


def test_a_memorisation_test_says_its_verdict_or_its_damage(copy_client, runs):
    folder = runs / RUN / "memorisation" / "1"
    folder.mkdir(parents=True)
    record = {"verdict": "It copies nothing", "sampling": {}, "step": 1200, "weights": "raw"}
    write_sealed(folder / "record.json", record)
    for said in ("It copies nothing. Tested: the raw weights at step 1,200.", "is damaged"):
        assert said in copy_client.get(f"/api/runs/{RUN}").json()["memorisation"]
        (folder / "record.json").write_text('{"seal": "0", "verdict": "no copies"}')


def test_ids_are_unique_and_parts_of_an_address(copy_client, runs):
    names = ["a~b", "a b", "ü", "a%2fb", "a?b", "a#b", "\udcff", "<img src=x onerror=alert(1)>"]
    for name in names:
        (runs / name).mkdir()
        (runs / name / "run.json").write_bytes((runs / RUN / "run.json").read_bytes())
    ids = {row["name"]: row["id"] for row in copy_client.get("/api/runs").json()["runs"]}
    assert (ids.keys(), len({*ids.values()})) == ({RUN, *names}, 1 + len(names))
    for name, own in ids.items():
        assert copy_client.get(f"/api/runs/{own}").json()["name"] == name


def test_the_trials_of_a_sweep_name_it_and_its_report_runs_no_code(copy_client, runs):
    recipe = json.dumps(read_run(runs / RUN).recipe)
    (runs / "<b>sweep/trials").mkdir(parents=True)
    (runs / RUN).rename(runs / "<b>sweep/trials/0")
    for k in range(2):
        (runs / f"<b>sweep/trials/{k}.trial.json").write_text(recipe)
    rows = copy_client.get("/api/runs").json()["runs"]
    (sweep,) = {row["sweep"] for row in rows}
    assert {row["state"] for row in rows} == {"finished", "waiting"}
    answer = copy_client.get(f"/api/sweeps/{sweep}/report")
    policy = answer.headers["content-security-policy"]
    assert ("sandbox" in policy, "script" in policy, "<b>sweep" in answer.text) == (True, False, False)
    assert copy_client.get("/api/sweeps/none/report").status_code == 404


def test_a_run_is_renamed_noted_and_deleted(runs, tmp_path, copy_client):
    assert copy_client.delete(f"/api/runs/{RUN}").status_code == 403
    with open_client(runs, data=tmp_path) as client:
        row = client.patch(f"/api/runs/{RUN}", json={"name": "roses", "note": "the best"}).json()
        assert (row["id"], row["note"]) == ("roses", "the best")
        for name in ("../x", ".hidden", "roses/x"):
            assert client.patch("/api/runs/roses", json={"name": name}).status_code == 422
        with lock_folder(runs / "roses"):
            assert client.delete("/api/runs/roses").status_code == 409
        assert client.delete("/api/runs/roses").status_code == 204
        assert client.get("/api/runs").json()["runs"] == []
        assert not (runs / "roses").exists()


def test_of_a_run_on_another_drive_only_the_link_is_deleted(runs, tmp_path):
    (runs / RUN).rename(tmp_path / "moved")
    (runs / RUN).symlink_to(tmp_path / "moved")
    with open_client(runs, data=tmp_path) as client:
        assert client.delete(f"/api/runs/{RUN}").status_code == 204
    assert not (runs / RUN).is_symlink()
    assert (tmp_path / "moved" / "run.json").exists()
