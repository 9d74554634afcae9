"""benchmarks/gpu.py runs from its first part to its last, on small networks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_measurement_of_the_gpu_benchmark_runs_and_is_written_down(tmp_path):
    words = [sys.executable, SCRIPT, "--tiny", "--out", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["note"] for row in rows] == [""] * 31
    assert all(row["images_per_second"] > 0 for row in rows)
