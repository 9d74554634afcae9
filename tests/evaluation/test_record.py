"""Reading the record of an evaluation."""

import json

import pytest

from ddim.errors import UserError
from ddim.evaluation.record import list_evaluations, read_evaluation
from stubs import RECORD, SAMPLING, evaluation, record, written


def test_fid_infinity_is_a_separate_metric_with_an_interval_and_fid_has_none():
    found = evaluation()
    assert (found.value("fid"), found.interval("fid")) == (30.0, None)
    assert (found.value("fid_infinity"), found.interval("fid_infinity")) == (25.0, (20.0, 30.0))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({}, "ddim, 2 steps, 2 NFE"),
        ({"sampler_name": "edm order 2", "nfe": 3}, "edm order 2, 2 steps, 3 NFE"),
        ({"weights": "0.99"}, "ddim, 2 steps, 2 NFE, 0.99 weights"),
        ({"label": 3, "class": "cat", "guidance": 1.5}, "ddim, 2 steps, 2 NFE, label cat, guidance 1.5"),
        ({"label": "all"}, "ddim, 2 steps, 2 NFE, label all"),
        ({"label": "natural", "recipe": {"data": {"labels": "clusters:4"}}}, "ddim, 2 steps, 2 NFE"),
        ({"label": None, "recipe": {"data": {"labels": "clusters:4"}}}, "ddim, 2 steps, 2 NFE, label none"),
        ({"label": None, "recipe": {"data": {"vectors": "a.csv"}}}, "ddim, 2 steps, 2 NFE, label none"),
    ],
)
def test_an_evaluation_is_named_after_how_its_samples_were_made(changes, name):
    assert evaluation(sampling={**SAMPLING, **changes}).name == name


def test_an_evaluation_of_images_is_named_after_their_folder():
    assert evaluation(generated__source="/data/mine").name == "images of mine"


@pytest.mark.parametrize("source", ["/home/ada/mine", "C:\\Users\\ada\\mine"])
def test_the_reference_is_named_without_its_folders(source):
    assert evaluation(reference__source=source).reference.name.endswith(" of mine")


def test_the_newest_complete_evaluation_of_a_run_is_read(tmp_path):
    for n in (1, 2, 9, 10):
        written(tmp_path / "evaluations" / str(n), generated__source=f"number {n}")
    (tmp_path / "evaluations" / "11").mkdir()
    (tmp_path / "evaluations" / ".tmp-77-evaluation").mkdir()
    assert read_evaluation(tmp_path).record["generated"]["source"] == "number 10"
    assert [folder.name for folder in list_evaluations(tmp_path)] == ["1", "2", "9", "10"]
    folder = tmp_path / "evaluations" / "2"
    assert read_evaluation(folder).record == read_evaluation(folder / "record.json").record
    assert read_evaluation(folder).folder == folder


SOUND = json.dumps(RECORD)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "is damaged: it is not JSON"),
        (SOUND.replace("0.02", "NaN", 1), "is damaged: "),
        (json.dumps(record(schema=2)), "schema 2, but this version reads schema 1: a newer ddim wrote it"),
        (json.dumps(record(metrics__kid__value="1")), "is damaged: metrics.kid.value is not a number"),
        (json.dumps(record(sampling=SAMPLING | {"seeds": ["a", 1]})), "sampling.seeds is missing or of a"),
    ],
)
def test_a_file_that_is_no_record_is_refused_in_one_sentence(text, sentence, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_evaluation(file)
    assert sentence in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_a_run_is_read(tmp_path):
    assert read_evaluation(written(tmp_path / "one", sampling=SAMPLING)).record["sampling"] == SAMPLING
    # Other programs write 1.0 as 1.
    whole = SAMPLING | {"times": [1, 0.5]}
    assert read_evaluation(written(tmp_path / "two", sampling=whole)).record["sampling"] == whole
