"""The record of an evaluation: how it is read, what it says, and what may be compared."""

import json
import re

import pytest

from ddim.errors import UserError
from ddim.evaluation.record import read_evaluation, why_not_comparable
from ddim.metrics.catalogue import METRICS
from stubs import RECORD, SAMPLING, evaluation, record, written


def test_fid_infinity_is_a_separate_metric_with_an_interval_and_fid_has_none():
    found = evaluation()
    assert (found.value("fid"), found.interval("fid")) == (30.0, None)
    assert (found.value("fid_infinity"), found.interval("fid_infinity")) == (25.0, (20.0, 30.0))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({}, "ddim, 2 steps, 2 NFE"),
        ({"weights": "0.99"}, "ddim, 2 steps, 2 NFE, 0.99 weights"),
        ({"label": 3, "class": "cat", "guidance": 1.5}, "ddim, 2 steps, 2 NFE, label cat, guidance 1.5"),
        ({"label": "natural", "recipe": {"data": {"labels": "clusters:4"}}}, "ddim, 2 steps, 2 NFE"),
        ({"label": None, "recipe": {"data": {"vectors": "a.csv"}}}, "ddim, 2 steps, 2 NFE, label none"),
    ],
)
def test_an_evaluation_is_named_after_how_its_samples_were_made(changes, name):
    assert evaluation(sampling={**SAMPLING, **changes}).name == name


@pytest.mark.parametrize("source", ["/home/ada/mine", "C:\\Users\\ada\\mine"])
def test_the_reference_is_named_without_its_folders(source):
    assert evaluation(reference__source=source).reference.name == "500 held-out images of mine"


@pytest.mark.parametrize("text", ["", json.dumps(record(kind="samples"))])
def test_a_file_that_is_no_record_is_refused_by_its_name(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=str(tmp_path / "record.json")):
        read_evaluation(tmp_path)


def real(kid, precision=0.9, images=400):
    """Return the yardstick of a record: the metrics of real images."""
    metrics = {**RECORD["metrics"], "kid": {"value": kid, "low": kid - 0.001, "high": kid + 0.001}}
    metrics |= {"precision": {"value": precision}, "coverage": {"value": 0.9}}
    return {"images": images, "part": "train", "metrics": metrics}


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({"yardstick": real(0.015)}, "close to real images: 50% of these images look real, and 90% of"),
        ({"yardstick": real(0.001)}, "still clearly different from real images: 50% of these"),
        ({"yardstick": real(0.001, 0.6, 300)}, "close to real images: 50%"),
        ({"yardstick": real(0.001, 0.6)}, "still clearly different from real images: 50% of the real images"),
        ({"yardstick": real(0.015), "reference__images": 65}, "65 images are too few to say whether"),
        ({"yardstick": real(0.001), "reference__images": 65}, "still clearly different from real images: K"),
        ({}, "still different from real images: 50% of these images look real; how many other"),
    ],
)
def test_the_verdict_compares_with_other_real_images(changes, verdict):
    """The KID is 0.02 from 0.01 to 0.03, precision and coverage are 0.5."""
    assert evaluation(**changes).verdict.startswith(verdict)


def test_small_values_keep_their_digits():
    found = evaluation(metrics__kid={"value": 0.000123, "low": -0.0001, "high": 0.000346})
    assert "0.000123" in repr(found)
    assert "0.00012 ± 0.00022" in found.details


def test_a_record_is_found_in_its_folder_and_the_newest_one_in_a_run(tmp_path):
    folders = [written(tmp_path / "evaluations" / str(k), sampling=SAMPLING | {"nfe": k}) for k in (9, 10)]
    for path in (folders[1] / "record.json", folders[1], tmp_path):
        assert (read_evaluation(path).nfe, read_evaluation(path).folder) == (10, folders[1])


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"features__weights": "v" * 64}, "features: stub .*wwwwwwww.* and .*vvvvvvvv"),
        ({"reference__sha256": "q"}, "the 500 .* are not the same for both, .*: evaluate both with part all"),
        ({"reference__sha256": "q", "reference__fingerprint": "e"}, "different reference: .*ff.* and .*e"),
        ({"generated__images": 19}, "19 images are too few to rank by KID, which needs at least 20$"),
        ({"metrics": {}}, "runs/a has no KID"),
    ],
)
def test_why_evaluations_are_not_comparable_is_one_sentence_either_way(changes, sentence):
    why = why_not_comparable(evaluation(), evaluation(**changes), "kid")
    assert re.search(sentence, why)
    assert why_not_comparable(evaluation(**changes), evaluation(), "kid") is not None


@pytest.mark.parametrize("metric", METRICS)
def test_biased_metrics_need_equal_numbers_of_samples(metric):
    """KID is unbiased (Binkowski et al. 2018); FID-infinity is extrapolated."""
    unbiased = metric in ("kid", "fid_infinity")
    why = None if unbiased else "different numbers of samples: 400 and 300"
    assert why_not_comparable(evaluation(), evaluation(generated__images=300), metric) == why


@pytest.mark.parametrize(
    "changes, metric, start",
    [
        ({"reference__images": 65}, "kid", None),
        ({"reference__images": 65}, "precision", "65 images are too few to rank by precision"),
        # With fewer images than features, the covariance is singular.
        ({"features__dimensions": 401}, "fid", "400 images are too few to rank by FID"),
        ({"features__dimensions": 400}, "fid", None),
    ],
)
def test_each_metric_needs_its_number_of_images(changes, metric, start):
    why = why_not_comparable(evaluation(**changes), evaluation(**changes), metric)
    assert why is None if start is None else why.startswith(start)
    assert why is None or "with part all" in why or changes.get("reference__images") != 65
