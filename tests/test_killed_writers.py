"""Functions that write files meet a kill, an error or a power cut: each file left is old or new."""

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


def test_small_documents_are_old_or_new(tmp_path):
    places = count_places(tmp_path, "--writers", *QUICK, "--faults", "kill")
    assert places["guidance"]["kill"] >= 4
    assert places["sweep"]["kill"] >= 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_file_is_old_or_new_and_a_record_stands_beside_all_its_files(tmp_path):
    """With a third of the functions; the command alone tries all."""
    chosen = ["samples", "edit", "cache", "average"]
    places = count_places(tmp_path, "--every", "25", "--writers", *chosen)
    tried = [number for found in places.values() for number in found.values()]
    assert min(tried) >= 1
    assert sum(tried) >= 20
