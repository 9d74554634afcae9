"""`ddim ema`: its tables, what it stores, and its mistakes."""

import json
import shutil

import pytest

import tiny
from ddim.files import lock_folder
from ddim.training import resume


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 20 updates with four snapshots."""
    recipe = tiny.recipe(images=160, report__snapshots=4)
    return tiny.train_with_snapshots(recipe, tmp_path_factory.mktemp("trained") / "run", first=4)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_alone_lists_its_widths(run, command):
    lines = command("ema", run).out.splitlines()
    assert lines[0].startswith(f"{run}: snapshots of steps 6, 8, 12, 16, ")
    assert lines[1].split() == ["width", "reconstruction", "error", "gamma"]
    assert [line.split() for line in lines[2:] if line.split()[0] in ("0.05", "0.1")] == [
        ["0.05", "0.00%", "16.97"],
        ["0.1", "0.00%", "6.94"],
    ]
    assert lines[-1] == f"`ddim ema {run} --pick` chooses a width"
    found = json.loads(command("ema", run, "--json").out)
    assert found["snapshots"] == [6, 8, 12, 16]
    assert len(found["rows"]) == len(lines) - 3


def test_a_width_is_stored_and_sampled(run, here, command):
    said = command("ema", run, "--width", "0.08").out
    assert f"{run}/averages/width-0.08\n" in said
    assert f"ddim sample {run} --weights width-0.08" in said
    out = command("sample", run, "-n", 2, "--steps", 2, "--weights", "width-0.08", "--quiet").out.strip()
    assert json.loads((here / out / "record.json").read_text())["weights"] == "width-0.08"
    assert "--weights width-0.08" in command("ema", run).out
    # If the run is trained longer, the average no longer belongs to its newest checkpoint.
    resume(run, images=240, progress=False)
    said = command("ema", run).out
    assert "stored for step 20: width-0.08, which belongs to another checkpoint" in said
    assert "--weights width-0.08" not in said
    assert "width-0.08" in command("ema", run, "--width", "0.08", "--quiet").out


def test_picking_shows_a_table_and_keeps_the_best(run, command):
    said = command("ema", run, "--pick").out.splitlines()
    assert said[0].split()[:2] == ["average", "width"]
    assert said[1].startswith("default")
    assert sum(" * " in line for line in said) == 1
    assert any(line.endswith(f": {run}/averages/picked") for line in said)
    assert said[-1] == f"to use it: ddim sample {run} --weights picked"
    found = json.loads(command("ema", run, "--pick", "--json").out)
    values = [row["validation_error"] for row in found["choice"]]
    assert min(values) <= values[0]
    assert found["width"] == next(r["width"] for r in found["choice"] if r["validation_error"] == min(values))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pick", "--width", "0.1"], "give --width or --pick, not both"),
        (["--width", "0.5"], "width must be above 0 and at most 0.289"),
        (["--by", "kid"], "--by is an option of --pick: give both"),
    ],
)
def test_mistakes_are_explained(words, said, run, refused):
    assert said in refused("ema", run, *words)


@pytest.mark.parametrize("words", [["--pick"]], ids=" ".join)
def test_a_run_that_is_still_training_is_refused(words, run, refused):
    with lock_folder(run):
        assert "is still training" in refused("ema", run, *words)
