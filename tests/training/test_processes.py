"""A training in several processes of torchrun is that of one process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ddim.cli import main
from ddim.files import LOCK
from ddim.recipe.codec import write_recipe
from in_processes import CASES, launch, main as train_cases

SUPPORT = Path(__file__).parents[1] / "support"
SOME = ["luz", "ddpm", "edm", "accumulated", "dropout", "labels", "augmented", "loss-aware", "averages"]
SOME += ["clusters", "recomputed", "recomputed dropout", "consistency", "muon"]


def launch_cases(folder, processes, updates, cases):
    done = launch(processes, SUPPORT / "in_processes.py", folder, updates, *cases)
    assert done.returncode == 0, done.stderr
    return folder


def check_cases(one, several, cases):
    for case in cases:
        alone, shared = (json.loads((folder / f"{case}.json").read_text()) for folder in (one, several))
        assert shared["equal"], case  # all processes end with the same bits
        assert shared["drawn"] == alone["drawn"], case
        assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-5), case
        before, after = (load_file(folder / f"{case}.safetensors") for folder in (one, several))
        assert before.keys() == after.keys()
        for group in {name.rpartition("/")[0] for name in before if name.startswith(("model/", "ema/"))}:
            names = [name for name in before if name.startswith(f"{group}/")]
            mine, other = (torch.cat([t[n].double().flatten() for n in names]) for t in (before, after))
            assert (mine - other).norm() < 1e-5 * mine.norm(), (case, group)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_draw_what_one_draws_and_learn_what_one_learns(tmp_path):
    """Noise, times, flips and labels are the same bits; losses and weights are equal up to rounding."""
    train_cases(tmp_path / "one", 6, *SOME)
    check_cases(tmp_path / "one", launch_cases(tmp_path / "two", 2, 6, SOME), SOME)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_trains_samples_and_goes_on_with_another_number_of_processes(tmp_path):
    run, recipe = tmp_path / "run", tmp_path / "tiny.yaml"
    recipe.write_text(write_recipe(tiny.recipe("batch norm", report__log=1)))
    words = ["train", "--recipe", recipe, "--no-compile", "--out", run, "--images"]
    done = launch(2, "-m", "ddim", *words, "40")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}\n"
    assert done.stderr.count("validation images of") == 1
    sample, files = ["sample", run, "-n", "40", "--steps", "2", "--film", "--out"], []
    assert launch(2, "-m", "ddim", *sample, tmp_path / "two").returncode == 0
    assert main([*map(str, sample), str(tmp_path / "one")]) == 0
    for out in (tmp_path / "one", tmp_path / "two"):
        paths = [path for path in out.iterdir() if path.name not in ("record.json", LOCK)]
        files.append({path.name: path.read_bytes() for path in paths})
    assert len(files[0]) == 42
    assert files[0] == files[1]
    # The rest runs in the process of this test.
    assert main([*map(str, words), "80", "--resume"]) == 0
    assert [line["step"] for line in tiny.metrics(run) if "loss" in line] == [*range(1, 11)]


STOPPED = """
import os, sys
os.environ["DDIM_CACHE"] = f"{sys.argv[1]}-{os.environ['RANK']}"
sys.path.insert(0, sys.argv[2])
import ddim, tiny, torch

class Stop(ddim.Callback):
    def on_start(self, training, folder):
        training.stop()

images = torch.from_numpy(tiny.images().pixels).permute(0, 3, 1, 2)
options = {"out": sys.argv[1], "machine": tiny.MACHINE, "progress": False}
run = ddim.train(images, tiny.BASE, callbacks=[Stop()], **options)
ddim.resume(run, data=images, progress=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_callback_stops_all_processes_and_all_get_the_images_again(tmp_path):
    """Each process has a cache of its own, as on another machine."""
    (tmp_path / "script.py").write_text(STOPPED)
    done = launch(2, tmp_path / "script.py", tmp_path / "run", SUPPORT)
    assert done.returncode == 0, done.stderr
    images = torch.from_numpy(tiny.images().pixels).permute(0, 3, 1, 2)
    alone, shared = (
        [line["loss"] for line in tiny.metrics(folder) if "loss" in line]
        for folder in (tiny.train(tiny.BASE, tmp_path / "one", images), tmp_path / "run")
    )
    assert shared == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("processes", "compiled"), [(4, False), (2, True)])
def test_every_recipe_learns_the_same_in_several_processes(processes, compiled, tmp_path):
    """In more than two epochs. Compiled, it is a network of a few kernels: recipes would take minutes.

    The compiled processes recompute activations, so they also show that both passes have the same masks.
    """
    cases = ["compiled"] if compiled else [name for name in CASES if name not in (*SOME, "compiled")]
    one = launch_cases(tmp_path / "one", 1, 10, cases)
    check_cases(one, launch_cases(tmp_path / "several", processes, 10, cases), cases)
