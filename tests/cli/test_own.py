"""Parts of the user's own, named on the command line."""

import re
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from ddim.cli import main
from ddim.data.arrays import GIVEN
from ddim.recipe import user_parts as own_parts
from ddim.sampling.pipeline import load

MINE = """
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
                training.stop("two are enough")
"""
STOP = """
    import signal
    import ddim

    class Stop(ddim.Callback):
        def on_step(self, training, values):
            if training.step == 2:
                signal.raise_signal(signal.SIGTERM)
"""
TRAIN = (
    "train mine.py:images --net mine.py:Net --schedule mine.py:Steep --schedule.start 6 "
    "--callback mine.py:Stop --images 80 --optim.batch 8 --out run --device cpu --precision fp32 "
    "--no-compile --threads 1 --report.grid 2 --steps 2"
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with the file mine.py, and the function that forgets it, as a new process does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    (tmp_path / "neighbour.py").write_text("width = 1\n")

    def forget():
        monkeypatch.setattr(own_parts, "_GIVEN", {})
        GIVEN.clear()

    forget()
    yield forget
    GIVEN.clear()


def test_a_run_of_own_parts_is_trained_sampled_and_resumed_when_they_are_named(
    elsewhere, capsys, monkeypatch
):
    assert main(TRAIN.split()) == 0
    found = load("run")
    assert (found.recipe.schedule.start, found.checkpoint.state.step) == (6.0, 2)
    elsewhere()
    assert main(["sample", "run", "-n", "2", "--steps", "2"]) == 2
    assert "net is Net, which was written by the user of the run" in capsys.readouterr().err
    assert main(["sample", "run", "-n", "2", "--steps", "2", "--own", "mine.py"]) == 0
    elsewhere()
    monkeypatch.setenv("DDIM_CACHE", "another")  # Else the decoded images there would do.
    assert main(["train", "--resume", "--out", "run", "--own=mine.py"]) == 2
    assert "given:Tensor:" in capsys.readouterr().err
    assert main(["train", "mine.py:images", "--resume", "--out", "run", "--own", "mine.py"]) == 0
    assert load("run").checkpoint.state.step == 10


def test_printed_commands_name_the_files_of_own_parts(elsewhere, capsys):
    Path("stop.py").write_text(textwrap.dedent(STOP))
    words = TRAIN.replace("--callback mine.py:Stop ", "").split()
    assert main([*words, "--callback", "stop.py:Stop"]) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "continue with `ddim train --resume --out run --own mine.py`" in said
    elsewhere()
    assert main([*words, "--out", "other"]) == 0
    said = capsys.readouterr().err
    assert "train longer: `ddim train --resume --out other --more 20 --own mine.py`" in said
    assert "ddim evaluate other --part all --own mine.py " in said
    (command,) = re.findall("next: ddim (.*?)   ", said)
    elsewhere()
    assert main([*command.split(), "-n", "1"]) == 0


def test_own_images_resume_their_run_whatever_its_size_and_labels_are(elsewhere, capsys):
    """They decide the size and labels of a new run, and not of one that was begun with other options."""
    words = ["train", "mine.py:images", "--recipe", "smoke", "--net.widths", "8,16", "--net.down", "0,1"]
    words += ["--net.up", "1,1", "--net.attention", "no,yes", "--images", "16", "--no-compile"]
    assert main(words) == 0
    assert load("runs/Tensor-smoke-1").recipe.data.size == (16, 16)
    assert main([*words, "--resume"]) == 0
    assert main([*words, "--size", "32", "--out", "large"]) == 0
    assert main(["train", "mine.py:images", "--resume", "--out", "large"]) == 0
    assert main([*words, "--size", "24", "--resume", "--out", "large"]) == 2
    assert "another recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train mine.py:imags", "mine.py has no imags; perhaps you meant images"),
        ("train x --schedule mine.py:Stop", "Stop must return a torch.nn.Module"),
        ("train x --schedule mine.py:Steep --schedule.stop 1", "schedule.stop is not a field of a recipe"),
        ("train x --net broken.py:Net", "broken.py cannot be run: ZeroDivisionError"),
    ],
)
def test_invalid_components_are_refused_in_one_sentence(words, message, elsewhere, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_file_never_names_a_file_of_code(elsewhere, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("schedule: mine.py:Steep\n")
    assert main(["train", "blossoms:8", "--recipe", "recipe.yaml"]) == 2
    assert "schedule must be one of" in capsys.readouterr().err
