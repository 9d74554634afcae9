"""Runs that are conditioned on vectors: training, resume, samples, guidance, and what is refused."""

import json

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.evaluation.likelihood import likelihood
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import draw_vectors, find_vectors
from ddim.sampling.pipeline import load
from ddim.sampling.samples import sample_to_folder

RNG = np.random.default_rng(5)
VECTORS = np.stack([RNG.uniform(40, 220, 24), RNG.normal(size=24)], axis=1)
GRAYS = np.rint(VECTORS[:, 0]).astype(np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A file of gray images, and a CSV file with their gray level and a number without meaning."""
    folder = tmp_path_factory.mktemp("given")
    np.save(folder / "grays.npy", GRAYS)
    lines = "\n".join(f"{level!r},{other!r}" for level, other in VECTORS.tolist())
    (folder / "grays.csv").write_text(f"level,other\n{lines}\n")
    return folder


def recipe(given, **changes):
    fields = {"data__size": 16, "data__vectors": str(given / "grays.csv"), "report__guide": 0.5}
    return tiny.recipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def run(given):
    return tiny.train(recipe(given, optim__lr=1e-2), given / "run", str(given / "grays.npy"))


def test_the_run_knows_its_vectors(run):
    pipeline = load(run)
    assert pipeline.vectors.columns == ("level", "other")
    assert np.array_equal(pipeline.vectors.rows, VECTORS)
    assert pipeline.model.vector == pipeline.recipe.net.vector == 2
    train = VECTORS[pipeline.vectors.train]
    assert np.allclose(pipeline.vectors.mean, train.mean(0))
    assert json.loads((run / "run.json").read_text())["data"]["vectors"]["columns"] == ["level", "other"]


def test_a_guided_student_with_other_columns_than_its_teacher_is_refused(given, run, tmp_path):
    text = (given / "grays.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace("level,other", "other,level"))
    fields = {"optim.warmup": 0, "data.vectors": str(tmp_path / "other.csv")}
    with pytest.raises(UserError, match="vectors of the run of --from"):
        ddim.distill(run, images=16, guidance=2.0, fields=fields, out=tmp_path / "run", machine=tiny.MACHINE)


def test_a_run_with_vectors_resumes_exactly_without_its_file(given, run, tmp_path):
    chosen = recipe(given, optim__lr=1e-2, data__vectors=str(tmp_path / "moved.csv"))
    (tmp_path / "moved.csv").write_text((given / "grays.csv").read_text())
    cut = tiny.train_until_crash(chosen, tmp_path / "cut", tiny.CrashAtSave(1), data=str(given / "grays.npy"))
    (tmp_path / "moved.csv").unlink()
    ddim.resume(cut, progress=False)
    tiny.check_same_run(cut, run, files=4)


def test_samples_depend_on_seed_and_vector_alone(run):
    pipeline = load(run)
    rows = np.array([[60.0, 0.1], [200.0, -0.4], [90.0, 0.0]])
    together = ddim.sample(pipeline, seeds=[4, 9, 2], vector=rows, progress=False)
    for k, seed in enumerate([4, 9, 2]):
        alone = ddim.sample(pipeline, seeds=[seed], vector=rows[k], progress=False)
        assert torch.equal(alone[0], together[k])
    other = ddim.sample(pipeline, seeds=[4], vector=rows[1], progress=False)
    assert not torch.equal(other[0], together[0])
    guided = ddim.sample(pipeline, seeds=[4], vector=rows[0], guidance=3, progress=False)
    assert not torch.equal(guided[0], together[0])
    none = ddim.sample(pipeline, seeds=[4], label="none", progress=False)
    assert not torch.equal(none[0], together[0])


def test_by_default_vectors_are_those_of_training_images(run):
    pipeline = load(run)
    drawn = draw_vectors(range(2000), pipeline.vectors).numpy()
    known = pipeline.vectors.standardise(VECTORS[pipeline.vectors.train])
    counts = [(drawn == row).all(1).sum() for row in known]
    assert (sum(counts), max(counts) - min(counts) < 200 / len(known)) == (2000, True)
    default = ddim.sample(pipeline, seeds=[7], progress=False)
    row = drawn[7] * pipeline.vectors.deviation + pipeline.vectors.mean
    assert torch.allclose(ddim.sample(pipeline, seeds=[7], vector=row, progress=False), default, atol=1e-4)


def test_folders_of_samples_record_their_vectors(run, given, tmp_path):
    pipeline = load(run)
    label = find_vectors(str(given / "grays.csv"), range(24), pipeline.vectors)
    assert np.allclose(label.rows, VECTORS)
    few, options = label.rows[:3], {"n": 3, "steps": 2, "out": tmp_path / "out"}
    written = sample_to_folder(pipeline, vector=few, **options)
    assert json.loads((written.folder / "record.json").read_text())["label"]["1"] == list(few[1])
    assert sample_to_folder(pipeline, vector=few, **options).made == 0
    with pytest.raises(UserError, match="holds samples with other label"):
        sample_to_folder(pipeline, vector=few[0], **options)


def test_likelihoods_condition_only_the_images_of_the_run_on_vectors(given, tmp_path):
    chosen = recipe(given, schedule__max_signal=0.9999, images=8)
    run = load(tiny.train(chosen, tmp_path / "run", str(given / "grays.npy")))
    vectors = open_run_images(run).images.vectors
    found = likelihood(run, n=3, steps=2, progress=False).record["reference"]
    assert np.allclose(found["labels"], vectors[found["images"]])
    found = likelihood(run, str(given / "grays.npy"), n=3, steps=2, progress=False).record["reference"]
    assert found["labels"] is None


def test_the_command_takes_a_vector_that_begins_with_a_minus(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sample", str(run), "-n", "1", "--steps", "2", "--out", "out"]
    assert main([*words, "--vector", "-3.5,1"]) == 0
    assert json.loads((tmp_path / "out" / "record.json").read_text())["label"] == [-3.5, 1.0]
