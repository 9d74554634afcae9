"""`ddim plot`: each kind writes its figure and prints where it is."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from cases import mark_slow
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import SCHEDULES
from ddim.evaluation import run_figures
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import dump
from ddim.recipe.named import smoke
from ddim.recipe.recipe import build_model
from ddim.runs import checkpoint
from ddim.runs.state import RunState


@pytest.fixture
def run(here):
    """A run with two lines of log and one checkpoint of untrained weights."""
    folder = here / "runs" / "blossoms-smoke-1"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(smoke(), 3)
    runtime = Runtime(micro_batch=1)
    state = RunState(1, Pixels.fixed(0.5, 0.25), 3, (), runtime).to_json()
    tensors = {"model": model.state_dict(), "ema/default": model.state_dict()}
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint.save(folder / "checkpoints", 1, tensors, {"state": state, "recipe": dump(smoke())})
    log = [{"step": k, "images": 64 * k, "time": 0.0, "loss": 1 / k} for k in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return folder


@pytest.mark.parametrize(
    "words",
    mark_slow(
        [
            ["schedule"],
            ["schedule", "linear", "--schedule.clip", "powers"],
            ["embedding", "--width", "16", "--max-frequency", "100"],
            ["distance"],
            ["forward", "--size", "32x48", "--seed", "2"],
        ],
        lambda words: words == ["schedule"],
    ),
)
def test_a_figure_is_written_to_the_current_folder_and_its_path_is_printed(here, words, command):
    assert command("plot", *words).out == f"{words[0]}.png\n"
    with Image.open(here / f"{words[0]}.png") as image:
        pixels = np.asarray(image)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1
    # The second call leaves the figure alone and draws the same again.
    assert command("plot", *words).out == f"{words[0]}-2.png\n"
    before = (here / f"{words[0]}.png").read_bytes()
    assert (here / f"{words[0]}-2.png").read_bytes() == before


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_has_the_format_of_its_name(here, ending, start, command):
    command("plot", "schedule", "--out", f"a.{ending}")
    assert (here / f"a.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize("kind", ["reverse", "losses"])
def test_figures_of_a_run_are_written(run, here, kind, command):
    steps = ["--steps", "3"] if kind == "reverse" else []
    assert command("plot", kind, run, *steps, "--out", "shown.png").out == "shown.png\n"
    with Image.open(here / "shown.png") as shown:
        assert shown.mode == "RGB"


def test_runs_are_named_by_the_shortest_distinct_ends_of_their_paths(run, here, monkeypatch, command):
    named = []
    draw = run_figures.plot_logs
    monkeypatch.setattr(run_figures, "plot_logs", lambda runs: named.append(list(runs)) or draw(runs))
    other = here / "elsewhere" / run.name
    other.mkdir(parents=True)
    (other / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    command("plot", "losses", run)
    command("plot", "losses", run, other)
    command("plot", "losses", run, run)
    assert named == [[run.name], [f"runs/{run.name}", f"elsewhere/{run.name}"], [run.name]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["schedule", "--out", "nowhere/a.png"], "folder that does not exist"),
        (["schedule", "--out", "mine.png"], "exists: give another name"),
        (["schedule", "cosin"], "perhaps you meant cosine"),
        (["schedule", "--sampler", "ddim"], "--sampler is not an option of ddim plot schedule"),
        (["embedding", "--width", "7"], "width must be even"),
        (["reverse", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(here, words, said, refused):
    Image.new("RGB", (2, 2)).save(here / "mine.png")
    before = (here / "mine.png").read_bytes()
    assert said in refused("plot", *words)
    assert [path.name for path in here.iterdir()] == ["mine.png"]
    assert (here / "mine.png").read_bytes() == before


@pytest.mark.parametrize("words", [["plot"], ["plot", "shedule"]])
def test_unknown_words_exit_with_code_2(here, words, command):
    assert "ddim plot" in command(*words, code=2).err
    assert not list(here.iterdir())


def test_help_names_every_schedule_and_its_fields(command):
    lines = command("plot", "schedule", "--help").out.partition("--schedule.FIELD VALUE")[2]
    for name, schedule in SCHEDULES.items():
        assert f"\n  {name} " in lines
        own = {field.name for field in dataclasses.fields(schedule)}
        assert all(re.search(rf"\b{field}\b", lines) for field in own)
