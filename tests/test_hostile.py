"""Hostile files meet the command: one sentence, exit code 2, nothing runs, and little memory and time.

The quick tests call the command in this process. The slow one and the long version, `python
tests/support/hostile.py FOLDER`, fork it with limits of memory and time.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hostile  # noqa: F401  (it fills CASES)
from canary import watched
from ddim.cli import main
from hostile_cases import CASES, PARTLY

QUICK = [
    "zip_that_leads_out",
    "zip_with_a_link",
    "zip_encrypted",
    "tar_that_leads_out",
    "tar_with_links_and_devices",
    "tar_with_escapes_in_names",
    "tar_old_sparse_of_a_tebibyte",
    "folder_of_what_is_no_file",
    "pipe_as_csv",
    "pipe_as_yaml",
    "npy_of_objects",
    "npy_a_call",
    "npy_nested",
    "parquet_with_labels_that_lead_out",
    "csv_of_escapes",
    "recipe_that_calls",
    "recipe_of_5000_hex_digits",
    "recipe_of_depth_100_000",
    "run_of_a_long_table",
    "run_of_a_module",
    "run_of_a_kind_with_a_path",
    "run_with_a_pipe_as_manifest",
    "run_with_a_pickle_as_model",
    "diffusers_of_20_000_layers",
    "diffusers_with_huge_weights",
    "diffusers_with_a_pickle_harmful",
    "diffusers_with_a_nested_header",
]
SLOW = ("zip_", "tar_gnu", "tar_pax", "tar_that", "npy_", "recipe_", "diffusers_", "run_with")


def test_there_are_enough_cases_of_every_kind():
    assert len(CASES) >= 100
    kinds = {"diffusers": 20, "run": 20}
    for kind, count in kinds.items():
        assert sum(name.startswith(f"{kind}_") for name in CASES) >= count, kind


# A damaged checkpoint is set aside with a warning.
@pytest.mark.filterwarnings("ignore:.*it is skipped")
@pytest.mark.parametrize("name", QUICK)
def test_a_hostile_file_is_refused_in_one_sentence_and_runs_nothing(name, tmp_path, monkeypatch, capsys):
    words = CASES[name](tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    with watched():
        code = main(words)
    said = capsys.readouterr()
    assert code == (0 if name in PARTLY else 2), said.err
    lines = [line for line in said.err.splitlines() if line.startswith("ddim: ") and "is skipped" not in line]
    assert len(lines) == (name not in PARTLY)
    assert all(line.isprintable() and len(line) < 1000 for line in (said.out + said.err).splitlines())
    assert "Error:" not in said.err
    assert {path.name for path in tmp_path.iterdir()} - before <= {"cache", "data-grid.png"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_files_stay_within_limits_of_memory_and_time(tmp_path):
    script = Path(__file__).parent / "support" / "hostile.py"
    command = [sys.executable, str(script), str(tmp_path), *SLOW, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["faults"] == {}
    assert report["cases"] >= 60
