"""Bugs that the tests of training must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "gradients are not clipped",
        "training/trainer.py",
        "optim.clip or math.inf => math.inf",
        "training/test_loop.py::test_gradients_are_clipped_to_the_norm_of_the_recipe",
    ),
    bug(
        "training times are not stratified",
        "training/batches.py",
        "uniform = (torch.arange(size, device=uniform.device) + uniform) / size => pass",
        "training/test_loop.py::test_an_update_draws_one_time_in_each_equal_slice",
    ),
    bug(
        "every EMA profile follows the rule of the default",
        "training/trainer.py",
        "factor = rule(self.step => factor = self.recipe.ema(self.step",
        "training/test_loop.py::test_each_profile_is_the_weighted_mean_of_the_weights_seen",
    ),
    bug(
        "every update draws the noise of the first",
        "training/batches.py",
        "NOISE, step) => NOISE, 0)",
        "training/test_loop.py::test_each_update_draws_its_own_noise_and_times",
    ),
    bug(
        "validation uses the raw weights",
        "training/trainer.py",
        "load_state_dict(self.average, strict=False) => state_dict()",
        "training/test_loop.py::test_a_validation_uses_the_ema_weights_and_is_always_the_same",
    ),
]
