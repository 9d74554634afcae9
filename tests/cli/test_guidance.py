"""Samples with a guide: files and records."""

import json

import pytest

import tiny
from ddim.runs import checkpoint
from ddim.runs.names import GUIDE

STEPS = ["--steps", "3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, and a run of a smaller network on the same images."""
    home = tmp_path_factory.mktemp("home")
    recipe = tiny.recipe(report__guide=0.3, data__validation="0.5")
    tiny.train(recipe, home / "run")
    tiny.train(tiny.recipe("batch norm", images=16, data__validation="0.5"), home / "small")
    return home


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def test_a_guide_needs_no_labels_and_the_record_names_it(home, tmp_path, command, refused):
    words = ["sample", home / "run", "-n", 2, *STEPS, "--guidance", "2", "--guide-with", "@guide"]
    command(*words, "--guidance-interval", "-40,", "--out", tmp_path / "a")
    record = record_of(tmp_path / "a")
    path = checkpoint.find_newest(home / "run" / GUIDE)
    wanted = {"name": "@guide", "path": str(path), "step": 3, "weights": "ema"}
    assert record["guide"] == wanted | {"sha256": checkpoint.hash_checkpoint(path)}
    assert (record["guidance"], record["guidance_interval"], record["nfe"]) == (2.0, [-40.0, None], 6)
    # The same guide by another name adds to the folder; another guide, interval or scale does not.
    words[-1] = home / "run" / "guide"
    same = [*words, "--guidance-interval=-40,", "--out", tmp_path / "a"]
    assert "of which 2 were there before" in command(*same).out
    for k, other in ((-1, "@raw"), (-3, "3")):
        changed = [*words]
        changed[k] = other
        said = refused(*changed, "--guidance-interval=-40,", "--out", tmp_path / "a")
        assert f"holds samples with another {'guide' if k == -1 else 'guidance'};" in said
    assert "holds samples with another guidance_interval" in refused(*words, "--out", tmp_path / "a")


def test_guidance_that_does_nothing_gives_the_same_files(home, tmp_path, command):
    words = ["sample", home / "run", "-n", 2, *STEPS, "--out"]
    command(*words, tmp_path / "plain")
    command(*words, tmp_path / "one", "--guidance", "1", "--guide-with", "@guide")
    far = ["--guidance", "2", "--guide-with", "@guide", "--guidance-interval", "60,70"]
    command(*words, tmp_path / "far", *far)
    command(*words, tmp_path / "guided", *far[:4])
    plain, one, far, guided = (pictures(tmp_path / name) for name in ("plain", "one", "far", "guided"))
    assert plain == one == far != guided
    assert [record_of(tmp_path / name)["nfe"] for name in ("one", "far", "guided")] == [3, 3, 6]
    assert "guide" not in record_of(tmp_path / "one")


def test_a_run_of_another_network_guides(home, tmp_path, command):
    words = ["sample", home / "run", "-n", 1, *STEPS, "--guidance", "1.5", "--out", tmp_path / "a"]
    command(*words, "--guide-with", f"{home}/small@raw")
    guide = record_of(tmp_path / "a")["guide"]
    assert (guide["step"], guide["weights"]) == (2, "raw")
