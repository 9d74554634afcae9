"""`ddim train`: options, mistakes, resuming, progress."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddim.cli.progress import Console
from ddim.data import open_images, parse_size
from ddim.data.arrays import give_images
from ddim.recipe import named as named_recipes
from ddim.recipe.codec import dump, list_fields, override, read_recipe, write_recipe
from ddim.recipe.recipe import Fixed, Recipe
from ddim.runs import checkpoint
from ddim.runs.state import Plan
from ddim.sampling.pipeline import load
from ddim.training.budget import WARM_UP
from ddim.training.progress import Pace
from ddim.training.request import change_recipe, choose_recipe

FAST = ["--threads", "1", "--precision", "fp32", "--no-compile"]


@pytest.fixture
def here(here):
    """A working folder with a recipe that trains for a second."""
    (here / "tiny.yaml").write_text(write_recipe(tiny.recipe()))
    return here


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return tiny.train(tiny.recipe(), folder)


@pytest.fixture
def train_command(command):
    """A function that runs `ddim train` and returns what it printed on standard error, in lines."""

    def run(words, code=0):
        error = command("train", *words, code=code).err
        assert "Traceback" not in error
        return error.splitlines()

    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Help


@pytest.mark.parametrize("name", named_recipes.RECIPES)
def test_help_recipe_lists_every_field_as_an_option_takes_it(name, command):
    lines = command("train", "--help-recipe", name).out.splitlines()
    listed = [line.split() for line in lines if line.startswith("  --")]
    rows = list_fields(named_recipes.find_recipe(name))
    assert [words[0] for words in listed] == [f"--{path}" for path, *_ in rows]
    # The listed values, given as options, change nothing.
    shown = {words[0].removeprefix("--"): words[1] for words in listed}
    assert override(named_recipes.find_recipe(name), shown) == named_recipes.find_recipe(name)
    assert override(Recipe(), shown) == named_recipes.find_recipe(name)


# New runs


def test_a_run_shows_its_progress_and_the_next_command(here, train_command):
    lines = train_command(["--recipe", "tiny.yaml", *FAST])
    folder = next((here / "runs").iterdir())
    advice = f"train longer: `ddim train --resume --out runs/{folder.name} --more 20`"
    assert lines[-3] == f"samples still noisy? {advice}"
    assert lines[-2] == f"next: ddim sample runs/{folder.name}    generates new images"
    assert f"ddim evaluate runs/{folder.name}" in lines[-1]
    text = "\n".join(lines)
    assert "32 training images, and 8 held out to measure the error" in text
    assert "80 images on cpu, fp32, 1 thread" in text
    assert re.search(r"after 40 images: validation error 0\.\d{3}, lower is better; samples ", text)
    assert re.search(r"80 of 80 images, [\d.]+ images/s, loss 0\.\d{4}, 0:\d\d left", text)
    assert "\x1b" not in text
    assert checkpoint.find_newest(folder / "checkpoints").name == "step-000000010"


def test_options_and_fields_reach_the_recipe(here, train_command):
    words = ["--recipe", "tiny.yaml", "--images", "8", "--size", "32x40", "--seed", "3", "--optim.lr=3e-4"]
    train_command(["blossoms:24", *words, "--schedule", "linear", "--out", "run", *FAST])
    made = read_recipe(here / "run" / "recipe.yaml")
    assert (made.images, made.data.size, made.seed, made.optim.lr) == (8, (32, 40), 3, 3e-4)
    assert made.data.source == "blossoms:24"
    assert dump(made)["schedule"]["kind"] == "linear"


@pytest.mark.parametrize(
    ("sizes", "size", "advised"),
    [
        ([(16, 24)] * 7 + [(40, 40)] * 5, "32", "16"),
        ([(16, 24)] * 6 + [(40, 40)] * 6, "32", None),
        ([(20, 300)] * 12, "32", "20"),
    ],
)
def test_enlarged_images_are_reported_with_their_own_size(here, capsys, sizes, size, advised):
    (here / "small").mkdir()
    for k, shape in enumerate(sizes):
        pixels = np.random.default_rng(k).integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "small" / f"{k}.png")
    source = open_images("small", parse_size(size), 3, cache=here / "cache")
    run = tiny.training(override(tiny.recipe(), {"data.size": size}), source)
    for step in (0, 1):
        run.step = step
        Console().on_start(run, here)
        lines = capsys.readouterr().err.splitlines()
        told = [line for line in lines if "are enlarged" in line]
        most = f"most images are smaller and are enlarged to this size; --size {advised} would train faster"
        assert told == ([most] if advised and not step else [])


def test_minutes_replace_the_images_of_a_recipe():
    changed = change_recipe(named_recipes.smoke(), {"minutes": "7"})
    assert (changed.images, changed.minutes) == (None, 7.0)


@pytest.mark.parametrize("fields", [{"data.size": "128"}, {"data.size": "128x128"}])
def test_the_network_follows_from_the_size_unless_it_is_given(fields):
    assert choose_recipe(None, None, fields) == named_recipes.fast((128, 128))
    given = choose_recipe("fast", None, {**fields, "net.widths": "8,16,32,64,128"})
    assert given.net.widths == (8, 16, 32, 64, 128)
    images = give_images(torch.zeros(2, 3, 128, 160))
    assert choose_recipe(None, images, {}).net == named_recipes.fast((128, 160)).net
    own = choose_recipe(None, images, {"data.size": "64"})
    assert (own.data.source, own.data.size) == (images.text, (64, 64))
    assert replace(own, data=named_recipes.fast().data) == named_recipes.fast()


def test_a_folder_that_is_not_empty_is_refused_and_untouched(here, finished, train_command):
    before = contents(finished)
    lines = train_command(["--recipe", "tiny.yaml", "--out", finished], 2)
    assert lines == [
        f"ddim: {finished} is not a new or empty folder; "
        "give a new or empty folder, or continue the run with resume"
    ]
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minuts", "3"], "--minuts is not an option; perhaps you meant --minutes"),
        (["--optim.rl", "3"], "optim.rl is not a field of a recipe; perhaps you meant optim.lr"),
        (["--schedule", "cosin"], "schedule must be one of cosine, linear, linear_beta, "),
        (["--minutes", "soon"], "minutes must be a number, got 'soon'"),
        (["--minutes", "0"], "minutes (--minutes) must be above 0, got 0"),
        (["--from", "x", "--resume"], "--resume continues a run and --from starts a new run"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, sentence, tmp_path, monkeypatch, train_command):
    monkeypatch.chdir(tmp_path)
    recipe = [] if {"--recipe", "--from", "--help-recipe", "--resume"} & set(words) else ["--recipe", "smoke"]
    lines = train_command([*words, *recipe], 2)
    assert len([line for line in lines if not line.startswith("reading images")]) == 1
    assert lines[-1].startswith(f"ddim: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_from_another_run_takes_its_recipe(here, finished, train_command):
    train_command(["--from", finished, "--images", "8", "--out", "child", *FAST])
    made = read_recipe(here / "child" / "recipe.yaml")
    assert made == replace(tiny.recipe(), images=8)
    words = ["blossoms:40", "--from", finished, "--recipe", "smoke", "--out", "other"]
    lines = train_command([*words, *FAST], 2)
    assert "do not fit the network of recipe" in lines[-1]
    assert not (here / "other").exists()


def test_a_named_recipe_takes_the_pixels_of_the_run_it_starts_from(here, finished, train_command):
    (here / "fixed.yaml").write_text(write_recipe(replace(tiny.recipe(), pixels=Fixed())))
    words = ["--recipe", "fixed.yaml", "--from", finished, "--images", "8", *FAST]
    train_command([*words, "--out", "child"])
    assert read_recipe(here / "child" / "recipe.yaml").pixels == tiny.recipe().pixels != Fixed()
    assert load(here / "child").pixels == load(finished).pixels
    (line,) = train_command([*words, "--pixels.std", "0.5", "--out", "other"], 2)
    assert line.startswith("ddim: pixels must be the same as in the run of --from")


@pytest.mark.slow
def test_the_learning_rate_of_the_range_test_is_used_and_drawn(here, train_command):
    lines = train_command(["--recipe", "tiny.yaml", "--find-lr", "--images", "8", "--out", "run", *FAST])
    found = float(re.search(r"learning rate (\S+);", "\n".join(lines))[1])
    assert read_recipe(here / "run" / "recipe.yaml").optim.lr == pytest.approx(found, rel=0.06)
    assert (here / "run" / "lr-finder.png").is_file()
    assert {path.name for path in here.iterdir()} == {"run", "tiny.yaml"}


# Resuming


@pytest.mark.parametrize("words", [["blossoms:40", "--recipe", "tiny.yaml"]])
def test_resuming_a_finished_run_changes_nothing(words, here, finished, train_command):
    before = contents(finished)
    lines = train_command([*words, "--resume", "--out", finished])
    assert lines[:-1] == [
        f"run {finished} is finished: nothing to resume",
        f"next: ddim sample {finished}    generates new images",
    ]
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["blossoms:41"], "does not hold the images"),
        (["--optim.lr", "1"], "another recipe"),
    ],
)
def test_options_that_contradict_the_run_are_refused(words, said, here, finished, train_command):
    before = contents(finished)
    lines = train_command([*words, "--resume", "--out", finished], 2)
    assert len(lines) == 1
    assert said in lines[0]
    assert contents(finished) == before


def test_a_finished_run_trains_longer_on_request(here, finished, train_command):
    shutil.copytree(finished, here / "run")
    words = ["--recipe", "tiny.yaml", "--resume", "--out", "run"]
    train_command([*words, "--images", "120"])
    assert train_command([*words, "--images", "80"])[0] == "run run is finished: nothing to resume"
    train_command(["--resume", "--out", "run", "--more", "0.001"])
    assert checkpoint.find_newest(here / "run" / "checkpoints").name > "step-000000015"


def unfinished(folder, seed):
    """Train a run that stops after its first event."""
    tiny.train_until_crash(tiny.recipe(seed=seed), folder, tiny.At(6, tiny.crash))


def test_without_a_folder_the_newest_run_with_the_same_options_is_resumed(here, train_command):
    for k, seed in enumerate((1, 2)):
        unfinished(here / "runs" / f"r{k}", seed)
    shutil.copytree(here / "runs" / "r0", here / "runs" / "r2")
    (here / "runs" / "broken").mkdir()
    (here / "runs" / "broken" / "run.json").write_text("{")
    words = ["blossoms:40", "--recipe", "tiny.yaml", "--resume", *FAST]
    for seed, folder in ((2, "r1"), (1, "r2")):
        lines = train_command([*words, "--seed", seed])
        assert f"run folder runs/{folder}, continuing at step 5" in lines
    steps = {
        folder.name: checkpoint.find_newest(folder / "checkpoints").name[-2:]
        for folder in (here / "runs").glob("r*")
    }
    assert steps == {"r0": "05", "r1": "10", "r2": "10"}


def test_a_run_does_not_lie_among_its_images(here, train_command, command):
    tiny.write_grays(here / "photos", range(0, 256, 8))
    before = contents(here)
    for words in (["photos", "--out", "photos/new/run"], ["."]):
        (line,) = train_command([*words, "--recipe", "smoke"], 2)
        assert "the folder of the images" in line
    assert "data-grid.png would lie in ., the folder of the images" in command("data", ".", code=2).err
    assert contents(here) == before


def test_resume_starts_a_new_run_if_there_is_none(here, finished, train_command):
    lines = train_command(["blossoms:40", "--recipe", "tiny.yaml", "--resume", "--out", "run", *FAST])
    assert "no run fits this command: starting a new one" in lines
    tiny.check_same_run(here / "run", finished)


# What is shown


def test_the_time_left_is_that_of_the_remaining_images_at_the_speed_after_the_warm_up():
    """Validations are part of the speed: two of 5 s each among 100 updates of 0.1 s."""
    run, pace, now = tiny.training(tiny.recipe(images=8000)), Pace(0.0, 8), 0.0
    for run.step in range(1, WARM_UP + 101):
        now += 60.0 if run.step == 1 else 5.1 if run.step in (20, 70) else 0.1
        pace.update(now)
        assert (pace.left(run) is None) == (run.step <= WARM_UP)
    assert pace.speed == pytest.approx(800 / 20)
    assert pace.left(run) == pytest.approx((8000 - run.seen) / 40)


def test_the_time_left_of_a_run_of_unknown_length_is_none():
    run = tiny.training()
    run.plan = Plan(None)
    pace = Pace(0.0, 8)
    for k in range(10):
        pace.update(float(k))
    assert pace.speed == pytest.approx(8.0)
    assert pace.left(run) is None


def test_run_json_and_recipe_yaml_hold_the_same_recipe(finished):
    assert json.loads((finished / "run.json").read_text())["recipe"] == dump(
        read_recipe(finished / "recipe.yaml")
    )
