"""KID of distorted real images: the table of the benchmark, on a few blossoms."""

import numpy as np
import pytest

from ddim.data import open_images
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid
from distortions import distorted


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    blossoms = open_images("blossoms:24", (64, 64), 3, cache=tmp_path_factory.mktemp("cache")).pixels
    rows = {}
    for name, _, found, reference in distorted(load_extractor(), np.array(blossoms)):
        rows.setdefault(name, []).append(kid(found, reference, subsets=1))
    return rows


@pytest.mark.slow
def test_kid_of_two_halves_of_real_images_is_not_distinguishable_from_zero(table):
    (halves,) = table["none"]
    assert halves.low < 0 < halves.high


@pytest.mark.slow
def test_kid_rises_with_the_strength_of_each_distortion(table):
    (halves,) = table["none"]
    kinds = [rows for name, rows in table.items() if name != "none"]
    assert [len(rows) for rows in kinds] == [3] * 4
    for rows in kinds:
        values = [row.value for row in rows]
        assert values == sorted(values)
        assert rows[-1].low > halves.high
