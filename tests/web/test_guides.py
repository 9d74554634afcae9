"""The weaker models that the page offers to guide a run, and what it asks of a run with vectors."""

import shutil

from ddim.files import read_sealed, write_sealed

RUN = "photos-tiny-1"
COPIES = {
    "same": {"recipe.data.channels": 3, "recipe.data.values": "uint8"},
    "no checkpoint": {},
    "other images": {"data.fingerprint": "0" * 64},
    "other size": {"recipe.data.size": [64, 64]},
    "other pixels": {"recipe.pixels": {"kind": "fixed", "mean": 0.5, "std": 0.5}},
    "always labelled": {"recipe.data.labels": True, "recipe.data.unlabelled": 0.0},
    "labelled": {"recipe.data.labels": True, "data.classes": ["a", "b"]},
    "twin": {"recipe.data.labels": True, "data.classes": ["a", "b"]},
    "clusters": {"recipe.data.labels": "clusters:3", "recipe.net.classes": 3},
}
"""Copies of the first run, with changed fields of their run.json."""


def test_a_run_is_guided_by_its_early_checkpoint_and_by_runs_of_the_same_images(copy_client, runs):
    """A guide with labels fits if it also learned images without labels, or has labels of the same kind."""
    for name, fields in COPIES.items():
        shutil.copytree(runs / RUN, runs / name)
        document = read_sealed(runs / name / "run.json")
        for path, value in fields.items():
            *parts, last = path.split(".")
            place = document
            for part in parts:
                place = place[part]
            place[last] = value
        write_sealed(runs / name / "run.json", document)
    shutil.rmtree(runs / "no checkpoint/checkpoints")
    (runs / "damaged").mkdir()
    (runs / "damaged/run.json").write_text('{"recipe": {"data": 3}}')

    def guides(run):
        return copy_client.get(f"/api/runs/{run}").json()["guides"].keys()

    assert guides(RUN) == {"@guide", "same", "labelled", "twin", "clusters"}
    assert guides("labelled") == {"@guide", RUN, "same", "always labelled", "twin"}
    # Clusters have numbers, and samples have a random one.
    found = copy_client.get("/api/runs/clusters").json()
    assert (found["class_names"], found["draws_labels"]) == (["0", "1", "2"], True)


def test_the_details_name_the_numbers_of_vectors(client):
    names = ("draws_labels", "unlabelled", "can_guide", "edits")
    found = client.get(f"/api/runs/{RUN}").json()
    edits = ["vary", "inpaint", "interpolate", "invert"]
    assert ([found[name] for name in names], found["vector"]) == ([False, True, False, edits], [])
    found = client.get("/api/runs/vectors-1").json()
    assert [found[name] for name in names[:3]] == [True, True, True]
    assert [column["name"] for column in found["vector"]] == ["level", "other"]
    assert 40 <= found["vector"][0]["low"] < found["vector"][0]["high"] <= 220
