"""The weaker models that the page offers to guide a run, and what it asks of a run with vectors."""

import json
import shutil

import pytest

import sweeping
from ddim.web.details import list_guides
from ddim.web.processes import Processes
from ddim.web.runs import RunList

RUN = "photos-tiny-1"


def guides(folder, own=RUN):
    """The ids of the guides of a run in a folder."""
    known = RunList(folder, Processes()).read()
    return sorted(list_guides(known[own], known))


def change(runs, name, **fields):
    """Copy the first run, and set fields of its run.json by path; dots are written as double underscores."""
    shutil.copytree(runs / RUN, runs / name)
    document = json.loads((runs / name / "run.json").read_text())
    document.pop("seal", None)  # a sealed file that was changed is damaged
    for path, value in fields.items():
        *parts, last = path.split("__")
        place = document
        for part in parts:
            place = place[part]
        place[last] = value
    (runs / name / "run.json").write_text(json.dumps(document))


def test_a_run_is_guided_by_its_early_checkpoint_and_by_runs_of_the_same_images(runs):
    sweeping.plan_sweep(runs / "rates", ["0.001"])
    for name, text in {"a": "{}", "b": '{"recipe": {"data": 3}}', "c": '{"recipe": {"data": {}}}'}.items():
        (runs / name).mkdir()
        (runs / name / "run.json").write_text(text)
    assert guides(runs) == ["@guide"]
    change(runs, "other")
    assert (guides(runs), guides(runs, "other")) == (["@guide", "other"], ["@guide", RUN])
    shutil.rmtree(runs / "other" / "checkpoints")
    shutil.rmtree(runs / RUN / "guide")
    assert guides(runs) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"data__fingerprint": "0" * 64},
        {"recipe__data__size": [64, 64]},
        {"recipe__pixels": {"kind": "fixed", "mean": 0.5, "std": 0.5}},
        {"recipe__data__labels": True, "recipe__data__unlabelled": 0.0},
    ],
    ids=str,
)
def test_a_run_that_does_not_fit_is_not_offered(runs, fields):
    change(runs, "other", **fields)
    assert guides(runs) == ["@guide"]


def test_a_guide_with_labels_fits_if_it_also_learned_images_without_or_has_the_same(runs):
    for name, classes in {"labelled": ["a", "b"], "others": ["a", "c"], "twin": ["a", "b"]}.items():
        change(runs, name, recipe__data__labels=True, data__classes=classes)
    assert guides(runs) == ["@guide", "labelled", "others", "twin"]
    assert guides(runs, "labelled") == ["@guide", RUN, "twin"]


def test_the_details_offer_guides_and_name_the_numbers_of_vectors(client, vector_run):
    found = client.get(f"/api/runs/{RUN}").json()
    assert found["guides"]["@guide"] == "its early checkpoint"
    offers = ("vector", "draws_labels", "unlabelled", "can_guide", "edits")
    assert [found[name] for name in offers] == [
        [],
        False,
        True,
        False,
        ["vary", "inpaint", "interpolate", "invert"],
    ]
    found = client.get(f"/api/runs/{vector_run}").json()
    assert [column["name"] for column in found["vector"]] == ["level", "other"]
    assert 40 <= found["vector"][0]["low"] < found["vector"][0]["high"] <= 220
    assert [found[name] for name in ("draws_labels", "unlabelled", "can_guide")] == [True, True, True]


@pytest.mark.parametrize(
    ("run", "body", "said"),
    [
        (RUN, {"guide_with": "/etc"}, "guide_with must be @guide, or the id of a run"),
        (RUN, {"guide_with": "../photos-tiny-1@guide"}, "guide_with must be @guide, or the id of a run"),
        (RUN, {"guide_with": "@guide", "guidance": None}, "guide_with need a guidance scale"),
        (RUN, {}, "guidance needs a label"),
        ("vectors-1", {"vector": [1.0]}, "vector must hold 2 finite numbers (level, other)"),
        ("vectors-1", {"vector": [1.0, 2.0], "label": 1}, "give label or vector, not both"),
        (f"{RUN}/edits/invert", {"guide_with": "@guide"}, "an inversion cannot be guided"),
    ],
    ids=str,
)
def test_guidance_and_vectors_that_cannot_be_used_are_one_sentence(client, vector_run, run, body, said):
    if "edits" in run:
        made = client.post(f"/api/runs/{RUN}/samples", json={"seeds": [0], "steps": 2}).json()
        body = {"sources": [{"result": made["id"], "name": "00000.png"}], **body}
    else:
        run, body = f"{run}/samples", {"seeds": [0], **body}
    answer = client.post(f"/api/runs/{run}", json={"guidance": 2.0, **body})
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
