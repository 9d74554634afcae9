"""Distillation: students that sample in two steps, and are runs like any other."""

import os
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.diffusion.consistency import Consistency
from ddim.diffusion.samplers import Multistep
from ddim.errors import UserError
from ddim.evaluation.gradient_noise import collect_gradients, find_loss
from ddim.evaluation.likelihood import bits_per_dim
from ddim.exchange.publishing import hide_folders
from ddim.recipe.codec import override
from ddim.recipe.named_recipes import RECIPES, find_recipe
from ddim.runs import checkpoint
from ddim.runs.fitting import find_other_meaning
from ddim.sampling.generate import find_grid_ends
from ddim.sampling.guidance import Guidance, collect_guidance, save_guidance
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.sampling.recipe_checks import check_training
from ddim.training import distill, resume
from ddim.training.distill import make_student
from ddim.training.loop import Plan
from ddim.training.pace import describe_errors
from ddim.training.request import Request, find_resumable
from ddim.training.teacher import Teacher, find_teacher_guidance

FIELDS = {"optim.warmup": 0, "report.checkpoint": "0"}
TABLES = {"ddpm": "a table of 1000 levels", "iddpm": "predicts a variance"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run with labels, which no test changes."""
    recipe = tiny.recipe("group norm", data__labels=True, data__unlabelled=0.5)
    recipe = replace(recipe, net=replace(recipe.net, dropout=0.2))
    return tiny.train(recipe, tmp_path_factory.mktemp("teacher") / "run")


def distil(teacher, folder, **options):
    return distill(
        teacher, **{"images": 80, "fields": FIELDS, "out": folder, "machine": tiny.MACHINE, **options}
    )


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    return distil(teacher, tmp_path_factory.mktemp("student") / "run")


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in TABLES])
def test_every_recipe_with_a_continuous_schedule_has_a_student_that_starts_where_it_samples(name):
    recipe = find_recipe(name)
    student = make_student(recipe)
    check_training(student, recipe)
    assert (student.net, student.data, student.pixels, student.seed) == (
        recipe.net,
        recipe.data,
        recipe.pixels,
        recipe.seed,
    )
    first, middle = student.grid(2, student.sampling_schedule)
    begin, _ = find_grid_ends(recipe, recipe.steps)
    noise = student.schedule(first).log_snr - recipe.sampling_schedule(begin).log_snr
    assert noise.abs() < 1e-6
    # In units of the images, every student has the same noise at its second step.
    assert student.schedule(middle).noise_to_signal / student.objective.sigma_data == pytest.approx(10.0)
    assert torch.equal(student.grid(1, student.sampling_schedule), first[None])


def test_bits_per_dim_of_a_student_are_refused(student):
    with pytest.raises(UserError, match="need a diffusion model, but this run is a distilled student"):
        bits_per_dim(student, n=1, steps=2, progress=False)


@pytest.mark.parametrize(
    "edit",
    [
        lambda run, image: ddim.invert(run, image, 3, progress=False),
        lambda run, image: ddim.interpolate(run, seeds=[1, 2], steps=3, progress=False),
        lambda run, image: ddim.vary(run, image, steps=3, seeds=[1], progress=False),
        lambda run, image: ddim.inpaint(run, image, image[0, 1].round(), [1], 3, progress=False),
    ],
    ids=["invert", "interpolate", "vary", "inpaint"],
)
def test_edits_with_a_student_are_refused(edit, student):
    with pytest.raises(UserError, match="needs a diffusion model, but this run is a distilled student: name"):
        edit(student, torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))


@pytest.mark.parametrize(("name", "said"), TABLES.items())
def test_runs_that_cannot_be_distilled_are_refused(name, said):
    with pytest.raises(UserError, match=f"cannot be distilled: .*{said}") as error:
        make_student(find_recipe(name))
    assert "\n" not in str(error.value)


def test_a_student_is_not_distilled_again(student):
    with pytest.raises(UserError, match="it is a student already; train it longer with `ddim train --resume"):
        distill(student)


def test_a_student_starts_from_the_ema_weights_and_learns(teacher, student, tmp_path):
    before = checkpoint.read_tensors(checkpoint.find_newest(teacher / "checkpoints"), "ema/default")
    newest = checkpoint.find_newest(student / "checkpoints")
    after = checkpoint.read_tensors(newest, "ema/default")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    started = []
    with pytest.raises(tiny.PowerCutError):
        distil(teacher, tmp_path / "run", callbacks=[Start(started)])
    assert tiny.different(before, started[0]) == []


class Start(ddim.Callback):
    """Keeps the weights of a training before its first step, and ends it."""

    def __init__(self, kept):
        self.kept = kept

    def on_start(self, training, folder):
        self.kept.append({name: value.clone() for name, value in training.average.items()})
        raise tiny.PowerCutError


def test_a_student_samples_in_two_steps_by_default_and_in_any_number(student):
    pipeline = load(student)
    assert pipeline.recipe.steps == 2
    assert isinstance(pipeline.recipe.sampler, Multistep)
    by_default = ddim.sample(pipeline, n=2, progress=False)
    assert torch.equal(by_default, ddim.sample(pipeline, n=2, steps=2, progress=False))
    others = [ddim.sample(pipeline, n=2, steps=steps, label=3, progress=False) for steps in (1, 4)]
    assert all(images.shape == (2, 3, 32, 32) and not torch.equal(images, by_default) for images in others)


def test_a_student_that_crashed_and_is_resumed_is_one_that_did_not(teacher, student, tmp_path):
    """The gap depends on the step and the budget alone, and dropout and labels on (seed, step)."""
    folder = tmp_path / "run"
    with pytest.raises(tiny.PowerCutError):
        distil(teacher, folder, callbacks=[tiny.At(4, tiny.crash)])
    with pytest.raises(tiny.PowerCutError):
        resume(folder, callbacks=[tiny.At(7, tiny.crash)])
    resume(folder)
    tiny.check_same_run(folder, student)


def test_a_student_is_resumed_only_by_its_folder(teacher, student, tmp_path):
    """Its options are those of its teacher, which a repeated `ddim train` means."""
    for run, name in ((teacher, "teacher"), (student, "student")):
        shutil.copytree(run, tmp_path / name)
        os.utime(tmp_path / name / "run.json")
    assert find_resumable(Request(), runs=tmp_path) == (tmp_path / "teacher", "")
    assert find_resumable(Request(), tmp_path / "student") == (tmp_path / "student", "")
    for means in ({"source": "x"}, {"fields": {"objective.sigma_data": "1.0"}}):
        assert find_resumable(Request(**means), runs=tmp_path) == (tmp_path / "student", "")


def test_the_gap_follows_the_part_of_the_budget_that_is_used(monkeypatch):
    """It is the whole path while the budget is unknown, and shrinks evenly on a logarithmic scale."""
    seen, at = [], Consistency.at
    monkeypatch.setattr(Consistency, "at", lambda loss, *now: seen.append(now[0]) or at(loss, *now))
    run = tiny.training(override(tiny.BASE, {"objective": "consistency"}), updates=10)
    assert np.allclose(seen, np.arange(10) / 10)
    assert run.finished
    unknown = tiny.training(override(tiny.BASE, {"objective": "consistency"}))
    unknown.plan = Plan(None)
    seen.clear()
    unknown.advance()
    assert seen == [0.0]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(guidance, tmp_path):
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


def test_a_table_is_no_schedule_for_consistency():
    table = override(tiny.BASE, {"objective": "consistency", "schedule": "linear"})
    with pytest.raises(
        UserError, match="objective consistency needs a continuous schedule, such as cosine, got"
    ):
        check_training(table)


def test_the_deviation_of_the_images_is_one_number():
    student = override(make_student(find_recipe("edm")), {"objective.sigma_data": 1.0})
    with pytest.raises(UserError, match="predicts.sigma_data and objective.sigma_data must be one number"):
        check_training(student)


def test_no_checkpoint_of_a_student_is_the_best_by_its_denoising_error(student):
    with pytest.raises(
        UserError, match="has no best checkpoint: report.best is none, or has not been measured yet"
    ):
        load(student / "best")
    judged = override(tiny.BASE, {"report.kid": 20, "report.best": "kid"})
    assert make_student(judged).report.best == "kid"


def test_fields_of_the_student_are_set_by_path(teacher, tmp_path):
    fields = {"optim.lr": "1e-4", "steps": 1, "images": 8, "grid.sigma_min": 3.0}
    recipe = read_run_recipe(distil(teacher, tmp_path / "run", fields=fields, images=None))
    assert (recipe.optim.lr, recipe.steps, recipe.images, recipe.grid.sigma_min) == (1e-4, 1, 8, 3.0)
    with pytest.raises(UserError, match="give minutes or images, not both"):
        distill(teacher, minutes=1, images=80)


def test_a_student_has_one_objective_and_one_source_of_images(teacher, tmp_path):
    with pytest.raises(UserError, match="trained with objective consistency, got objective: leave out"):
        distil(teacher, tmp_path / "run", fields={**FIELDS, "objective": "objective"})
    with pytest.raises(UserError, match=r"data and data\.source both name the images"):
        distil(teacher, tmp_path / "run", data="blossoms:40", fields={**FIELDS, "data.source": "blossoms:8"})


def test_the_error_of_a_student_is_not_called_better_if_it_is_lower(student):
    values = {"image_mae": 0.5}
    said = {recipe: describe_errors(SimpleNamespace(recipe=recipe), values) for recipe in (tiny.BASE,)}
    assert said[tiny.BASE] == "validation error 0.500, lower is better"
    training = SimpleNamespace(recipe=read_run_recipe(student))
    assert describe_errors(training, values) == "validation error 0.500, which rises while a student learns"
    both = describe_errors(training, {**values, "kid": 0.25})
    assert both.startswith("KID 0.250, lower is better, validation error 0.500, which rises")


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A run without labels that keeps an early checkpoint, @guide; no test changes it."""
    recipe = tiny.recipe(report__guide=0.3)
    return tiny.train(recipe, tmp_path_factory.mktemp("early") / "run")


GUIDED = {"guidance": 3.0, "guide_with": "@guide", "guidance_interval": (-6.0, 2.0)}


@pytest.fixture(scope="module")
def guided(early, tmp_path_factory):
    return distil(early, tmp_path_factory.mktemp("guided") / "run", **GUIDED)


def average(run):
    return checkpoint.read_tensors(checkpoint.find_newest(run / "checkpoints"), "ema/default")


def test_a_guided_student_keeps_the_weights_of_its_teacher_and_of_the_guide(early, guided):
    newest, first = checkpoint.find_newest(guided / "checkpoints"), checkpoint.find_newest(early / "guide")
    assert tiny.different(checkpoint.read_tensors(newest, "teacher"), average(early)) == []
    early_weights = checkpoint.read_tensors(first, "ema/default")
    assert tiny.different(checkpoint.read_tensors(newest, "guide"), early_weights) == []
    loss = read_run_recipe(guided).objective
    assert (loss.guidance, loss.interval, loss.guide) == (3.0, (-6.0, 2.0), "@guide")


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
        # The speed is measured on smaller batches.
        if len(x0) == 8:
            seen.append(denoise.schedule(t).noisy(x0, eps))
        return call(loss, gap, denoise, x0, t, eps, pixels)

    monkeypatch.setattr(Consistency, "_compare", watch)
    distil(early, tmp_path / "plain", images=16)
    distil(early, tmp_path / "guided", images=16, **GUIDED)
    # The noise levels of both students are the same; the second batch depends on no weights either.
    for one, other in zip(seen[:2], seen[2:], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_guided_student_that_crashed_is_resumed_without_the_run_of_its_teacher(early, guided, tmp_path):
    teacher, folder = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(early, teacher)
    with pytest.raises(tiny.PowerCutError):
        distil(teacher, folder, **GUIDED, callbacks=[tiny.At(4, tiny.crash)])
    shutil.rmtree(teacher)
    resume(folder)
    tiny.check_same_run(folder, guided, files=5)


def test_a_guided_student_that_died_before_its_first_checkpoint_needs_the_same_guide(early, tmp_path):
    teacher, folder = tmp_path / "teacher", tmp_path / "run"
    later = tiny.train(tiny.recipe(report__guide=0.5), tmp_path / "later")
    shutil.copytree(early, teacher)
    with pytest.raises(tiny.PowerCutError):
        distil(teacher, folder, **GUIDED, callbacks=[Start([])])
    shutil.rmtree(teacher / "guide")
    shutil.copytree(later / "guide", teacher / "guide")
    with pytest.raises(UserError, match="the guide @guide has changed since the run began"):
        resume(folder)
    shutil.rmtree(teacher / "guide")
    shutil.copytree(early / "guide", teacher / "guide")
    resume(folder)
    assert read_run_recipe(folder).objective.guidance == 3.0


def test_classes_guide_a_student_by_the_teacher_without_its_label(teacher, student, tmp_path):
    found = distil(teacher, tmp_path / "run", guidance=3.0)
    files = {path.stem for path in checkpoint.find_newest(found / "checkpoints").rglob("*.safetensors")}
    assert files == {"model", "default", "optimizer", "teacher"}
    assert tiny.different(average(found), average(student)) != []
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
    begun = []
    with pytest.raises(tiny.PowerCutError):
        distil(run, tmp_path / "student", callbacks=[Begin(begun)])
    assert begun == [(2.0, (-2.0, None), "@guide")]
    with pytest.raises(tiny.PowerCutError):
        distil(run, tmp_path / "plain", guidance=1.0, callbacks=[Begin(begun)])
    assert begun[1] == (1.0, None, None)


class Begin(ddim.Callback):
    """Keeps the guidance of a student before its first step, and ends it."""

    def __init__(self, kept):
        self.kept = kept

    def on_start(self, training, folder):
        loss = training.recipe.objective
        self.kept.append((loss.guidance, loss.interval, loss.guide))
        raise tiny.PowerCutError


def test_a_student_is_not_a_guide(teacher, student):
    own = load(student)
    for strong, guide in ((load(teacher), own), (load(teacher), str(student)), (own, "@raw")):
        with pytest.raises(UserError, match="^a guide must be a diffusion model, but .* is a distilled stud"):
            ddim.sample(strong, n=1, guidance=2, guide_with=guide, progress=False)
    with pytest.raises(UserError, match="a guide must be a diffusion model, but .*: name its teacher"):
        find_teacher_guidance(load(teacher), collect_guidance(2.0, None, student))


def test_guidance_of_a_guided_student_is_a_warning(early, guided, recwarn):
    ddim.sample(guided, n=1, guidance=1.5, guide_with=str(early), progress=False)
    (said,) = (str(each.message) for each in recwarn)
    assert (
        said
        == "this student has learned guidance 3 from its teacher, so guidance 1.5 guides its samples twice"
    )
    ddim.sample(guided, n=1, progress=False)
    assert len(recwarn) == 1


def test_a_guide_with_another_network_or_another_schedule_is_refused(early, tmp_path):
    said = "only from a guide with the {} of its teacher, such as @guide, got .*/{}: give another guide"
    for field, value in {"net": {"net.widths": "16,16"}, "schedule": {"schedule": "linear_path"}}.items():
        other = tiny.train(override(tiny.BASE, value), tmp_path / field)
        with pytest.raises(UserError, match=said.format(field, field)):
            find_teacher_guidance(load(early), collect_guidance(2.0, None, other))
    with pytest.raises(
        UserError, match="guide_with must be text for a student, whose recipe names its guide"
    ):
        find_teacher_guidance(load(early), collect_guidance(2.0, None, load(other)))
    run = tmp_path / "run"
    shutil.copytree(early, run)
    recipe, saved = read_run_recipe(run), Guidance(2.0, None, str(tmp_path / "net"))
    save_guidance(run, recipe.sampler, recipe.steps, "ema", saved, labelled=False)
    with pytest.raises(UserError, match="which `ddim search` chose for samples: give another guide, or guid"):
        distil(run, tmp_path / "student")


def test_the_same_weights_mean_something_else_in_another_recipe():
    """Another number of groups, or another prediction, changes no shape of the weights."""
    recipe = tiny.recipe("group norm")
    fewer = replace(recipe, net=replace(recipe.net, groups=2))
    assert find_other_meaning(recipe, fewer) == "net"
    assert find_other_meaning(recipe, replace(recipe, net=replace(recipe.net, dropout=0.5))) is None
    assert find_other_meaning(recipe, override(recipe, {"predicts": "noise"})) == "predicts"
    assert find_other_meaning(recipe, override(recipe, {"schedule": "linear_path"})) == "schedule"


def test_the_path_of_a_guide_does_not_depend_on_the_working_folder(early, tmp_path, monkeypatch):
    tiny.train(tiny.recipe(images=16), tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    found = distil(early, "student", guidance=2.0, guide_with="small@raw", images=16)
    assert read_run_recipe(found).objective.guide == str(tmp_path / "small@raw")
    assert hide_folders(read_run_recipe(found)).objective.guide == "small@raw"


def test_a_student_of_a_relative_path_that_died_before_its_first_checkpoint_starts_again(
    early, tmp_path, monkeypatch
):
    monkeypatch.chdir(early.parent)
    with pytest.raises(tiny.PowerCutError):
        distil(early.name, tmp_path / "run", **GUIDED, callbacks=[Start([])])
    resume(tmp_path / "run")
    assert tiny.metrics(tmp_path / "run")[-1]["images"] == 80


def test_a_teacher_that_samples_from_little_noise_has_a_second_step_with_less():
    recipe = override(find_recipe("fast"), {"grid": "karras", "grid.sigma_max": 8.0})
    assert make_student(recipe).grid.sigma_min == pytest.approx(4.0)


def test_guidance_needs_a_teacher_that_can_be_guided(early, guided, teacher, tmp_path):
    with pytest.raises(UserError, match="guidance needs a label"):
        distil(early, tmp_path / "run", guidance=2.0)
    fields = {**FIELDS, "schedule": "linear_path"}
    with pytest.raises(
        UserError, match="guidance 3 needs the schedule of the run of --from, got another sched"
    ):
        distil(early, tmp_path / "run", **GUIDED, fields=fields)
    with pytest.raises(UserError, match="this student is trained without labels: name a guide"):
        distil(teacher, tmp_path / "run", guidance=2.0, fields={**FIELDS, "data.labels": "no"})
    with pytest.raises(UserError, match="which is a student itself: set --objective.guidance 1") as error:
        tiny.train(read_run_recipe(guided), tmp_path / "run", source=guided)
    # The advice is enough: the interval and the guide come from the student too.
    options = dict(re.findall(r"--(objective\S+) (\S+)", str(error.value)))
    check_training(override(read_run_recipe(guided), options), read_run_recipe(guided))
    alone = override(tiny.BASE, {"objective": "consistency", "objective.guidance": 2.0})
    with pytest.raises(UserError, match="no run is given: use `ddim distill RUN --guidance 2`, or set"):
        check_training(alone)
    assert not list(tmp_path.iterdir())


def test_guidance_needs_the_classes_of_the_teacher(teacher, tmp_path):
    for name in "abcdefghijkl":
        tiny.write_grays(tmp_path / "photos" / name, [10, 200])
    fields = {**FIELDS, "data.source": str(tmp_path / "photos")}
    with pytest.raises(
        UserError, match="needs images with the classes of the run of --from, in the same ord"
    ):
        distil(teacher, tmp_path / "run", guidance=2.0, fields=fields)


def test_a_diagnosis_measures_the_loss_of_the_guided_student(guided, monkeypatch):
    run, own = load(guided), open_run_images(load(guided))
    found = collect_gradients(run, own, find_loss(run))
    monkeypatch.setattr(Teacher, "move", lambda teacher, denoise, x0, t, eps: (x0, eps))
    assert not torch.allclose(found, collect_gradients(run, own, find_loss(run)), rtol=1e-3)
