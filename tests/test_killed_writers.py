"""Functions that write files meet a kill, an error or a power cut: each file left is old or new."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cases import mark_slow

SCRIPT = Path(__file__).parent / "support/killed_writers.py"
QUICK = ["guidance", "sweep"]


def count_places(folder, *options):
    """Run the script, which fails at the first fault; returns how many places it tried."""
    command = [sys.executable, SCRIPT, folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


INSTEAD = {
    "a kill": [],
    "an error of a change": ["--instead", "write-error"],
    "an error of a read": ["--instead", "read-error"],
    "a power cut": ["--instead", "power-cut"],
}


@pytest.mark.parametrize("instead", mark_slow(INSTEAD, lambda case: case == "a kill"))
def test_small_documents_are_old_or_new(instead, tmp_path):
    places = count_places(tmp_path, "--writers", *QUICK, *INSTEAD[instead])
    assert places["guidance"] >= 2
    assert places["sweep"] >= 11


@pytest.mark.slow
@pytest.mark.parametrize("instead", INSTEAD)
def test_each_file_is_old_or_new_and_a_record_stands_beside_all_its_files(instead, tmp_path):
    places = count_places(tmp_path, "--every", "12", *INSTEAD[instead])
    assert len(places) == 12
    assert min(places.values()) >= 1
    assert sum(places.values()) >= 30
