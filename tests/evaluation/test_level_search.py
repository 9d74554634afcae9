"""The search for the noise level of a student's last step, and its use by sampling."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.diffusion.grids import Karras
from ddim.errors import UserError
from ddim.evaluation import grid_search, level_search
from ddim.evaluation.level_search import SearchedGrid
from ddim.evaluation.sample_features import FeatureBatch, SampledParts
from ddim.sampling.generate import SamplesNotFinite
from ddim.sampling.pipeline import load
from ddim.training import distill
from ddim.training.student import make_student
from stubs import stub

N = 20
RIGHT = 10.0 * level_search.FACTOR**-2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = tiny.train(tiny.recipe(data__validation="0.5"), folder / "run")
    return distill(run, images=8, out=folder / "student", machine=tiny.MACHINE, progress=False)


@pytest.fixture
def student(trained, tmp_path, monkeypatch):
    """A student whose samples are nearest to the validation images at one noise level."""

    def parts(self, extractor, shown):
        draw, held_out = (np.random.default_rng(k).standard_normal((N, 12)) for k in (1, 0))
        assert len(self.seeds) == N
        offset = abs(np.log(self.setup.pipeline.recipe.grid.sigma_min / RIGHT))
        yield FeatureBatch((held_out + offset + 0.1 * draw).astype(np.float32), None, 0)

    held_out = np.random.default_rng(0).standard_normal((N, 12)).astype(np.float32)
    monkeypatch.setattr(SampledParts, "__call__", parts)
    monkeypatch.setattr("ddim.evaluation.reference.compute_features", lambda *_: held_out)
    monkeypatch.setattr(grid_search, "load_extractor", stub)
    return Path(shutil.copytree(trained, tmp_path / "student"))


def test_the_best_level_is_found_saved_and_then_used(student):
    before = ddim.sample(student, n=2, progress=False)
    found = ddim.search(student, seeds=N)
    assert found.measure == "kid"
    assert found.error == min(found.named.values()) == found.named[f"sigma_min {RIGHT:.3g}"]
    assert len(found.named) > 5
    assert found.times == tuple(Karras(RIGHT)(2, load(student).recipe.schedule).tolist())
    after = ddim.sample(student, n=2, progress=False)
    assert not torch.equal(before, after)
    assert torch.equal(after, ddim.sample(student, n=2, grid=Karras(RIGHT), progress=False))
    # Other numbers of steps keep their grid.
    grid = load(student).recipe.grid
    one = [ddim.sample(student, n=2, steps=1, progress=False, **given) for given in ({}, {"grid": grid})]
    assert torch.equal(*one)


def test_a_student_whose_own_level_gives_no_images_gets_another_level(student, monkeypatch):
    own, parts = load(student).recipe.grid.sigma_min, SampledParts.__call__

    def fail(self, extractor, shown):
        if self.setup.pipeline.recipe.grid.sigma_min == own:
            raise SamplesNotFinite("NaN")
        yield from parts(self, extractor, shown)

    monkeypatch.setattr(SampledParts, "__call__", fail)
    found = ddim.search(student, seeds=N)
    assert found.times == tuple(Karras(RIGHT)(2, load(student).recipe.schedule).tolist())


def test_a_level_that_is_lowest_by_chance_is_not_used(student, monkeypatch, capsys):
    from ddim.cli import main

    def parts(self, extractor, shown):
        draw = np.random.default_rng([self.seeds[0], int(100 * self.setup.pipeline.recipe.grid.sigma_min)])
        yield FeatureBatch(draw.standard_normal((N, 12)).astype(np.float32), None, 0)

    monkeypatch.setattr(SampledParts, "__call__", parts)
    found = ddim.search(student, seeds=N)
    assert min(found.named, key=found.named.__getitem__) != "sigma_min 10"
    assert found.error == found.named["sigma_min 10"]
    own = load(student).recipe
    assert found.times == tuple(own.grid(2, own.schedule).tolist())
    assert main(["search", str(student), "--seeds", str(N), "--quiet"]) == 0
    assert "is not distinguishably better at 95 %, on fresh samples: the student" in capsys.readouterr().out


def test_a_student_without_finite_samples_is_refused(student, monkeypatch):
    def parts(self, extractor, shown):
        raise SamplesNotFinite("samples must be finite")

    monkeypatch.setattr(SampledParts, "__call__", parts)
    with pytest.raises(UserError, match="the samples of the student are not finite"):
        ddim.search(student, seeds=N)
    assert not (student / "searched.json").exists()


def test_a_level_of_ones_own_is_kept_though_it_is_near_the_first_step(student):
    most = load(student).recipe.schedule(1.0).noise_to_signal.item()
    found = grid_search.search_grid(student, seeds=N, fields={"grid.sigma_min": 0.9 * most})
    assert f"sigma_min {0.9 * most:.3g}" in found.named


def test_every_level_lies_below_that_of_the_first_step(student):
    pipeline = load(student)
    found = grid_search.search_grid(student, seeds=N, fields={"grid.sigma_min": 30.0})
    most = pipeline.recipe.schedule(1.0).noise_to_signal.item()
    levels = [float(name.split()[1]) for name in found.named]
    assert levels[0] < levels[-1] == 30 < most / level_search.FACTOR
    assert found.times[0] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 1}, "needs at least 2 steps and the grid karras, got 1 and Karras"),
        ({"fields": {"grid": "uniform"}}, "needs at least 2 steps and the grid karras, got 2 and Uniform"),
        ({"end": 0.1}, "--end must be left out"),
        ({"seeds": 3}, "seeds must be at least 20 .*, got 3"),
    ],
    ids=str,
)
def test_a_search_that_cannot_work_is_refused_and_leaves_nothing(student, options, said):
    with pytest.raises(UserError, match=said):
        ddim.search(student, **{"seeds": N, **options})
    assert not (student / "searched.json").exists()


def test_the_command_prints_every_level(student, capsys):
    from ddim.cli import main

    assert main(["search", str(student), "--seeds", str(N), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    levels = [10.0 * level_search.FACTOR**k for k in level_search.TRIED]
    assert [line.split(":")[0] for line in lines[:-1]] == [f"sigma_min {level:.3g}" for level in levels]
    assert lines[-1].startswith("kid ")
    assert lines[-1].endswith("searched.json")


def test_the_level_of_a_new_student_is_in_the_middle_of_the_search():
    assert make_student(tiny.recipe()).grid.sigma_min == 10.0


@pytest.mark.parametrize(("error", "said"), [(0.001, "2.00 times smaller"), (-0.001, ", smaller")])
def test_a_negative_kid_gives_no_ratio(error, said, trained, monkeypatch, capsys):
    from ddim.cli import main

    found = SearchedGrid((0.9, 0.5), error, {"own": 0.002}, "kid")
    monkeypatch.setattr(grid_search, "search_grid", lambda *_, **options: found)
    assert main(["search", str(trained)]) == 0
    assert f"kid {error:.3g}" in (printed := capsys.readouterr().out)
    assert f"{said} than on the own grid: " in printed
