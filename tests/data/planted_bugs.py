"""Bugs that the tests of data must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "every epoch has the same order",
        "data/order.py",
        "SeedSequence([seed, use, epoch]) => SeedSequence([seed, use])",
        "data/test_order.py::test_epochs_and_seeds_have_different_orders",
        "data/test_order.py::test_an_image_is_mirrored_in_some_epochs_and_not_in_others",
    ),
    bug(
        "an image is in both halves of a split",
        "data/order.py",
        "np.sort(shuffled[train:]) => np.sort(shuffled[max(0, train - 1) :])",
        "data/test_order.py::test_training_and_validation_indices_are_disjoint_and_complete",
    ),
    bug(
        "the split does not depend on the seed",
        "data/order.py",
        "_stream(seed, _SPLIT, 0) => _stream(0, _SPLIT, 0)",
        "data/test_order.py::test_the_split_depends_on_the_seed_not_on_the_order_of_files",
    ),
    bug(
        "augmentation turns images against the label it reports",
        "data/augment.py",
        "torch.stack([cos, sin, -sin, cos], dim=1) => torch.stack([cos, -sin, sin, cos], dim=1)",
        "data/test_augment.py::test_quarter_turns_move_pixels",
        "data/test_augment.py::test_rotations_are_counter_clockwise",
    ),
]
