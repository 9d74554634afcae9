"""Progress on a terminal and elsewhere."""

import re

import pytest

import tiny
from ddim.cli import progress as console
from ddim.recipe.codec import write_recipe
from terminal import run_in_terminal

WORK = """
import sys, time
from ddim.cli.progress import ProgressDisplay
with ProgressDisplay() as progress:
    for k in range(1, 9):
        progress("samples", k / 2, 4)
        if k == 3:
            sys.stderr.write("a note\\n")
        time.sleep(0.1)
print("the result")
"""


def test_work_shows_a_bar_on_a_terminal_and_leaves_only_its_notes_and_its_result(tmp_path):
    code, said = run_in_terminal(["-c", WORK], tmp_path)
    assert code == 0
    assert re.search(r"samples .*━.* 3 of 4, 0:01 left", said)
    # After the last "erase line" there is nothing but the result.
    assert said.rsplit("\x1b[2K", 1)[1].strip() == "the result"
    assert "a note\r\n" in said


def test_without_a_terminal_a_line_every_quarter_of_a_minute_tells_the_time_left(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.ProgressDisplay() as progress:
        for second in range(0, 41, 4):
            now = float(second)
            progress("samples", second / 4, 100)
        now = 44.0
        progress("features", 1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "samples: 4 of 100, 6:24 left",
        "samples: 8 of 100, 6:08 left",
    ]


@pytest.mark.slow
def test_samples_grow_in_the_terminal_during_training(tmp_path):
    (tmp_path / "tiny.yaml").write_text(write_recipe(tiny.recipe()))
    fast = ["--threads", "1", "--precision", "fp32", "--no-compile"]
    words = ["-m", "ddim", "train", "--recipe", "tiny.yaml", "--out", "run", *fast]
    code, said = run_in_terminal(words, tmp_path, columns=140)
    assert code == 0
    # A line is what was written after the bar in it was erased.
    lines = [line.rsplit("\x1b[2K", 1)[-1] for line in said.split("\r\n")]
    plain = "\n".join(re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in lines)
    previews = re.findall(r"after (\d+) images, step \d+: validation error[^\n]*\n((?:▀+\n)+)", plain)
    assert [seen for seen, _ in previews] == ["40", "80"]
    # Two samples of 24 x 24 pixels and a gap.
    for _, preview in previews:
        assert [len(line) for line in preview.splitlines()] == [49] * 12
    assert said.rstrip().endswith("run")
