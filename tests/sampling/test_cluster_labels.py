"""Clusters as labels: in recipes, and the classes of samples."""

import numpy as np
import pytest
from scipy import stats

import tiny
from ddim.data.clusters import Clusters
from ddim.errors import UserError
from ddim.evaluation.conditions import _sampling
from ddim.evaluation.record_entries import parse_sampling
from ddim.recipe.checks import check_training
from ddim.recipe.codec import dump, load_recipe, override, read_recipe, write_recipe
from ddim.recipe.help import explain_field
from ddim.recipe.recipe import Data
from ddim.sampling.classes import assign_labels, draw_class, find_label
from ddim.sampling.recipe_checks import check_label
from stubs import SAMPLING

COUNTS = (500, 260, 120, 61, 9)
"""Training images of each class."""

CLUSTERED = override(tiny.BASE, {"data.labels": "clusters:5"})


# --- recipes ------------------------------------------------------------------------------------------------


def test_a_recipe_holds_the_number_of_clusters_and_files_hold_its_text(tmp_path):
    assert CLUSTERED.data.labels == Clusters(5) == Data(labels="clusters:5").labels
    assert dump(CLUSTERED)["data"]["labels"] == "clusters:5"
    assert load_recipe(dump(CLUSTERED)) == CLUSTERED
    (tmp_path / "recipe.yaml").write_text(write_recipe(CLUSTERED))
    assert read_recipe(tmp_path / "recipe.yaml") == CLUSTERED
    assert override(CLUSTERED, {"data.labels": "no"}) == tiny.BASE
    assert override(tiny.BASE, {"data.labels": Clusters(5)}) == CLUSTERED


@pytest.mark.parametrize("labels", [True, False])
def test_other_labels_are_written_as_before(labels):
    assert dump(override(tiny.BASE, {"data.labels": labels}))["data"]["labels"] is labels


def test_the_help_names_clusters_among_the_possible_values():
    ((_, value, possible, about),) = explain_field(CLUSTERED, "data.labels")
    assert (value, possible) == ("clusters:5", "true or false or clusters:K")
    assert "clusters:K" in about


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters:1", "needs 2 clusters or more, such as clusters:16, got 'clusters:1'"),
        ("clusters", "needs 2 clusters or more, such as clusters:16, got 'clusters'"),
        ("cluster", "must be true or false or clusters:K, got 'cluster'"),
        ("16", "must be true or false or clusters:K, got '16'"),
        (16, "must be true or false or clusters:K, got 16"),
        (0, "must be true or false or clusters:K, got 0"),
    ],
)
def test_labels_that_are_no_clusters_are_refused_in_one_sentence(text, said):
    with pytest.raises(UserError) as error:
        override(tiny.BASE, {"data.labels": text})
    assert str(error.value).endswith(said)


def test_a_network_that_takes_no_classes_is_refused():
    with pytest.raises(UserError, match="data.labels needs a network that can be conditioned on classes"):
        check_training(override(tiny.recipe("batch norm"), {"data.labels": "clusters:5"}))


# --- samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1000, 2**31])
def test_classes_of_samples_are_as_frequent_as_in_training(first):
    n = 2000
    seen = np.bincount([draw_class(seed, COUNTS) for seed in range(first, first + n)], minlength=5)
    expected = n * np.array(COUNTS) / sum(COUNTS)
    assert ((seen - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.99, 4)
    # Seeds in a row are spread evenly: by chance, the largest class would be off by 22 of 1,053.
    assert np.abs(seen - expected).max() < 8


def test_classes_of_seeds_drawn_at_random_are_as_frequent_as_in_training():
    n = 20_000
    seeds = np.random.default_rng(0).integers(0, 2**32, n).tolist()
    seen = np.bincount([draw_class(seed, COUNTS) for seed in seeds], minlength=5)
    expected = n * np.array(COUNTS) / sum(COUNTS)
    assert ((seen - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.999, 4)


def test_a_class_depends_on_its_seed_alone_and_empty_classes_do_not_occur():
    seeds = [7, 3, 2**32 - 1, 0]
    labels = assign_labels("natural", seeds, 5, COUNTS)
    assert labels.tolist() == assign_labels("natural", seeds[::-1], 5, COUNTS).tolist()[::-1]
    assert {draw_class(seed, (0, 3, 0, 1, 0)) for seed in range(100)} == {1, 3}


def test_samples_of_a_run_with_clusters_have_the_frequencies_of_training_by_default():
    names = tuple(f"cluster-0{k}" for k in range(5))
    recipe = override(CLUSTERED, {"net.classes": 5})
    words = (None, "natural", "none", "all", "cluster-03", "2")
    assert [find_label(word, recipe, names) for word in words] == ["natural", "natural", None, "all", 3, 2]
    check_label(recipe, "natural")
    check_label(recipe, None)
    folders = override(recipe, {"data.labels": True})
    assert find_label(None, folders, names) is None
    with pytest.raises(UserError, match='label "natural" needs a run with data.labels clusters:K'):
        check_label(folders, find_label("natural", folders, names))
    # A class folder may have the name of a word.
    assert find_label("none", folders, ("natural", "none")) == 1


def test_evaluations_with_the_default_label_of_their_runs_have_equal_conditions():
    """A run with clusters and one without labels are compared as they are sampled by default."""

    def sampled(recipe, **changes):
        facts = {**SAMPLING, "times": [1.0], "recipe": dump(recipe), **changes}
        return _sampling(parse_sampling(facts), None)

    default = sampled(CLUSTERED, label="natural")
    assert default == sampled(tiny.BASE, label=None)
    others = [
        sampled(CLUSTERED, **changes)
        for changes in ({"label": None}, {"label": "all"}, {"label": "natural", "guidance": 2.0})
    ]
    assert len({default, *others}) == 4
    assert [str(other) for other in others] == [
        "1 steps, weights ema, label none, guidance 1",
        "1 steps, weights ema, label all, guidance 1",
        "1 steps, weights ema, guidance 2",
    ]
