"""Every class of bad images, and fuzzed files: each file is used, or listed with its reason."""

import pytest

from cases import mark_slow
from image_classes import CLASSES, run_classes


def test_there_are_25_classes():
    assert len(CLASSES) >= 25


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("each", "fuzzed"), mark_slow([(1, 60), (20, 1000)], lambda case: case[0] == 1))
def test_every_file_of_every_class_is_used_or_listed(each, fuzzed, tmp_path):
    report = run_classes(tmp_path, each, fuzzed)
    assert report["faults"] == []
    assert report["fuzzed"] == fuzzed
    assert report["used"] >= 8 * each
