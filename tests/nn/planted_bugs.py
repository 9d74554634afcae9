"""Bugs that the tests of nn must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "EMA has no warm-up",
        "nn/ema.py",
        "1 - min(self.decay, (k - 1) / (k + 8)) => 1 - self.decay",
        "nn/test_ema.py::test_weights_sum_to_one_and_the_initial_value_is_forgotten",
        "nn/test_ema.py::test_during_the_warm_up_the_average_lags_by_a_tenth_of_the_run",
    ),
    bug(
        "EMA leaves out batch-norm statistics",
        "nn/ema.py",
        "if value.is_floating_point()} => if value.requires_grad}",
        "nn/test_ema.py::test_batch_norm_statistics_are_averaged_with_the_weights",
    ),
    bug(
        "the half-life of EMA is used as a time constant",
        "nn/ema.py",
        "1 - 0.5 ** (batch / half) => 1 - 2.718281828 ** (-batch / half)",
        "nn/test_ema.py::test_weights_halve_with_every_half_life",
    ),
    bug(
        "the embedding takes turns for radians",
        "nn/embedding.py",
        "2 * math.pi * turns => turns",
        "nn/test_residual_unet.py::test_the_network_equals_the_original_layer_by_layer",
        "nn/test_embedding.py::test_it_equals_the_tutorials_embedding",
    ),
]
