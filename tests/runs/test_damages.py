"""R6: damaged checkpoints, documents and caches are named, and none is believed."""

import pytest

from damages import damage_cache, damage_caches, damage_checkpoints, damage_documents, failures


@pytest.mark.parametrize("count", [15, pytest.param(150, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(count, tmp_path):
    found = damage_checkpoints(tmp_path, count)
    assert failures({"checkpoints": found}) == 0
    assert found.total() == count


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_no_damaged_document_is_believed(count, tmp_path):
    report = damage_documents(tmp_path, count)
    assert failures(report) == 0
    assert all(found.total() == count for found in report.values())
    # What a killed process can leave of a log is no damage.
    assert {name for name, found in report.items() if found["shorter"]} <= {"metrics.jsonl"}


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_no_damaged_file_of_the_cache_is_believed(count, tmp_path):
    found = damage_cache(tmp_path, count)
    assert failures({"cache": found}) == 0
    assert found.total() == count


@pytest.mark.parametrize("count", [12, pytest.param(120, marks=pytest.mark.slow)])
def test_no_damaged_note_feature_or_average_is_believed(count, tmp_path):
    report = damage_caches(tmp_path, count)
    assert failures(report) == 0
    assert all(found.total() == count for found in report.values())
    assert report["features"] == {"not used": count}
