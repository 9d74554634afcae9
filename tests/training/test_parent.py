"""New runs that start from the weights of another run: their images, split, labels and processes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import ddim
import tiny
from ddim.cli import main
from ddim.errors import Notice, UserError
from ddim.recipe.named import find_recipe
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.training import distill, resume
from ddim.training.request import choose_recipe
from ddim.training.start import hold_out_alike

FIELDS = {"optim.warmup": 0, "images": 16}


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """A run on `photos/`, which its recipe names relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    tiny.write_grays(tmp_path / "photos", range(0, 256, 8))
    return tiny.train(tiny.recipe(images=16), tmp_path / "runs" / "one", "photos")


def student(parent, name="student", **options):
    fields = {**FIELDS, **options.pop("fields", {})}
    return distill(parent, fields=fields, out=parent.parent / name, machine=tiny.MACHINE, **options)


def test_a_student_has_the_images_of_its_teacher_wherever_they_are(parent, tmp_path, monkeypatch):
    tiny.write_grays(tmp_path / "else" / "photos", range(1, 256, 8))
    monkeypatch.chdir(tmp_path / "else")
    wanted = load(parent).checkpoint.state.images
    assert load(student(parent)).checkpoint.state.images == wanted
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    resume(parent, data=str(tmp_path / "moved"))
    assert load(student(parent, "second")).checkpoint.state.images == wanted
    main(["train", "--from", str(parent), "--out", "third", "--images", "16", "--no-compile"])
    assert load("third").checkpoint.state.images == wanted


def test_a_run_from_weights_has_the_recipe_of_these_weights_by_default(tmp_path):
    chosen = tiny.recipe(schedule="linear_path", predicts="flow", images=16)
    parent = tiny.train(chosen, tmp_path / "one")
    child = ddim.train(source=parent, images=32, out=tmp_path / "two", machine=tiny.MACHINE, progress=False)
    assert read_run_recipe(child) == replace(hold_out_alike(chosen, chosen), images=32)


def test_a_named_recipe_trains_on_the_images_of_the_run_it_starts_from(parent):
    recipe = choose_recipe("smoke", None, {"images": 16}, parent)
    assert recipe.data == hold_out_alike(recipe, tiny.recipe()).data == read_run_recipe(parent).data
    assert recipe.net == find_recipe("smoke", recipe.data.size).net
    assert choose_recipe("smoke", "photos", {}, parent).data != recipe.data


def test_weights_that_get_another_meaning_are_named(parent, tmp_path):
    options = {"source": parent, "machine": tiny.MACHINE, "progress": False}
    with pytest.warns(Notice, match="trained with another schedule, so they must learn a new task"):
        ddim.train("photos", recipe=tiny.recipe(schedule="linear_path", images=16), **options)
    # Another budget or sampler gives them no other meaning; a warning would be an error here.
    ddim.train("photos", recipe=tiny.recipe(images=32, sampler="ddim"), **options)


def test_a_student_is_not_trained_on_changed_or_missing_images(parent, tmp_path):
    tiny.write_grays(tmp_path / "more", [3])
    shutil.move(tmp_path / "more" / "0.png", "photos/new.png")
    with pytest.raises(UserError, match="has changed since .* was trained on it: put its images back"):
        student(parent)
    shutil.rmtree("photos")
    with pytest.raises(UserError, match="do not exist, seen from"):
        student(parent)
    assert [path.name for path in parent.parent.iterdir()] == ["one"]
    tiny.write_grays(tmp_path / "others", range(1, 256, 8))
    assert load(student(parent, data="others")).recipe.data.source == "others"


def test_training_images_of_the_parent_are_not_held_out(parent):
    for fields in ({"data.split_seed": 1}, {"data.validation": 0.5}):
        with pytest.raises(
            UserError, match=r"held out, .*: use at most its --data\.validation 0\.2 and no other"
        ):
            student(parent, fields=fields)
    larger = tiny.recipe(images=16, data__size=64, data__validation=0.4)
    with pytest.raises(UserError, match="would be held out"):
        tiny.train(larger, parent.parent / "larger", "photos", source=parent)
    small = load(student(parent, fields={"data.validation": 0.1}))
    held_out = open_run_images(load(parent)).validation
    assert set(open_run_images(small).validation) < set(held_out)


def test_images_given_from_python_are_given_again_to_the_student(tmp_path):
    pixels = tiny.images().pixels
    first = tiny.train(tiny.recipe(images=16), tmp_path / "first", pixels)
    found = load(distill(first, pixels.copy(), images=16, out=tmp_path / "student", machine=tiny.MACHINE))
    assert found.checkpoint.state.images == load(first).checkpoint.state.images
    assert ddim.sample(found, n=2).shape == (2, 3, 32, 32)


def test_students_with_other_seeds_hold_out_the_same_images(parent):
    """So three students of one teacher can be compared."""
    second = load(student(parent, fields={"seed": 1}))
    assert (second.recipe.seed, second.recipe.data.split_seed) == (1, 0)
    for name in ("validation", "train"):
        one, other = (getattr(open_run_images(run), name) for run in (load(parent), second))
        assert np.array_equal(one, other)
    third = load(tiny.train(replace(second.recipe, seed=5), parent.parent / "third", source=parent))
    assert third.recipe.split_seed == 0
    free = tiny.train(tiny.recipe(seed=5, images=16), parent.parent / "free", "photos")
    assert not np.array_equal(open_run_images(load(free)).validation, open_run_images(third).validation)


def test_a_teacher_without_labels_takes_labelled_images(tmp_path):
    pairs = TensorDataset(torch.from_numpy(tiny.images().pixels), torch.arange(40) % 4)
    first = tiny.train(tiny.recipe("group norm", images=16), tmp_path / "first", pairs, labels=False)
    found = load(distill(first, pairs, images=16, out=tmp_path / "student", machine=tiny.MACHINE))
    assert not found.recipe.data.labels


@pytest.mark.parametrize("columns", ["a,b", "a,c"])
def test_vectors_of_the_same_columns_are_scaled_as_in_the_run_whose_weights_are_used(columns, tmp_path):
    rows = np.random.default_rng(0).normal(size=(24, 2))
    np.save(tmp_path / "grays.npy", np.full((24, 16, 16, 1), 99, np.uint8))

    def train(name, columns, rows, source=None):
        text = "".join(f"{a!r},{b!r}\n" for a, b in rows.tolist())
        (tmp_path / f"{name}.csv").write_text(f"{columns}\n{text}")
        recipe = tiny.recipe(data__size=16, data__vectors=str(tmp_path / f"{name}.csv"), images=16)
        return tiny.train(recipe, tmp_path / name, str(tmp_path / "grays.npy"), source=source)

    first = train("one", "a,b", rows)
    known, found = load(first).vectors, load(train("two", columns, 5 + 9 * rows, first)).vectors
    scale, shift = (1, 0) if columns == "a,b" else (9, 5)
    assert np.allclose(found.deviation, scale * known.deviation)
    assert np.allclose(found.mean, scale * known.mean + shift)
    assert np.allclose(found.standardise(5 + 9 * rows) * found.deviation + found.mean, 5 + 9 * rows)
