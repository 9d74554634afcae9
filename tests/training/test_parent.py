"""New runs that start from the weights of another run: their images, split, labels and processes."""

import shutil
from dataclasses import replace

import pytest

import tiny
from ddim.cli import main
from ddim.errors import Notice, UserError
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load
from ddim.training import distill, resume


def short(**changes):
    return tiny.recipe(**{"images": 8, "data__size": 8, **changes})


def student(parent, name="student", **options):
    fields = {"optim.warmup": 0, "images": 8, **options.pop("fields", {})}
    return distill(parent, fields=fields, out=parent.parent / name, machine=tiny.MACHINE, **options)


def test_a_student_has_the_images_of_its_teacher_wherever_they_are(photos_run, tmp_path, monkeypatch):
    tiny.write_grays(tmp_path / "else" / "photos", range(1, 256, 8))
    monkeypatch.chdir(tmp_path / "else")
    wanted = load(photos_run).checkpoint.state.images
    assert load(student(photos_run)).checkpoint.state.images == wanted
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    resume(photos_run, data=str(tmp_path / "moved"))
    assert load(student(photos_run, "second")).checkpoint.state.images == wanted
    main(["train", "--from", str(photos_run), "--out", "third", "--images", "8", "--no-compile"])
    assert load("third").checkpoint.state.images == wanted


def test_weights_that_get_another_meaning_are_named(photos_run, tmp_path):
    with pytest.warns(Notice, match="trained with another schedule, so they must learn a new task"):
        tiny.train(short(schedule="linear_path"), tmp_path / "path", "photos", source=photos_run)
    # Another budget or sampler gives them no other meaning; a warning would be an error here.
    tiny.train(short(images=16, sampler="ddim"), tmp_path / "sampler", "photos", source=photos_run)


def test_a_student_is_not_trained_on_changed_or_missing_images(photos_run, tmp_path):
    (tmp_path / "photos" / "0.png").unlink()
    with pytest.raises(UserError, match="has changed since .* was trained on it: put its images back"):
        student(photos_run)
    shutil.rmtree("photos")
    with pytest.raises(UserError, match="are missing, seen from"):
        student(photos_run)
    tiny.write_grays(tmp_path / "others", range(1, 256, 8))
    assert load(student(photos_run, data="others")).recipe.data.source == "others"


def test_training_images_of_the_parent_are_not_held_out(photos_run):
    for fields in ({"data.split_seed": 1}, {"data.validation": 0.5}):
        with pytest.raises(UserError, match=r"held out: use at most its --data\.validation 0\.2"):
            student(photos_run, fields=fields)
    small = load(student(photos_run, fields={"data.validation": 0.1}))
    held_out = open_run_images(load(photos_run)).validation
    assert set(open_run_images(small).validation) < set(held_out)


def test_students_with_other_seeds_hold_out_the_same_images(photos_run):
    """So three students of one teacher can be compared."""
    second = load(student(photos_run, fields={"seed": 1}))
    assert (second.recipe.seed, second.recipe.data.split_seed) == (1, 0)
    third = load(tiny.train(replace(second.recipe, seed=5), photos_run.parent / "third", source=photos_run))
    free = load(tiny.train(short(seed=5), photos_run.parent / "free", "photos"))
    held_out = [open_run_images(run).validation.tolist() for run in (load(photos_run), second, third, free)]
    assert held_out[0] == held_out[1] == held_out[2] != held_out[3]
