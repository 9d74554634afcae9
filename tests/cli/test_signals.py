"""Commands that a signal stops at any moment end as they should (see tests/support/signals.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "signals.py"


def stop_commands(folder, signals, *options):
    words = [sys.executable, str(SCRIPT), str(folder), "--signals", str(signals), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    phases = json.loads(done.stdout)["phases"]
    assert {name: found["wrong"] + found["litter"] for name, found in phases.items()} == dict.fromkeys(
        phases, []
    )
    assert sum(found["right_code"] for found in phases.values()) == signals
    assert done.returncode == 0


@pytest.mark.slow
def test_four_signals_while_images_are_decoded_and_in_the_first_steps(tmp_path):
    stop_commands(tmp_path, 4, "--phases", "decode,first step")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_signal_in_two_processes_and_one_while_it_samples(tmp_path):
    """`tests/support/signals.py` without --phases has more of them.

    Each takes about 25 seconds, most of it the command undisturbed.
    """
    stop_commands(tmp_path, 2, "--phases", "two processes,sample")
