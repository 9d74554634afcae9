"""Bugs that the tests of nn must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "EMA leaves out batch-norm statistics",
        "nn/ema.py",
        "if value.is_floating_point()} => if value.requires_grad}",
        "nn/test_ema.py::test_batch_norm_statistics_are_averaged_with_the_weights",
    ),
    bug(
        "the embedding takes turns for radians",
        "nn/conditioning.py",
        "2 * math.pi * powers.exp() => powers.exp()",
        "nn/test_residual_unet.py::test_the_network_equals_the_original_layer_by_layer",
    ),
]
