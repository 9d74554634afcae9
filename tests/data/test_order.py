"""The order, the flips and the split: functions of their arguments."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ddim.data.order import draw_flips, select_indices, shuffle_epoch, split_indices

SEEDS = st.integers(0, 2**32 - 1)


@given(n=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_an_epoch_shows_every_image_once(n, seed, epoch):
    assert sorted(shuffle_epoch(n, seed, epoch)) == list(range(n))


def test_epochs_and_seeds_have_different_orders():
    orders = [shuffle_epoch(100, seed, epoch).tolist() for seed in (0, 1, 2**32 - 1) for epoch in (0, 1, 2)]
    assert len({tuple(found) for found in orders}) == len(orders)


@given(n=st.integers(1, 40), seed=SEEDS, first=st.integers(0, 500), count=st.integers(0, 200))
def test_positions_run_through_the_epochs_end_to_end(n, seed, first, count):
    expected = [shuffle_epoch(n, seed, place // n)[place % n] for place in range(first, first + count)]
    assert select_indices(n, seed, first, count).tolist() == expected


@given(
    n=st.integers(1, 40),
    seed=SEEDS,
    first=st.integers(0, 300),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
)
@pytest.mark.parametrize("stream", [select_indices, draw_flips])
def test_values_do_not_depend_on_the_batch_size(stream, n, seed, first, counts):
    starts = first + np.cumsum([0, *counts])
    parts = [stream(n, seed, int(start), count) for start, count in zip(starts, counts, strict=False)]
    np.testing.assert_array_equal(np.concatenate(parts), stream(n, seed, first, sum(counts)))


def test_an_image_is_mirrored_in_some_epochs_and_not_in_others():
    n, epochs = 20, 64
    shown, mirrored = select_indices(n, 5, 0, n * epochs), draw_flips(n, 5, 0, n * epochs)
    for image in range(n):
        assert 0.2 < mirrored[shown == image].mean() < 0.8
    assert (draw_flips(100, 0, 0, 100) != draw_flips(100, 1, 0, 100)).any()
    assert abs(draw_flips(1000, 0, 0, 100_000).mean() - 0.5) < 0.01


@given(n=st.integers(2, 500), fraction=st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5]), seed=SEEDS)
def test_training_and_validation_indices_are_disjoint_and_complete(n, fraction, seed):
    train, valid = split_indices(n, fraction, seed)
    assert sorted([*train, *valid]) == list(range(n))
    assert list(train) == sorted(train)
    assert list(valid) == sorted(valid)
    assert abs(len(valid) - fraction * n) <= 1
    assert len(valid) > 0


def test_the_split_depends_on_the_seed_not_on_the_order_of_files():
    first, again, other = (split_indices(1000, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 80
    assert abs(first.mean() - 500) < 100
    assert [*map(len, split_indices(8189, 0.2, 1))] == [6551, 1638]  # as in the torch/luz repository
