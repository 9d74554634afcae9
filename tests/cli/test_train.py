"""`ddim train`, `distill` and `recipe`: options, resuming, progress, a user's own components."""

import re
import shutil
import signal
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from ddim.data.arrays import GIVEN
from ddim.recipe import user_parts
from ddim.recipe.codec import dump, override, read_recipe, walk_slots, write_recipe
from ddim.recipe.named import RECIPES, find_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs import names
from ddim.sampling.pipeline import load

FAST = ["--threads", "1", "--precision", "fp32", "--no-compile"]


@pytest.fixture
def here(here):
    """A working folder with a recipe that trains for a second."""
    (here / "tiny.yaml").write_text(write_recipe(tiny.recipe()))
    return here


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with a guide, which no test changes."""
    return tiny.train(tiny.recipe(report__guide=0.3), tmp_path_factory.mktemp("finished") / "run")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["fast", "edm-ve", "dit"])
def test_a_recipe_is_explained_by_options_that_change_nothing(name, command):
    listed = [line.split() for line in command("recipe", name).out.splitlines() if line.startswith("  --")]
    recipe = find_recipe(name)
    assert [words[0] for words in listed] == [f"--{path}" for path, *_ in walk_slots(recipe)]
    shown = {words[0].removeprefix("--"): words[1] for words in listed}
    assert override(Recipe(), shown) == override(recipe, shown) == recipe


def test_the_recipes_the_values_of_a_field_and_one_field_are_explained(command, refused):
    assert [line.split()[0] for line in command("recipe").out.splitlines()] == [*RECIPES]
    assert "--sampler ddim: DDIM (Song" in command("recipe", "sampler").out
    assert "--optim.lr 0.1 " in command("recipe", "optim.lr", "--optim.lr", "0.1").out
    assert "perhaps you meant optim.lr" in refused("recipe", "optim.rl")


def test_a_run_shows_its_progress_and_the_next_commands(here, command):
    said = command("train", "--recipe", "tiny.yaml", "--data.labels", "yes", *FAST)
    folder, lines = Path(said.out.strip()), said.err.splitlines()
    assert lines[-4] == f"samples still noisy? train longer: `ddim train --resume --out {folder} --more 20`"
    assert [line[6:].partition("   ")[0] for line in lines[-3:]] == [
        f"ddim sample {folder} --label all",
        f"ddim evaluate {folder} --part all --label all",
        "ddim serve runs",
    ]
    images = "32 training and 8 validation images of 32x32, recipe tiny"
    assert f"run {folder}: {images}, cpu, fp32, 1 thread\n" in said.err
    validation = r"after 40 images, step 5: validation error 0\.\d{3}, lower is better; samples "
    assert re.search(validation, said.err)
    assert re.search(r"80 images seen in 0:\d\d", said.err)
    assert names.find_checkpoint(folder).name == "step-000000010"


def test_options_and_fields_reach_the_recipe(here, finished, command):
    words = ["--recipe", "tiny.yaml", "--images", "8", "--size", "32x40", "--seed", "3", "--optim.lr=3e-4"]
    command("train", "blossoms:24", *words, "--schedule", "linear", "--out", "run", *FAST)
    made = read_recipe(here / "run" / "recipe.yaml")
    assert (made.images, made.data.size, made.seed, made.optim.lr) == (8, (32, 40), 3, 3e-4)
    assert (made.data.source, dump(made)["schedule"]["kind"]) == ("blossoms:24", "linear")
    # A run from another run takes its recipe.
    command("train", "--from", finished, "--images", "8", "--out", "child", *FAST)
    assert read_recipe(here / "child" / "recipe.yaml") == replace(load(finished).recipe, images=8)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optim.rl", "3"], "optim.rl is not a field of a recipe; perhaps you meant optim.lr"),
        (["--from", "x", "--resume"], "--resume continues a run and --from starts a new run"),
        (["--resume"], "no run fits this command: name one with --out (there is none), or give DATA"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, sentence, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert refused("train", *words).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


# Resuming


def test_a_finished_run_is_only_changed_on_request(here, finished, command, refused):
    shutil.copytree(finished, here / "run")
    before, words = contents(here / "run"), ["train", "--resume", "--out", "run"]
    said = command(*words, "blossoms:40", "--images", "80").err.splitlines()
    assert said[:2] == [
        "run run is finished: nothing to resume",
        "next: ddim sample run    generates new images",
    ]
    assert "does not hold the images" in refused(*words, "blossoms:41")
    assert "another recipe" in refused(*words, "--optim.lr", "1")
    assert "not a new or empty folder" in refused("train", "--recipe", "tiny.yaml", "--out", "run")
    assert contents(here / "run") == before
    command(*words, "--images", "120")
    command(*words, "--more", "0.001")
    assert names.find_checkpoint(here / "run").name > "step-000000015"


def test_without_a_folder_the_newest_run_with_the_same_options_is_resumed(here, command):
    for k, seed in enumerate((1, 2)):
        tiny.train_until_crash(tiny.recipe(seed=seed), here / "runs" / f"r{k}", tiny.At(6, tiny.crash))
    shutil.copytree(here / "runs" / "r0", here / "runs" / "r2")
    (here / "runs" / "broken").mkdir()
    (here / "runs" / "broken" / "run.json").write_text("{")
    words = ["train", "blossoms:40", "--recipe", "tiny.yaml", "--resume", *FAST]
    for seed, folder in ((2, "r1"), (1, "r2")):
        assert f"run runs/{folder}, continued at 40 images: " in command(*words, "--seed", seed).err
    assert "no run fits this command: starting a new one" in command(*words, "--seed", 3, "--out", "new").err


def test_a_student_is_distilled_resumed_and_sampled(here, finished, command):
    guidance = "--guidance 2 --guide-with @guide --guidance-interval -2,"
    said = command("distill", finished, "--images 16 --optim.warmup 0 --out student", guidance, *FAST)
    assert (said.out, "recipe tiny-distilled" in said.err) == ("student\n", True)
    recipe = load("student").recipe
    assert (recipe.images, recipe.optim.warmup, recipe.steps) == (16, 0, 2)
    loss = recipe.objective
    assert (loss.guidance, loss.interval, loss.guide) == (2.0, (-2.0, None), "@guide")
    assert "is finished" in command("train", "--resume", "--out", "student").err
    assert "2 network evaluations each" in command("sample", "student", "-n", "2").out


# A user's own components

MINE = """
    import signal
    from dataclasses import dataclass
    import torch
    import ddim
    from neighbour import width

    images = torch.arange(24).view(24, 1, 1, 1).expand(24, 3, 16, 16).byte()

    @dataclass(frozen=True)
    class Steep(ddim.Schedule):
        start: float = 8.0

        def __call__(self, t):
            log_snr = self.start * (1 - 2 * torch.as_tensor(t, dtype=torch.float64))
            return ddim.Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())

    class Net(torch.nn.Conv2d):
        def __init__(self):
            super().__init__(3, 3, width)

        def forward(self, x, noise_level):
            return super().forward(x)

    class Stop(ddim.Callback):
        def on_step(self, training, values):
            if training.step == 2:
                signal.raise_signal(signal.SIGTERM)
