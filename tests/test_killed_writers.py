"""Functions that write files are stopped before a change of a folder: each file left is old or new."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "support/killed_writers.py"
QUICK = ["guidance", "sweep"]


def count_places(folder, *options):
    """Run the script, which fails at the first fault; returns how many places it tried."""
    command = [sys.executable, SCRIPT, folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "fault", [[], pytest.param(["--fault"], marks=pytest.mark.slow)], ids=["killed", "EIO"]
)
def test_small_documents_are_old_or_new(fault, tmp_path):
    places = count_places(tmp_path, "--writers", *QUICK, *fault)
    assert places["guidance"] >= 4
    assert places["sweep"] >= 15


@pytest.mark.slow
@pytest.mark.parametrize("fault", [[], ["--fault"]], ids=["killed", "EIO"])
def test_each_file_is_old_or_new_and_a_record_stands_beside_all_its_files(fault, tmp_path):
    places = count_places(tmp_path, "--every", "9", *fault)
    assert len(places) == 12
    assert min(places.values()) >= 1
    assert sum(places.values()) >= 40
