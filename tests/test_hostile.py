"""Hostile files meet the command: one sentence, exit code 2, and no code runs."""

import os
import pickle

import pytest

from canary import watched
from ddim.cli import main
from hostile import CASES, PARTLY, Call


def test_code_that_runs_is_heard():
    with pytest.raises(AssertionError, match="find_class"), watched():
        pickle.loads(pickle.dumps(Call(os.getpid)))


# A damaged checkpoint is set aside with a warning.
@pytest.mark.filterwarnings("ignore:.*it is skipped")
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_in_one_sentence_and_runs_nothing(name, here, monkeypatch, capsys):
    words = CASES[name](here)
    before = {path.name for path in here.iterdir()}
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("DDIM_CACHE", str(here / "cache"))
    with watched():
        code = main(words)
    said = capsys.readouterr()
    assert code == (0 if name in PARTLY else 2), said.err
    lines = [line for line in said.err.splitlines() if line.startswith("ddim: ") and "is skipped" not in line]
    assert len(lines) == (name not in PARTLY)
    assert all(line.isprintable() and len(line) < 1000 for line in (said.out + said.err).splitlines())
    assert "Error:" not in said.err
    assert {path.name for path in here.iterdir()} - before <= {"cache", "data-grid.png", "run"}
    assert not (here.parent / "canary.png").exists()
