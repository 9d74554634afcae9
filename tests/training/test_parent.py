"""New runs that start from the weights of another run: their images, split, labels and processes."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import ddim
import tiny
from ddim.cli import main
from ddim.errors import Notice, UserError
from ddim.recipe.named_recipes import find_recipe
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load, read_run_recipe
from ddim.training import distill, resume
from ddim.training.parent import hold_out_alike
from ddim.training.request import Request
from ddim.training.shared_settings import check_same_parent

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
    made = Request("smoke", {"images": "16"}, source=parent).build_recipe()
    assert made.data == hold_out_alike(made, tiny.recipe()).data == read_run_recipe(parent).data
    assert made.net == find_recipe("smoke", made.data.size).net
    assert Request("smoke", {"data.source": "photos"}, source=parent).build_recipe().data != made.data


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


def test_a_class_keeps_its_place_in_the_network(tmp_path):
    def write(folder, names):
        for k, name in enumerate(names):
            tiny.write_grays(tmp_path / folder / name, range(20 * k, 20 * k + 12))

    write("photos", ["cat", "dog"])
    write("renamed", ["bird", "cat"])
    write("others", ["lion", "tiger"])
    recipe = tiny.recipe("group norm", data__labels=True, images=16)
    first = tiny.train(recipe, tmp_path / "first", str(tmp_path / "photos"))
    with pytest.raises(UserError, match="whose class 0 is 'cat', but in these images it is class 1: give"):
        tiny.train(recipe, tmp_path / "second", str(tmp_path / "renamed"), source=first)
    tiny.train(recipe, tmp_path / "third", str(tmp_path / "others"), source=first)


def test_vectors_are_scaled_as_in_the_run_whose_weights_are_used(tmp_path):
    rows = np.random.default_rng(0).normal(size=(24, 2))
    np.save(tmp_path / "grays.npy", np.full((24, 16, 16, 1), 99, np.uint8))

    def write(name, rows):
        (tmp_path / name).write_text("a,b\n" + "".join(f"{a!r},{b!r}\n" for a, b in rows.tolist()))
        fields = {"data__size": 16, "data__vectors": str(tmp_path / name), "images": 16}
        return tiny.recipe(**fields), str(tmp_path / "grays.npy")

    recipe, images = write("one.csv", rows)
    first = tiny.train(recipe, tmp_path / "first", images)
    recipe, images = write("two.csv", 5 + 3 * rows)
    second = load(tiny.train(recipe, tmp_path / "second", images, source=first)).vectors
    known = load(first).vectors
    assert np.array_equal(second.mean, known.mean)
    assert np.array_equal(second.deviation, known.deviation)
    assert np.allclose(second.standardise(5 + 3 * rows) * known.deviation + known.mean, 5 + 3 * rows)


def test_images_given_from_python_are_given_again_to_the_student(tmp_path):
    pixels = tiny.images().pixels
    first = tiny.train(tiny.recipe(images=16), tmp_path / "first", pixels)
    found = load(distill(first, pixels.copy(), images=16, out=tmp_path / "student", machine=tiny.MACHINE))
    assert found.checkpoint.state.images == load(first).checkpoint.state.images
    assert ddim.sample(found, n=2).shape == (2, 3, 32, 32)


def test_processes_with_other_guides_or_weights_are_refused(tmp_path, monkeypatch):
    run = tiny.training(tiny.recipe())
    parent = SimpleNamespace(checkpoint=SimpleNamespace(run="runs/one"))
    checked = []
    monkeypatch.setattr("ddim.training.shared_settings.check_same_weights", checked.append)
    check_same_parent(run, None)
    check_same_parent(run, parent)
    assert checked == [parent]
    run.processes = SimpleNamespace(rank=0, gather=lambda mine: [mine, ((2.0, None), None)])
    with pytest.raises(
        UserError, match="process 1 has another guide of runs/one, or other saved guidance, than"
    ):
        check_same_parent(run, parent)


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


def test_vectors_of_other_columns_keep_their_own_scale(tmp_path):
    rows = np.random.default_rng(0).normal(size=(24, 2))
    np.save(tmp_path / "grays.npy", np.full((24, 16, 16, 1), 99, np.uint8))
    found = {}
    for name, head in {"one": "a,b", "two": "a,c"}.items():
        text = "".join(f"{a!r},{b!r}\n" for a, b in (rows if name == "one" else 9 * rows).tolist())
        (tmp_path / f"{name}.csv").write_text(f"{head}\n{text}")
        fields = {"data__size": 16, "data__vectors": str(tmp_path / f"{name}.csv"), "images": 16}
        source = tmp_path / "one" if name == "two" else None
        images = str(tmp_path / "grays.npy")
        found[name] = load(tiny.train(tiny.recipe(**fields), tmp_path / name, images, source=source)).vectors
    assert np.allclose(found["two"].deviation, 9 * found["one"].deviation)


def test_a_teacher_without_labels_takes_labelled_images(tmp_path):
    pairs = TensorDataset(torch.from_numpy(tiny.images().pixels), torch.arange(40) % 4)
    first = tiny.train(tiny.recipe("group norm", images=16), tmp_path / "first", pairs, labels=False)
    found = load(distill(first, pairs, images=16, out=tmp_path / "student", machine=tiny.MACHINE))
    assert not found.recipe.data.labels
