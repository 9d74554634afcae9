"""Distillation: students that sample in two steps, and are runs like any other."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.diffusion.loss import Consistency
from ddim.diffusion.samplers import Multistep
from ddim.errors import UserError
from ddim.recipe.checks import check_training
from ddim.recipe.codec import override
from ddim.recipe.named import RECIPES, find_recipe
from ddim.runs import checkpoint, names
from ddim.sampling.pipeline import load
from ddim.training import Callback, distill, resume
from ddim.training.student import make_student

FIELDS = {"optim.warmup": 0, "report.checkpoint": "0"}
GUIDED = {"guidance": 3.0, "guide_with": "@guide", "guidance_interval": (-6.0, 2.0)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run with labels and dropout, which no test changes."""
    recipe = tiny.recipe("group norm", data__labels=True, data__unlabelled=0.5, data__size=16)
    recipe = replace(recipe, net=replace(recipe.net, dropout=0.2))
    return tiny.train(recipe, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run without labels that keeps an early checkpoint, @guide; no test changes it."""
    recipe = tiny.recipe(report__guide=0.3, data__size=16)
    return tiny.train(recipe, tmp_path_factory.mktemp("early") / "run")


def distil(teacher, folder, **options):
    options = {"images": 80, "fields": FIELDS, "out": folder, "machine": tiny.MACHINE, **options}
    return distill(teacher, **options)


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    return distil(teacher, tmp_path_factory.mktemp("student") / "run")


@pytest.fixture(scope="module")
def guided(early, tmp_path_factory):
    return distil(early, tmp_path_factory.mktemp("guided") / "run", **GUIDED)


def average(run):
    return checkpoint.read_tensors(names.find_checkpoint(run), "ema/default")


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("ddpm", "iddpm")])
def test_every_recipe_with_a_continuous_schedule_has_a_student_that_starts_where_it_samples(name):
    recipe = find_recipe(name)
    student = make_student(recipe)
    check_training(student, recipe)
    for field in ("net", "data", "pixels", "seed"):
        assert getattr(student, field) == getattr(recipe, field)
    first, middle = student.grid(2, student.sampling_schedule)
    start = recipe.times(recipe.steps)[0].item()
    noise = student.schedule(first).log_snr - recipe.sampling_schedule(start).log_snr
    assert noise.abs() < 1e-6
    # In units of the images, every student has the same noise at its second step.
    assert student.schedule(middle).noise_to_signal / student.objective.sigma_data == pytest.approx(10.0)


def test_a_student_is_no_teacher_and_no_guide(teacher, student):
    with pytest.raises(UserError, match="must be no student"):
        distill(student)
    with pytest.raises(UserError, match="no table of noise levels"):
        make_student(find_recipe("ddpm"))
    with pytest.raises(UserError, match="a guide must be a diffusion model"):
        ddim.sample(teacher, n=1, guidance=2, guide_with=str(student), progress=False)


def test_a_student_starts_from_the_ema_weights_and_learns(teacher, student, tmp_path):
    checkpoints = distil(teacher, tmp_path / "run", images=8) / "checkpoints"
    start = checkpoint.read_tensors(checkpoints / "step-000000000", "ema/default")
    assert tiny.different(average(teacher), start) == []
    assert tiny.different(average(teacher), average(student)) != []


def test_a_student_learns_from_its_teacher_and_not_from_the_images(early, tmp_path):
    """At first both predict the same, and the target is the prediction of the teacher."""
    losses = []

    class Watch(Callback):
        def on_step(self, training, values):
            losses.append(float(values["loss"]))

    distil(early, tmp_path / "run", images=32, callbacks=[Watch()])
    assert losses[0] < 1e-6 < min(losses[1:])


def test_a_student_samples_in_two_steps_by_default_and_in_any_number(student):
    pipeline = load(student)
    assert isinstance(pipeline.recipe.sampler, Multistep)
    by_default = ddim.sample(pipeline, n=2, progress=False)
    assert torch.equal(by_default, ddim.sample(pipeline, n=2, steps=2, progress=False))
    for steps in (1, 4):
        assert not torch.equal(ddim.sample(pipeline, n=2, steps=steps, progress=False), by_default)
    # The denoising error rises while a student learns, so no checkpoint is the best by it.
    with pytest.raises(UserError, match="has no best checkpoint"):
        load(student / "best")


@pytest.mark.parametrize("options", [{}, GUIDED], ids=["labels", "guided"])
def test_a_student_that_crashed_and_is_resumed_is_one_that_did_not(options, request, tmp_path):
    """The gap depends on the step and the budget alone, and dropout and labels on (seed, step)."""
    run = request.getfixturevalue("early" if options else "teacher")
    whole = request.getfixturevalue("guided" if options else "student")
    with pytest.raises(tiny.PowerCutError):
        distil(run, tmp_path / "run", callbacks=[tiny.At(4, tiny.crash)], **options)
    resume(tmp_path / "run")
    tiny.check_same_run(tmp_path / "run", whole)


def test_a_student_needs_its_teacher_and_names_it(early, tmp_path):
    distil(shutil.copytree(early, tmp_path / "teacher"), tmp_path / "run", images=8)
    shutil.rmtree(tmp_path / "teacher")
    with pytest.raises(UserError, match="teacher/checkpoints/step-000000010"):
        resume(tmp_path / "run")


def test_the_gap_follows_the_part_of_the_budget_that_is_used(monkeypatch):
    """It shrinks evenly on a logarithmic scale."""
    seen, at = [], Consistency.at
    monkeypatch.setattr(Consistency, "at", lambda loss, *now: seen.append(now[0]) or at(loss, *now))
    tiny.training(override(tiny.BASE, {"objective": "consistency"}), updates=10)
    assert np.allclose(seen, np.arange(10) / 10)


def test_guidance_changes_the_student_and_an_interval_that_is_never_entered_does_not(early, tmp_path):
    def learn(name, **options):
        return average(distil(early, tmp_path / name, images=24, **options))

    plain = learn("plain")
    assert tiny.different(plain, learn("never", **{**GUIDED, "guidance_interval": (40.0, None)})) == []
    assert tiny.different(plain, learn("guided", **GUIDED)) != []


def test_classes_guide_a_student_by_the_teacher_without_its_label(teacher, tmp_path):
    """If the labels are withheld from all images, the two predictions are the same."""
    for unlabelled, same in ((0.5, False), (1 - 1e-9, True)):
        fields = {**FIELDS, "data.unlabelled": unlabelled}
        plain, guided = (
            average(distil(teacher, tmp_path / f"{scale} {same}", fields=fields, images=24, guidance=scale))
            for scale in (1.0, 3.0)
        )
        assert (tiny.different(plain, guided) == []) == same


def test_the_paths_of_teacher_and_guide_do_not_depend_on_the_working_folder(early, here):
    shutil.copytree(early, here / "small")
    fields = {"optim.lr": "1e-4", "grid.sigma_min": 3.0}
    student = distil(early, "student", guidance=2.0, guide_with="small@raw", fields=fields, images=8)
    recipe = load(student).recipe
    assert recipe.objective.guide == str(here / "small@raw")
    assert recipe.objective.teacher == str(names.find_checkpoint(early))
    # Fields of the student are set by path.
    assert (recipe.optim.lr, recipe.grid.sigma_min) == (1e-4, 3.0)
