"""Classes on the command line: train with them, resume, sample, evaluate, measure bits."""

import json

import pytest

import tiny
from ddim.cli import main
from ddim.recipe.codec import write_recipe

FAST = ["--threads", "1", "--precision", "fp32", "--no-compile"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a recipe that trains for a second, and its run with the 12 classes of blossoms."""
    home = tmp_path_factory.mktemp("home")
    # Clean enough to distinguish 8-bit values, for likelihoods.
    recipe = tiny.recipe(data__validation="0.5", optim__warmup="0", schedule__max_signal=0.9999)
    (home / "tiny.yaml").write_text(write_recipe(recipe))
    words = ["train", "--recipe", home / "tiny.yaml", "--data.labels", "yes", "--out", home / "run"]
    assert main([str(word) for word in [*words, *FAST]]) == 0
    return home


def sample_files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


def test_the_same_command_resumes_a_run_with_classes(home, command, refused):
    words = ["train", "--recipe", home / "tiny.yaml", "--data.labels", "yes", "--out", home / "run"]
    said = command(*words, *FAST, "--resume").err
    assert "is finished: nothing to resume" in said
    assert f"next: ddim sample {home / 'run'} --label all " in said
    contradicting = refused(*words, *FAST, "--resume", "--net.classes", "3")
    assert "another recipe" in contradicting


def test_a_class_by_name_by_index_and_by_cycling_gives_the_same_sample(home, tmp_path, command):
    labels = {"name": "daisy", "index": "3", "turn": "all", "none": None}
    for name, label in labels.items():
        words = ["--label", label] if label else []
        command("sample", home / "run", "--seeds", "3,15", "--steps", 2, "--out", tmp_path / name, *words)
    found = {name: sample_files(tmp_path / name) for name in labels}
    assert found["name"] == found["index"] == found["turn"] != found["none"]


def test_the_record_names_label_and_guidance_and_a_folder_holds_one_of_each(home, tmp_path, command, refused):
    words = ["sample", home / "run", "-n", 1, "--steps", 2, "--out", tmp_path]
    command(*words, "--label", "daisy", "--guidance", "2.5")
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["label"], record["class"], record["guidance"], record["nfe"]) == (3, "daisy", 2.5, 4)
    for other in (["--label", "daisy"], ["--label", "all", "--guidance", "2.5"], []):
        assert "holds samples with " in refused(*words, *other)
    command(*words, "--label", "3", "--guidance", "2.5", "--seed", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--label", "dasiy"],
            """label must be one of the run's 12 classes or "all", got 'dasiy'; perhaps you meant daisy""",
        ),
        (["--guidance", "2"], "guidance needs a label"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, said, home, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert refused("sample", home / "run", *words).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_unlabelled_images_needs_a_label(tmp_path, monkeypatch, command, refused):
    monkeypatch.chdir(tmp_path)
    recipe = tiny.recipe(data__labels=True, data__unlabelled=0, images=8)
    run = tiny.train(recipe, tmp_path / "run")
    assert "samples need a label" in refused("sample", run)
    assert "data.unlabelled" in refused("sample", run, "--label", "rose", "--guidance", "2")
    assert "an interpolation evaluates the network without" in refused("interpolate", run, "--seeds", "0,1")
    command("sample", run, "-n", 1, "--steps", 1, "--label", "rose")
