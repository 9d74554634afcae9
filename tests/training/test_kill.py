"""P1: a run killed at any instant and resumed ends as the undisturbed one (see tests/kill.py)."""

import kill
import pytest

OPTIONS = ["blossoms:200", "--recipe", "smoke", "--threads", "1"]


def test_a_run_killed_twice_ends_with_the_same_bits(tmp_path):
    # Every step is a save here, so that a kill meets one sooner or later.
    options = [
        *OPTIONS,
        "--images",
        "1920",
        "--report.checkpoint",
        "0",
        "--precision",
        "fp32",
        "--no-compile",
    ]
    report = kill.torture(tmp_path, options, kills=2, saving=1)
    assert report.different == []
    assert report.saving >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    options = [*OPTIONS, "--images", "16000", "--report.checkpoint", "0.3"]
    report = kill.torture(tmp_path, options, kills=20, saving=5)
    assert report.different == []
    assert report.saving >= 5
    assert report.kills == 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_run_in_bf16_killed_three_times_ends_with_the_same_bits(tmp_path):
    options = [*OPTIONS, "--images", "6400", "--report.checkpoint", "0.3"]
    report = kill.torture(tmp_path, [*options, "--precision", "bf16", "--compile"], kills=3, saving=1)
    assert report.different == []
    assert report.kills == 3
