"""Runs that are conditioned on vectors: training, resume, samples, guidance, and what is refused."""

import json

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.sampling.pipeline import load

RNG = np.random.default_rng(5)
VECTORS = np.stack([RNG.uniform(40, 220, 24), RNG.normal(size=24)], axis=1)
GRAYS = np.rint(VECTORS[:, 0]).astype(np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A file of gray images, and a CSV file with their gray level and a number without meaning."""
    folder = tmp_path_factory.mktemp("given")
    np.save(folder / "grays.npy", GRAYS)
    write_rows(folder / "grays.csv", VECTORS)
    return folder


def write_rows(file, rows, header="level,other"):
    file.write_text("\n".join([header, *(f"{one!r},{other!r}" for one, other in rows.tolist())]))
    return str(file)


def recipe(given, **changes):
    fields = {"data__size": 16, "data__vectors": str(given / "grays.csv"), "report__guide": 0.5}
    return tiny.recipe(**{**fields, **changes})


@pytest.fixture(scope="module")
def run(given):
    return tiny.train(recipe(given, optim__lr=1e-2), given / "run", str(given / "grays.npy"))


def test_a_guided_student_with_other_columns_than_its_teacher_is_refused(given, run, tmp_path):
    fields = {"data.vectors": write_rows(tmp_path / "other.csv", VECTORS, "other,level")}
    with pytest.raises(UserError, match="vectors of its teacher, the run of --from"):
        ddim.distill(run, images=16, guidance=2.0, fields=fields, out=tmp_path / "run", machine=tiny.MACHINE)


def test_a_run_knows_its_vectors_and_resumes_exactly_without_their_file(given, run, tmp_path):
    vectors = load(run).vectors
    assert (vectors.columns, load(run).model.vector) == (("level", "other"), 2)
    assert np.array_equal(vectors.rows, VECTORS)
    assert np.allclose(vectors.mean, VECTORS[vectors.train].mean(0))
    chosen = recipe(given, optim__lr=1e-2, data__vectors=write_rows(tmp_path / "moved.csv", VECTORS))
    cut = tiny.train_until_crash(chosen, tmp_path / "cut", tiny.CrashAtSave(1), data=str(given / "grays.npy"))
    (tmp_path / "moved.csv").unlink()
    ddim.resume(cut, progress=False)
    tiny.check_same_run(cut, run)


def test_samples_depend_on_seed_and_vector_alone(run):
    pipeline, rows = load(run), np.array([[60.0, 0.1], [200.0, -0.4], [90.0, 0.0]])
    together = ddim.sample(pipeline, seeds=[4, 9, 2], vector=rows, progress=False)
    for k, seed in enumerate([4, 9, 2]):
        alone = ddim.sample(pipeline, seeds=[seed], vector=rows[k], progress=False)
        assert torch.equal(alone[0], together[k])
    for options in ({"vector": rows[1]}, {"vector": rows[0], "guidance": 3}, {"label": "none"}):
        other = ddim.sample(pipeline, seeds=[4], progress=False, **options)
        assert not torch.equal(other[0], together[0])


@pytest.mark.parametrize(("columns", "scale"), [("level,other", 1), ("level,more", 9)])
def test_vectors_of_the_same_columns_are_scaled_as_in_the_run_whose_weights_are_used(
    columns, scale, given, run, tmp_path
):
    chosen = recipe(given, images=8, data__vectors=write_rows(tmp_path / "v.csv", 9 * VECTORS, columns))
    found = load(tiny.train(chosen, tmp_path / "run", str(given / "grays.npy"), source=run)).vectors
    known = load(run).vectors
    assert np.allclose(found.deviation, scale * known.deviation)
    assert np.allclose(found.mean, scale * known.mean)


def test_the_command_takes_vectors_and_records_them(run, given, here):
    words = ["sample", str(run), "-n", "24", "--steps", "2", "--out"]
    # A vector may begin with a minus.
    assert main([*words, "out", "--vector", "-3.5,1"]) == 0
    assert json.loads((here / "out" / "record.json").read_text())["label"] == [-3.5, 1.0]
    assert main([*words, "rows", "--vector", str(given / "grays.csv")]) == 0
    assert json.loads((here / "rows" / "record.json").read_text())["label"]["1"] == VECTORS[1].tolist()
    # The folder already holds samples with other vectors.
    assert main([*words, "rows", "--vector", "-3.5,1"]) == 2
