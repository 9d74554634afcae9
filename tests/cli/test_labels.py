"""Classes on the command line: train with them, resume, sample, evaluate, measure bits."""

import json

import numpy as np
import pytest
from PIL import Image

import tiny
from ddim.cli import main
from ddim.data import open_images
from ddim.diffusion import likelihood
from ddim.evaluation import compare, evaluate
from ddim.evaluation import record as scores
from ddim.plots.pictures import enlarge, make_sheet
from ddim.recipe.codec import write_recipe
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import Guidance, SamplingSetup
from stubs import stub

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


def test_a_run_from_weights_of_other_classes_must_train_without_labels(home, tmp_path, command, refused):
    for kind, n in {"red": 0, "blue": 1}.items():
        tiny.write_grays(tmp_path / "two" / kind, range(n, 160, 20))
    words = ["train", tmp_path / "two", "--from", home / "run", "--images", 8, *FAST, "--out"]
    command(*words, tmp_path / "without", "--data.labels", "no")
    assert "net.classes must be 2 for these images" in refused(*words, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_sheet_of_a_run_cycles_through_its_classes(home):
    run = load(home / "run")
    wanted = make_sheet(generate(SamplingSetup(run, 2, "all"), range(2))[0])
    assert not np.array_equal(wanted, make_sheet(generate(SamplingSetup(run, 2), range(2))[0]))
    with Image.open(home / "run" / "samples" / "step-000000010.png") as shown:
        assert np.array_equal(np.asarray(shown), enlarge(wanted))


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


def test_an_evaluation_uses_the_samples_of_the_label_and_records_it(home, monkeypatch, command):
    monkeypatch.setattr(evaluate, "load_extractor", lambda *_: stub())
    monkeypatch.setattr(evaluate, "LEAST", 2)
    words = ["evaluate", home / "run", "-n", 12, "--steps", 2, "--label"]
    command(*words, "all", "--guidance", "2")
    command(*words, "daisy")
    made = [scores.read_evaluation(home / "run" / "evaluations" / str(k)) for k in (1, 2)]
    sampling = [evaluation.record["sampling"] for evaluation in made]
    assert [(s["label"], s["class"]) for s in sampling] == [("all", None), (3, "daisy")]
    assert [s["guidance"] for s in sampling] == [2.0, 1.0]
    assert [s["nfe"] for s in sampling] == [4, 2]
    other = compare.list_differing_choices(made)
    assert (other["label"], other["guidance"]) == (["all", 3], [2.0, 1.0])
    wanted = make_sheet(generate(SamplingSetup(load(home / "run"), 2, "all", Guidance(2.0)), range(12))[0])
    with Image.open(made[0].folder / scores.GRID) as shown:
        assert np.array_equal(np.asarray(shown), enlarge(wanted))


def test_likelihood_conditions_on_the_class_of_each_image(home, monkeypatch, command):
    told, sound = [], likelihood.bound_bits

    def spy(denoise, *rest):
        told.extend(denoise.inner.inner.label.tolist())
        return sound(denoise, *rest)

    monkeypatch.setattr(likelihood, "bound_bits", spy)
    run = home / "run"
    command("likelihood", run, "-n", 4, "--steps", 3)
    record = json.loads((run / "likelihoods" / "1" / "record.json").read_text())
    wanted = open_images("blossoms:40", (32, 32)).labels[record["reference"]["images"]].tolist()
    assert told == record["reference"]["labels"] == wanted
    assert len(set(wanted)) > 1
