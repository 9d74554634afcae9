"""R6: damaged checkpoints, documents and caches are named, and none is believed."""

import pytest

from damages import damage_all


@pytest.mark.parametrize(
    ("checkpoints", "documents"), [(15, 10), pytest.param(150, 100, marks=pytest.mark.slow)]
)
def test_no_damaged_file_is_believed(checkpoints, documents, tmp_path):
    report = damage_all(tmp_path, checkpoints, documents)
    assert report.pop("faults") == []
    assert report.pop("checkpoints") == {"named": checkpoints}
    assert report.pop("features") == {"harmless": documents}
    assert all(found.total() == documents for found in report.values())
    assert report["sweep.json"]["named"] > documents / 2
