"""Distillation: students that sample in two steps, and are runs like any other."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.diffusion.loss import Consistency
from ddim.diffusion.samplers import Multistep
from ddim.errors import UserError
from ddim.exchange.publishing import hide_folders
from ddim.recipe.checks import check_training, find_other_meaning
from ddim.recipe.codec import override
from ddim.recipe.named import RECIPES, find_recipe
from ddim.runs import checkpoint
from ddim.runs.state import Plan
from ddim.sampling.generate import find_grid_ends
from ddim.sampling.guidance import Guidance, save_guidance
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.training import distill, resume
from ddim.training.distill import make_student
from ddim.training.pace import describe_errors

FIELDS = {"optim.warmup": 0, "report.checkpoint": "0"}
TABLES = {"ddpm": "a table of 1000 levels", "iddpm": "predicts a variance"}
GUIDED = {"guidance": 3.0, "guide_with": "@guide", "guidance_interval": (-6.0, 2.0)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run with labels and dropout, which no test changes."""
    recipe = tiny.recipe("group norm", data__labels=True, data__unlabelled=0.5)
    recipe = replace(recipe, net=replace(recipe.net, dropout=0.2))
    return tiny.train(recipe, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run without labels that keeps an early checkpoint, @guide; no test changes it."""
    return tiny.train(tiny.recipe(report__guide=0.3), tmp_path_factory.mktemp("early") / "run")


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
    return checkpoint.read_tensors(checkpoint.find_newest(run / "checkpoints"), "ema/default")


class Start(ddim.Callback):
    """Keeps the weights and the loss of a training before its first step, and ends it."""

    def on_start(self, training, folder):
        self.weights = {name: value.clone() for name, value in training.average.items()}
        self.loss = training.recipe.objective
        raise tiny.PowerCutError


def begin(teacher, folder, **options):
    """Begin a distillation; returns the weights and the loss at its start."""
    start = Start()
    with pytest.raises(tiny.PowerCutError):
        distil(teacher, folder, callbacks=[start], **options)
    return start


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in TABLES])
def test_every_recipe_with_a_continuous_schedule_has_a_student_that_starts_where_it_samples(name):
    recipe = find_recipe(name)
    student = make_student(recipe)
    check_training(student, recipe)
    for field in ("net", "data", "pixels", "seed"):
        assert getattr(student, field) == getattr(recipe, field)
    first, middle = student.grid(2, student.sampling_schedule)
    start, _ = find_grid_ends(recipe, recipe.steps)
    noise = student.schedule(first).log_snr - recipe.sampling_schedule(start).log_snr
    assert noise.abs() < 1e-6
    # In units of the images, every student has the same noise at its second step.
    assert student.schedule(middle).noise_to_signal / student.objective.sigma_data == pytest.approx(10.0)
    assert torch.equal(student.grid(1, student.sampling_schedule), first[None])


def test_a_teacher_that_samples_from_little_noise_has_a_second_step_with_less():
    recipe = override(find_recipe("fast"), {"grid": "karras", "grid.sigma_max": 8.0})
    assert make_student(recipe).grid.sigma_min == pytest.approx(4.0)


@pytest.mark.parametrize(("name", "said"), TABLES.items())
def test_runs_that_cannot_be_distilled_are_refused(name, said):
    with pytest.raises(UserError, match=said):
        make_student(find_recipe(name))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minutes": 1}, "not both"),
        ({"fields": {"objective": "objective"}}, "objective consistency"),
        ({"guidance": 2.0, "fields": {"data.labels": "no"}}, "with labels"),
        ({"guidance": 2.0, "fields": {"schedule": "linear_path"}}, "schedule"),
        ({"guidance": 2.0, "fields": {"objective.guidance": 3.0}}, "one of them"),
        ({"guidance": 2.0, "data": "blossoms:40", "fields": {"data.labels": "clusters:3"}}, "class"),
    ],
)
def test_options_that_contradict_each_other_or_the_teacher_are_refused(options, said, teacher, tmp_path):
    with pytest.raises(UserError, match=said):
        distil(teacher, tmp_path / "run", **options)
    assert not list(tmp_path.iterdir())


def test_a_student_is_no_teacher_no_guide_and_no_diffusion_model(early, teacher, student, guided):
    with pytest.raises(UserError, match="student already"):
        distill(student)
    with pytest.raises(UserError, match="use `ddim distill`"):
        check_training(read_run_recipe(guided), read_run_recipe(guided))
    for strong, guide in ((load(teacher), str(student)), (load(student), "@raw")):
        with pytest.raises(UserError, match="a guide must be a diffusion model"):
            ddim.sample(strong, n=1, guidance=2, guide_with=guide, progress=False)
    with pytest.raises(UserError, match="needs a diffusion model"):
        ddim.vary(student, torch.zeros(1, 3, 32, 32), steps=3, seeds=[1], progress=False)


def test_a_student_starts_from_the_ema_weights_and_learns(teacher, student, tmp_path):
    assert tiny.different(average(teacher), begin(teacher, tmp_path / "run").weights) == []
    assert tiny.different(average(teacher), average(student)) != []


def test_a_student_samples_in_two_steps_by_default_and_in_any_number(student):
    pipeline = load(student)
    assert pipeline.recipe.steps == 2
    assert isinstance(pipeline.recipe.sampler, Multistep)
    by_default = ddim.sample(pipeline, n=2, progress=False)
    assert torch.equal(by_default, ddim.sample(pipeline, n=2, steps=2, progress=False))
    others = [ddim.sample(pipeline, n=2, steps=steps, label=3, progress=False) for steps in (1, 4)]
    assert all(images.shape == (2, 3, 32, 32) and not torch.equal(images, by_default) for images in others)


@pytest.mark.parametrize("options", [{}, GUIDED], ids=["labels", "guided"])
def test_a_student_that_crashed_and_is_resumed_is_one_that_did_not(options, request, tmp_path):
    """The gap depends on the step and the budget alone, and dropout and labels on (seed, step)."""
    run = request.getfixturevalue("early" if options else "teacher")
    whole = request.getfixturevalue("guided" if options else "student")
    with pytest.raises(tiny.PowerCutError):
        distil(run, tmp_path / "run", callbacks=[tiny.At(4, tiny.crash)], **options)
    with pytest.raises(tiny.PowerCutError):
        resume(tmp_path / "run", callbacks=[tiny.At(7, tiny.crash)])
    resume(tmp_path / "run")
    tiny.check_same_run(tmp_path / "run", whole)


def test_a_guided_student_needs_its_teacher_and_names_it(early, tmp_path):
    shutil.copytree(early, tmp_path / "teacher")
    with pytest.raises(tiny.PowerCutError):
        distil(tmp_path / "teacher", tmp_path / "run", **GUIDED, callbacks=[tiny.At(4, tiny.crash)])
    shutil.rmtree(tmp_path / "teacher")
    with pytest.raises(UserError, match="teacher/checkpoints/step-000000010"):
        resume(tmp_path / "run")


def test_the_gap_follows_the_part_of_the_budget_that_is_used(monkeypatch):
    """It is the whole path while the budget is unknown, and shrinks evenly on a logarithmic scale."""
    seen, at = [], Consistency.at
    monkeypatch.setattr(Consistency, "at", lambda loss, *now: seen.append(now[0]) or at(loss, *now))
    run = tiny.training(override(tiny.BASE, {"objective": "consistency"}), updates=10)
    assert np.allclose(seen, np.arange(10) / 10)
    run.plan = Plan(None)
    seen.clear()
    run.advance()
    assert seen == [0.0]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(guidance):
    """Dropout of both noise levels is numbered by the images of the whole batch."""
    recipe = tiny.recipe("group norm", objective="consistency")
    recipe = replace(recipe, net=replace(recipe.net, dropout=0.2))
    recipe = override(recipe, {"objective.guidance": guidance, "objective.guide": "@guide"})
    gradients = []
    for parts in (1, 2):
        run = tiny.give_teacher(tiny.training(override(recipe, {"optim.accumulate": parts})))
        run.step = 5
        gradients.append(tiny.gradients(run))
    (one, loss), (other, same) = gradients
    assert torch.allclose(loss, same, rtol=1e-4)
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-2, atol=1e-5), name


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        (tiny.BASE, {"objective": "consistency", "schedule": "linear"}, "continuous schedule"),
        (make_student(find_recipe("edm")), {"objective.sigma_data": 1.0}, "sigma_data must be"),
        (tiny.BASE, {"objective": "consistency", "objective.guidance": 2.0}, "use `ddim distill`"),
    ],
)
def test_recipes_that_no_student_can_have_are_refused(recipe, changes, said):
    with pytest.raises(UserError, match=said):
        check_training(override(recipe, changes))


def test_no_checkpoint_of_a_student_is_the_best_by_its_denoising_error(student):
    """The error rises while a student learns, so it is not called better if it is lower."""
    with pytest.raises(UserError, match="has no best checkpoint"):
        load(student / "best")
    assert make_student(override(tiny.BASE, {"report.kid": 20, "report.best": "kid"})).report.best == "kid"
    values, training = {"image_mae": 0.5, "kid": 0.25}, SimpleNamespace(recipe=read_run_recipe(student))
    assert describe_errors(training, values).startswith("KID 0.250, lower is better, validation error 0.500")


def test_fields_of_the_student_are_set_by_path(teacher, tmp_path):
    fields = {"optim.lr": "1e-4", "steps": 1, "images": 8, "grid.sigma_min": 3.0}
    recipe = read_run_recipe(distil(teacher, tmp_path / "run", fields=fields, images=None))
    assert (recipe.optim.lr, recipe.steps, recipe.images, recipe.grid.sigma_min) == (1e-4, 1, 8, 3.0)


def test_guidance_changes_the_student_and_an_interval_that_is_never_entered_does_not(early, guided, tmp_path):
    plain = average(distil(early, tmp_path / "plain"))
    never = {**GUIDED, "guidance_interval": (40.0, None)}
    assert tiny.different(plain, average(distil(early, tmp_path / "never", **never))) == []
    assert tiny.different(plain, average(distil(early, tmp_path / "off", guidance=1.0))) == []
    assert tiny.different(plain, average(guided)) != []


def test_a_guided_student_sees_the_noisy_images_of_its_teacher(early, tmp_path, monkeypatch):
    """Guidance moves images and noise so that the noisy image stays the same."""
    seen, call = [], Consistency._compare

    def watch(loss, gap, denoise, x0, t, eps, pixels):
        # Speed and memory are measured on smaller batches.
        if len(x0) == 8:
            seen.append(denoise.schedule(t).noisy(x0, eps))
        return call(loss, gap, denoise, x0, t, eps, pixels)

    monkeypatch.setattr(Consistency, "_compare", watch)
    distil(early, tmp_path / "plain", images=16)
    distil(early, tmp_path / "guided", images=16, **GUIDED)
    # The noise levels of both students are the same; the second batch depends on no weights either.
    for one, other in zip(seen[:2], seen[2:], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_classes_guide_a_student_by_the_teacher_without_its_label(teacher, student, tmp_path):
    assert tiny.different(average(distil(teacher, tmp_path / "run", guidance=3.0)), average(student)) != []
    # The labels are withheld from half of the images; if from all, the two predictions are the same.
    fields = {**FIELDS, "data.unlabelled": 1 - 1e-9}
    plain = distil(teacher, tmp_path / "plain", fields=fields)
    unlabelled = distil(teacher, tmp_path / "unlabelled", fields=fields, guidance=3.0)
    assert tiny.different(average(plain), average(unlabelled)) == []


def test_the_guidance_that_a_search_saved_is_learned_by_default(early, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(early, run)
    recipe = read_run_recipe(run)
    saved = Guidance(2.0, (-2.0, None), "@guide")
    save_guidance(run, recipe.sampler, recipe.steps, "ema", saved, labelled=False)
    loss = begin(run, tmp_path / "student").loss
    assert (loss.guidance, loss.interval, loss.guide) == (2.0, (-2.0, None), "@guide")
    assert begin(run, tmp_path / "plain", guidance=1.0).loss.guidance == 1.0


def test_guidance_needs_a_guide_or_labels_and_the_network_of_the_teacher(early, tmp_path):
    with pytest.raises(UserError, match="guidance needs a label"):
        distil(early, tmp_path / "run", guidance=2.0)
    other = tiny.train(override(tiny.BASE, {"net.widths": "16,16"}), tmp_path / "other")
    with pytest.raises(UserError, match="only from a guide with the net of its teacher"):
        distil(early, tmp_path / "run", guidance=2.0, guide_with=other)


def test_the_same_weights_mean_something_else_in_another_recipe():
    """Another number of groups, or another prediction, changes no shape of the weights."""
    recipe = tiny.recipe("group norm")
    assert find_other_meaning(recipe, replace(recipe, net=replace(recipe.net, groups=2))) == "net"
    assert find_other_meaning(recipe, replace(recipe, net=replace(recipe.net, dropout=0.5))) is None
    for field, value in {"predicts": "noise", "schedule": "linear_path"}.items():
        assert find_other_meaning(recipe, override(recipe, {field: value})) == field


def test_the_paths_of_teacher_and_guide_do_not_depend_on_the_working_folder(early, tmp_path, monkeypatch):
    tiny.train(tiny.recipe(images=16), tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    recipe = read_run_recipe(distil(early, "student", guidance=2.0, guide_with="small@raw", images=16))
    assert recipe.objective.guide == str(tmp_path / "small@raw")
    assert recipe.objective.teacher == str(checkpoint.find_newest(early / "checkpoints"))
    # A published recipe names no folder.
    shown = hide_folders(recipe).objective
    assert (shown.guide, shown.teacher) == ("small@raw", None)