"""
TRAIN = "train mine.py:images --net mine.py:Net --schedule mine.py:Steep --schedule.start 6 --out run"
SMALL = "--images 80 --optim.batch 8 --report.grid 2 --steps 2"


@pytest.fixture
def elsewhere(here, monkeypatch):
    """A folder with the file mine.py, and the function that forgets it, as a new process does."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    (here / "mine.py").write_text(textwrap.dedent(MINE))
    (here / "neighbour.py").write_text("width = 1\n")

    def forget():
        monkeypatch.setattr(user_parts, "_GIVEN", {})
        GIVEN.clear()

    forget()
    yield forget
    GIVEN.clear()


def test_a_run_of_own_parts_is_trained_sampled_and_resumed_when_they_are_named(elsewhere, command, refused):
    stopped = command(TRAIN, SMALL, *FAST, "--callback", "mine.py:Stop", code=128 + signal.SIGTERM).err
    assert "continue with `ddim train --resume --out run --own mine.py`" in stopped
    state = load("run")
    assert (state.recipe.schedule.start, state.checkpoint.state.step) == (6.0, 2)
    elsewhere()
    command("sample", "run", "-n", "2", "--own", "mine.py")
    elsewhere()
    said = command("train", "mine.py:images", "--resume", "--out", "run", "--own", "mine.py").err
    assert load("run").checkpoint.state.step == 10
    assert "ddim evaluate run --part all --own mine.py " in said
    (words,) = re.findall("next: ddim (.*?)   ", said)
    elsewhere()
    command(*words.split(), "-n", "1")


def test_own_parts_are_never_named_by_a_recipe(elsewhere, refused):
    Path("code.yaml").write_text("schedule: mine.py:Steep\n")
    assert "schedule must be one of" in refused("train", "blossoms:8 --recipe code.yaml")
    assert "mine.py has no imags; perhaps you meant images" in refused("train", "mine.py:imags")
