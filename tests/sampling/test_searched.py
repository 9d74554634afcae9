"""What `ddim search` saves with a run: found again for the same samples, and lost by no other search."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from ddim.diffusion.grids import Listed
from ddim.diffusion.samplers import DDIM, DPMSolver, Sampler
from ddim.sampling.sampling_setup import Guidance, save_guidance
from ddim.sampling.searched import find_saved_grid, find_searched, name_search, save_grid

FOUND = (1.0, 0.5, 0.25)


def test_a_grid_is_found_for_its_sampler_steps_and_weights(tmp_path):
    assert find_saved_grid(tmp_path / "none", DDIM(), 3, "ema") is None
    save_grid(tmp_path, DPMSolver(3), 3, "ema", FOUND, 0.1)
    assert find_saved_grid(tmp_path, DPMSolver(3), 3, "ema") == Listed(FOUND)
    others = [
        (DPMSolver(2), 3, "ema"),
        (DDIM(), 3, "ema"),
        (DPMSolver(3), 4, "ema"),
        (DPMSolver(3), 3, "raw"),
    ]
    assert [find_saved_grid(tmp_path, *other) for other in others] == [None] * 4
    again = (0.9, 0.4, 0.2)
    save_grid(tmp_path, DPMSolver(3), 3, "ema", again, 0.1)
    assert find_saved_grid(tmp_path, DPMSolver(3), 3, "ema") == Listed(again)


@pytest.mark.parametrize("guide", [None, "@guide", "runs/small@raw"])
def test_guidance_is_found_for_its_labels_and_means_the_same_guide_anywhere(here, guide):
    one, other = Guidance(2.0, (None, 5.0), guide), Guidance(1.5)
    for found, labelled in ((one, False), (other, True)):
        save_guidance(here, DDIM(eta=0), 10, "ema", found, labelled=labelled)
    place = str(here / guide) if guide == "runs/small@raw" else guide

    def find(labelled):
        name = name_search(DDIM(), 10, "ema") | {"labelled": labelled}
        entry = find_searched(here, "guidance", name)
        return entry and {key: value for key, value in entry.items() if key not in name}

    assert find(False) == one.to_json() | {"guide": place}
    assert find(True) == other.to_json()
    save_guidance(here, DDIM(), 10, "ema", None, labelled=False)
    assert (find(False), find(True)) == (None, other.to_json())


def test_a_field_that_is_added_to_a_sampler_loses_no_result():
    @dataclass(frozen=True)
    class Old(Sampler):
        eta: float = 0.0

    @dataclass(frozen=True)
    class New(Old):
        order: int = 2

    New.__name__ = "Old"
    assert name_search(Old(1), 5, "ema") == name_search(New(1.0), 5, "ema") != name_search(New(), 5, "ema")
    assert name_search(New(1.0, 3), 5, "ema") != name_search(New(1.0), 5, "ema")


def test_searches_that_end_at_the_same_time_lose_no_result(tmp_path):
    def save(steps):
        save_grid(tmp_path, DDIM(), steps, "ema", FOUND, 0.1)
        save_guidance(tmp_path, DDIM(), steps, "ema", Guidance(2.0), labelled=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(3, 27)))
    for steps in range(3, 27):
        assert find_saved_grid(tmp_path, DDIM(), steps, "ema")
        assert find_searched(tmp_path, "guidance", name_search(DDIM(), steps, "ema"))
