"""P1: a run killed at any instant and resumed ends as the undisturbed one (see tests/support/kill.py)."""

import pytest

from programmes import run_script


def test_a_run_killed_in_a_save_ends_with_the_same_bits(tmp_path):
    run_script("kill", tmp_path, kills=1, saving=1, recipes="luz")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("recipes", "kills", "saving"), [("fast,ddpm", 10, 2), ("compiled", 2, 1)])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(recipes, kills, saving, tmp_path):
    run_script("kill", tmp_path, kills=kills, saving=saving, longest=0.4, recipes=recipes)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_whose_processes_are_killed_goes_on_by_itself_to_the_same_bits(tmp_path):
    run_script("kill_processes", tmp_path, kills=1, steps=150)
