"""P1: a run killed at any instant and resumed ends as the undisturbed one (see tests/support/kill.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "kill.py"
RUN = ["blossoms:40", "--recipe", "smoke", "--threads", "1"]
# A network of one stage, which is compiled in a few kernels.
SMALL = ["--net.widths=8", "--net.down=0", "--net.up=0", "--net.attention=no", "--net.embedding=8"]


def torture(folder, kills, saving, longest, *options):
    words = [str(folder), "--kills", str(kills), "--saving", str(saving), "--longest"]
    words += [str(longest), "--", *RUN, *options]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)["run"]
    assert report["different"] == []
    assert report["kills"] == kills
    assert report["saving"] >= saving
    assert done.returncode == 0


def test_a_run_killed_in_a_save_ends_with_the_same_bits(tmp_path):
    options = ["--images", "320", "--report.checkpoint", "0.1", "--precision", "fp32", "--no-compile"]
    torture(tmp_path / "runs", 1, 1, 0, *options, *SMALL)


@pytest.mark.slow
def test_a_run_killed_eight_times_ends_with_the_same_bits(tmp_path):
    options = ["--images", "3200", "--report.checkpoint", "0.3", "--report.snapshots", "4"]
    torture(tmp_path / "runs", 8, 3, 0.4, *options)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_run_killed_twice_ends_with_the_same_bits(tmp_path):
    """In bf16 on processors that compute in it; elsewhere bf16 is emulated and takes minutes."""
    options = ["--images", "3200", "--report.checkpoint", "0.3", "--compile", *SMALL]
    torture(tmp_path / "runs", 2, 1, 1, *options)
