"""Planted bugs: each must be caught by every test that is named beside it.

    python tests/mutants.py [NAME...]

One at a time they are planted in a copy of the sources. A bug that survives, a name that no longer fits, or a
test that fails without any bug ends with exit code 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """A bug: `old`, which stands once in `file`, becomes `new`; `tests` are of tests/, file::name."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _(name, file, old, new, *tests):
    return Mutant(name, file, old, new, tests)


SCHEDULES, DDIM = "test_schedules.py::", "samplers/test_ddim.py::"
ORDER, CHECKPOINT = "data/test_order.py::", "test_checkpoint.py::"
ORDERS = "samplers/test_convergence.py::test_every_sampler_has_its_order_on_every_grid"
REDUCED, LAW = "samplers/test_reductions.py::", "samplers/test_stochastic.py::"
KERNEL, FRECHET = "metrics/test_kid.py::", "metrics/test_fid.py::"
NEIGHBOURS, FEATURES = "metrics/test_precision_recall.py::", "metrics/test_features.py::"
GUIDED, EDITED = "test_guidance.py::", "editing/test_editing.py::"
UNET = "nn/test_unet.py::test_the_network_is_the_one_described_layer_by_layer"
ORIGINAL = "nn/test_residual_unet.py::test_the_network_is_the_original_layer_by_layer"
SCORED = "test_scores.py::"
DDPM_UNET = "nn/test_ddpm_unet.py::"
EDM, AUGMENTED, ABLATED = "test_edm.py::", "test_augment.py::", "test_ablation.py::"

MUTANTS = [
    # Schedules and grids
    _(
        "rates clipped as powers",
        "schedules.py",
        "powers.clamp(self.min_signal**2, self.max_signal**2)",
        "powers.clamp(self.min_signal, self.max_signal)",
        SCHEDULES + "test_a_clip_bounds_what_its_name_says",
        SCHEDULES + "test_the_clip_of_powers_collapses_the_times_that_the_seed_collapses",
    ),
    _(
        "half forgotten in the integral of beta",
        "schedules.py",
        "(self.high - self.low) / 2 * t**2",
        "(self.high - self.low) * t**2",
        SCHEDULES + "test_linear_beta_solves_its_differential_equation",
        SCHEDULES + "test_the_table_tends_to_the_continuous_schedule",
    ),
    _(
        "log-SNR of the rates instead of the powers",
        "schedules.py",
        "return 2 * (self.alpha.log() - self.sigma.log())",
        "return self.alpha.log() - self.sigma.log()",
        SCHEDULES + "test_variance_preserving_has_the_log_snr_that_was_asked_for",
        SCHEDULES + "test_the_inverse_comes_back_to_the_same_level_and_is_never_later",
    ),
    _(
        "table read by rounding",
        "schedules.py",
        "(t * (self.entries - 1)).long()",
        "(t * (self.entries - 1)).round().long()",
        SCHEDULES + "test_floor_reads_entry_999_t_truncated",
    ),
    _(
        "inverse falls off a plateau by rounding",
        "schedules.py",
        "wanted - 1e-9)",
        "wanted)",
        SCHEDULES + "test_the_inverse_of_an_entry_is_the_first_entry_of_its_plateau",
    ),
    _(
        "grid reaches t = 0",
        "grids.py",
        "torch.arange(steps, 0, -1, dtype=torch.float64) / steps",
        "torch.arange(steps - 1, -1, -1, dtype=torch.float64) / steps",
        "test_grids.py::test_times_fall_from_one_and_never_reach_zero",
        "test_grids.py::test_uniform_times_are_those_of_the_originals",
    ),
    # Noise and pixels
    _(
        "one stream for the whole batch",
        "noise.py",
        "generator=stream, dtype",
        "generator=self.streams[0], dtype",
        "test_noise.py::test_an_image_depends_on_its_own_seed_only",
        DDIM + "test_an_image_depends_on_its_own_seed_only",
    ),
    _(
        "noise from the global generator",
        "noise.py",
        "generator=stream, dtype",
        "dtype",
        "test_noise.py::test_the_global_generator_neither_matters_nor_moves",
        DDIM + "test_a_run_leaves_no_trace",
        "test_layout.py::test_the_library_keeps_off_global_randomness_pickles_and_assertions",
    ),
    _(
        "mean not taken off the variance",
        "pixels.py",
        "square / count - mean**2",
        "square / count",
        "test_pixels.py::test_measured_is_the_mean_and_deviation_over_the_whole_set_however_it_is_cut",
    ),
    # Averages
    _(
        "average without its warm-up",
        "ema.py",
        "1 - min(self.decay, (k - 1) / (k + 8))",
        "1 - self.decay",
        "test_ema.py::test_the_average_is_one_and_has_forgotten_where_it_began",
        "test_ema.py::test_during_the_warm_up_the_average_lags_by_a_tenth_of_the_run",
    ),
    _(
        "exponent of the power rule",
        "ema.py",
        "** (self.gamma + 1)",
        "** self.gamma",
        "test_ema.py::test_the_power_rule_weighs_update_k_by_its_power",
        "test_ema.py::test_the_power_profiles_have_the_widths_of_the_paper",
    ),
    _(
        "batch-norm statistics not averaged",
        "ema.py",
        "if value.is_floating_point()}",
        "if value.requires_grad}",
        "test_ema.py::test_batch_norm_statistics_are_averaged_with_the_weights",
    ),
    # Predictions
    _(
        "sign in velocity to noise",
        "prediction.py",
        "(at.sigma * x_t + at.alpha * v)",
        "(at.sigma * x_t - at.alpha * v)",
        "test_prediction.py::test_the_halves_add_up_to_the_noisy_image",
        "test_prediction.py::test_every_reading_finds_the_truth_when_told_the_truth",
    ),
    _(
        "velocity scales for variance-preserving rates only",
        "prediction.py",
        "    norm = at.alpha**2 + at.sigma**2\n",
        "    norm = 1\n",
        "test_prediction.py::test_every_reading_finds_the_truth_when_told_the_truth",
    ),
    _(
        "EDM c_out not normalised",
        "parameterisation.py",
        "ratio * data / norm,",
        "ratio * data / norm**2,",
        "test_parameterisation.py::test_the_network_sees_and_gives_unit_variance",
        "test_parameterisation.py::test_edm_at_equal_noise_and_data_has_the_numbers_of_table_1",
    ),
    _(
        "noise variance is told as signal variance",
        "parameterisation.py",
        "return at.sigma**2",
        "return at.alpha**2",
        "test_parameterisation.py::test_the_network_is_told_what_its_conditioning_says",
    ),
    _(
        "one time for the whole batch",
        "denoiser.py",
        "t = t.expand(len(x_t))",
        "t = t.reshape(-1)[:1].expand(len(x_t))",
        "test_denoiser.py::test_one_time_stands_for_all_and_each_image_has_its_own",
        "test_denoiser.py::test_the_truth_can_be_said_in_every_parameterisation",
    ),
    # Objectives
    _(
        "noise and image swapped in the error",
        "objective.py",
        'p.eps if on == "noise" else p.x0',
        'p.x0 if on == "noise" else p.eps',
        "test_objective.py::test_the_error_of_the_image_is_the_mean_over_its_numbers",
        "test_objective.py::test_noise_image_and_velocity_errors_differ_by_known_factors",
    ),
    _(
        "error averaged over the batch",
        "objective.py",
        "error.flatten(1).mean(1)",
        "error.mean().expand(len(x0))",
        "test_objective.py::test_each_image_has_its_own_error",
    ),
    _(
        "deviation of log-SNR squared",
        "objective.py",
        "self.std * torch",
        "self.std**2 * torch",
        "test_objective.py::test_normal_log_snr_has_the_density_that_its_name_says",
    ),
    _(
        "training asks for the noise of a clean image",
        "objective.py",
        "return 1 - (1 - self.low) * uniform.double()",
        "return (1 - self.low) * uniform.double()",
        "test_objective.py::test_the_loss_is_finite_at_every_time_that_training_may_draw",
    ),
    # The sampler
    _(
        "eta scales the variance",
        "samplers/ddim.py",
        "self.eta * then.sigma",
        "self.eta**0.5 * then.sigma",
        DDIM + "test_eta_scales_the_deviation_of_the_posterior",
    ),
    _(
        "alpha of the wrong time",
        "samplers/ddim.py",
        "then.alpha.to(x) * p.x0",
        "now.alpha.to(x) * p.x0",
        DDIM + "test_it_follows_the_flow_with_order_one_on_any_grid",
        DDIM + "test_eta_one_on_the_whole_table_is_ddpm",
    ),
    _(
        "next time guessed, not read",
        "samplers/ddim.py",
        "in pairwise(times):",
        "in ((t, t - 1 / len(times)) for t in times[:-1]):",
        DDIM + "test_it_follows_the_flow_with_order_one_on_any_grid",
        DDIM + "test_the_states_are_at_the_levels_of_the_grid_and_the_start_is_the_first",
    ),
    _(
        "square forgotten in the injected noise",
        "samplers/ddim.py",
        "(1 - ratio**2)",
        "(1 - ratio)",
        DDIM + "test_eta_one_on_the_whole_table_is_ddpm",
    ),
    _(
        "injected noise not taken off the kept noise",
        "samplers/ddim.py",
        "(then.sigma**2 - fresh**2)",
        "(then.sigma**2)",
        DDIM + "test_any_eta_keeps_the_marginal",
    ),
    _(
        "a run builds a graph",
        "samplers/ddim.py",
        "    @torch.no_grad()\n",
        "",
        DDIM + "test_a_run_needs_no_gradients",
    ),
    # Samplers of higher order
    _(
        "the second slope has the weight of Heun's for every alpha",
        "samplers/edm.py",
        "(2 * part).to(x)",
        "2",
        REDUCED + "test_the_family_of_order_two_holds_midpoint_and_heun",
    ),
    _(
        "the second slope is asked at the end for every alpha",
        "samplers/edm.py",
        "s if self.alpha == 1 else",
        "s if self.alpha > 0 else",
        REDUCED + "test_the_family_of_order_two_holds_midpoint_and_heun",
    ),
    _(
        "churn by the sum instead of the difference of variances",
        "samplers/edm.py",
        "bar(then) ** 2 - bar(now) ** 2",
        "bar(then) ** 2 + bar(now) ** 2",
        LAW + "test_the_bias_falls_at_the_nominal_weak_order",
    ),
    _(
        "churn outside its interval",
        "samplers/edm.py",
        "not self.s_min <= bar(now) <= self._most",
        "bar(now) < self.s_min",
        LAW + "test_churn_renews_noise_where_it_is_told_to_and_never_past_the_start",
    ),
    _(
        "noise is not inflated",
        "samplers/edm.py",
        " * self.s_noise",
        "",
        LAW + "test_inflated_noise_is_more_noise",
    ),
    _(
        "beta of DDPM of the rates instead of the powers",
        "gaussian.py",
        "torch.expm1(now.log_snr - then.log_snr)",
        "torch.expm1((now.log_snr - then.log_snr) / 2)",
        REDUCED + "test_ancestral_methods_are_one",
        LAW + "test_the_small_variance_is_exact_for_one_image_and_the_large_one_for_unit_variance",
    ),
    _(
        "small and large variance of DDPM swapped",
        "samplers/ddpm.py",
        'if self.variance == "small" else',
        'if self.variance == "large" else',
        REDUCED + "test_the_deviation_of_a_step_of_ddpm_is_that_of_the_paper",
    ),
    _(
        "the learned variance is mixed as a number, not as a logarithm",
        "gaussian.py",
        "return torch.lerp(low, high, mix)",
        "return torch.lerp(low.exp(), high.exp(), mix).log()",
        REDUCED + "test_a_learned_variance_lies_between_the_fixed_ones_in_the_logarithm",
    ),
    _(
        "the textbook's weights on unequal steps",
        "samplers/adams.py",
        'if self.steps == "equal":',
        "if True:",
        ORDERS,
    ),
    _(
        "nodes not divided by the step",
        "samplers/adams.py",
        "- begin) / (end - begin)",
        "- begin)",
        ORDERS,
    ),
    _(
        "an exact start that is a ramp",
        "samplers/adams.py",
        'self.order - 2 if self.start == "exact" else 0',
        "0",
        ORDERS,
    ),
    _(
        "one single step too few",
        "samplers/adams.py",
        "if len(past) <= singles:",
        "if len(past) < singles:",
        ORDERS,
    ),
    _(
        "a weight of Kutta's third rule",
        "samplers/adams.py",
        "(1 / 6, 2 / 3, 1 / 6)",
        "(1 / 4, 1 / 2, 1 / 4)",
        ORDERS,
    ),
    _(
        "the oldest slope is never forgotten",
        "samplers/adams.py",
        "deque(maxlen=self.order)",
        "deque()",
        ORDERS,
    ),
    _(
        "half the clock of log-SNR",
        "samplers/exponential.py",
        "return at.log_snr / 2",
        "return at.log_snr / 4",
        ORDERS,
        REDUCED + "test_methods_of_order_one_are_ddim",
    ),
    _(
        "moments of a step that is not decaying",
        "samplers/exponential.py",
        "(-h * (1 - _NODES)).exp()",
        "(-h * _NODES).exp()",
        ORDERS,
    ),
    _(
        "2M with the exact weight instead of the paper's",
        "samplers/exponential.py",
        "if len(known) == 2:",
        "if False:",
        REDUCED + "test_a_second_order_step_of_dpm_solver_is_that_of_the_paper",
    ),
    _(
        "the signal does not decay where noise is renewed",
        "samplers/exponential.py",
        "(-eta * h).exp()",
        "(0 * h).exp()",
        LAW + "test_around_one_image_every_step_leaves_exactly_the_noise_of_its_level",
        REDUCED + "test_ancestral_methods_are_one",
    ),
    _(
        "half the noise is renewed",
        "samplers/exponential.py",
        "torch.expm1(-2 * self.eta * h)",
        "torch.expm1(-self.eta * h)",
        LAW + "test_around_one_image_every_step_leaves_exactly_the_noise_of_its_level",
    ),
    _(
        "UniPC never corrects",
        "samplers/exponential.py",
        "if before is not None:",
        "if False:",
        ORDERS,
    ),
    _(
        "UniPC corrects from where it stands",
        "samplers/exponential.py",
        "step(before[1], [*past,",
        "step(x, [*past,",
        ORDERS,
    ),
    _(
        "the middle of a single step of 3M is asked of the images at its start",
        "samplers/exponential.py",
        "denoise(step(x, past, now, at), middle)",
        "denoise(x, middle)",
        ORDERS,
    ),
    _(
        "Karras' root is not undone",
        "grids.py",
        "[:steps] ** self.rho",
        "[:steps] ** (self.rho - 1)",
        "test_grids.py::test_karras_steps_are_those_of_the_paper",
    ),
    _(
        "leading levels from entry 0",
        "grids.py",
        "* (self.entries // steps) + 1",
        "* (self.entries // steps)",
        "test_grids.py::test_spaced_levels_are_entries_of_the_table",
    ),
    # Updates and pictures
    _(
        "gradients are not clipped",
        "training/loop.py",
        "o.clip or math.inf",
        "math.inf",
        "training/test_loop.py::test_gradients_are_clipped_to_the_norm_asked_for",
    ),
    _(
        "times not stratified",
        "training/loop.py",
        "(torch.arange(o.batch) + uniform.double()) / o.batch",
        "uniform.double()",
        "training/test_loop.py::test_an_update_draws_one_time_in_each_equal_slice",
    ),
    _(
        "every update has the noise of the first",
        "training/loop.py",
        "NOISE, self.step)",
        "NOISE, 0)",
        "training/test_loop.py::test_each_update_draws_its_own_noise_and_times",
    ),
    _(
        "a validation of the raw weights",
        "training/loop.py",
        "                for name, value in self.average.items():\n"
        "                    state[name].copy_(value)",
        "                pass",
        "training/test_loop.py::test_a_validation_is_of_the_averaged_weights_and_always_the_same",
    ),
    _(
        "the caller's grid is not walked",
        "generate.py",
        "times = (grid or trained.recipe.grid)(",
        "times = (trained.recipe.grid)(",
        "test_generate.py::test_the_callers_grid_is_walked",
    ),
    _(
        "seeds always from 0",
        "generate.py",
        "range(seed, seed + n)",
        "range(n)",
        "test_generate.py::test_seeds_count_upwards_from_the_one_given",
    ),
    # Guidance and editing
    _(
        "guidance from the strong towards the weak",
        "guidance.py",
        "torch.lerp(weak.x0, p.x0, self.scale)",
        "torch.lerp(p.x0, weak.x0, self.scale)",
        GUIDED + "test_guidance_raises_the_strong_density_over_the_weak_one",
    ),
    _(
        "guidance outside its interval",
        "guidance.py",
        "or not self.low <= at.log_snr <= self.high",
        "",
        GUIDED + "test_guidance_in_an_interval_is_guidance_inside_and_none_outside",
    ),
    _(
        "eps of the image before it was clipped",
        "guidance.py",
        "return Prediction(clipped.x0, clipped.eps, p.mix)",
        "return Prediction(clipped.x0, p.eps, p.mix)",
        GUIDED + "test_clipping_holds_each_channel_within_its_bounds_and_leaves_the_rest",
    ),
    _(
        "dynamic thresholding grows small images",
        "guidance.py",
        ".clamp(min=1).reshape",
        ".reshape",
        GUIDED + "test_dynamic_thresholding_shrinks_only_images_that_leave_their_bounds",
    ),
    _(
        "an image enters the inversion at the wrong scale",
        "editing/invert.py",
        "x = schedule(times[-1]).over(x0).alpha * x0",
        "x = x0",
        EDITED + "test_an_exact_inversion_is_undone_by_ddim",
    ),
    _(
        "an exact inversion asks at the time it comes from",
        "editing/invert.py",
        "denoise(x, t).eps",
        "denoise(x, s).eps",
        EDITED + "test_an_exact_inversion_is_undone_by_ddim",
    ),
    _(
        "an inversion takes the slope where a step begins",
        "editing/invert.py",
        "return slope + part.to(slope) * (slope - earlier)",
        "return slope",
        EDITED + "test_a_round_trip_is_of_order_two",
    ),
    _(
        "two times of one level are a step of an inversion",
        "editing/invert.py",
        "if then.log_snr == now.log_snr:",
        "if t == s:",
        EDITED + "test_two_times_of_one_level_are_one_step",
    ),
    _(
        "an inversion that did not converge says nothing",
        "editing/invert.py",
        "residual <= tolerance)",
        "True)",
        EDITED + "test_an_inversion_that_does_not_converge_says_so",
    ),
    _(
        "a straight line between latents",
        "editing/interpolate.py",
        "(part * safe).sin() / safe.sin()",
        "torch.full_like(safe, part)",
        EDITED + "test_slerp_ends_at_its_ends_and_keeps_the_law_of_noise",
    ),
    _(
        "the mask is read the other way round",
        "editing/inpaint.py",
        "return mask * x0 + (1 - mask) * self.known.to(x0)",
        "return (1 - mask) * x0 + mask * self.known.to(x0)",
        EDITED + "test_the_known_part_of_an_inpainted_picture_is_the_image",
    ),
    _(
        "noising again as if the image were clean",
        "editing/inpaint.py",
        "then.sigma**2 - (scale * now.sigma) ** 2",
        "then.sigma**2",
        EDITED + "test_noising_again_keeps_the_marginal",
    ),
    _(
        "a variation begins at the top of the grid",
        "editing/vary.py",
        "times[times < strength]",
        "times",
        EDITED + "test_a_variation_visits_the_levels_below_its_strength",
    ),
    _(
        "picture without its last evaluation",
        "samplers/state.py",
        "return denoise(state.x, torch.tensor(state.t, dtype=torch.float64)).x0",
        "return state.x0",
        "samplers/test_state.py::test_the_picture_is_the_clean_image_at_the_state",
        "test_denoiser.py::test_a_picture_of_n_levels_costs_n_evaluations",
    ),
    # Networks
    _(
        "skips first in, first out",
        "nn/residual_unet.py",
        "skips.pop()",
        "skips.pop(-1 - (len(skips) > 1))",
        ORIGINAL,
    ),
    _("epsilon of the tutorial's batch norm", "nn/residual_unet.py", "1e-3", "1e-5", ORIGINAL),
    _(
        "turns for radians in the embedding",
        "nn/embedding.py",
        "2 * math.pi * turns",
        "turns",
        ORIGINAL,
        "nn/test_embedding.py::test_it_is_the_tutorials_embedding",
    ),
    _(
        "path of the image rounded to bf16",
        "nn/blocks.py",
        "enabled=False",
        "enabled=torch.is_autocast_enabled('cpu'), dtype=torch.bfloat16",
        "nn/test_residual_unet.py::test_the_path_of_the_image_stays_float32_under_autocast",
        "nn/test_unet.py::test_the_path_of_the_image_stays_float32_under_autocast",
    ),
    _(
        "skip left out on the way up",
        "nn/unet.py",
        "stage(skips.pop() + grow(x), told)",
        "stage(grow(x) + 0 * skips.pop(), told)",
        UNET,
    ),
    _("no gain at the end", "nn/unet.py", "self.leave(x * gain)", "self.leave(x)", UNET),
    _("scale and shift exchanged", "nn/unet.py", "scale, shift = self", "shift, scale = self", UNET),
    _(
        "norm over the image",
        "nn/unet.py",
        "super().forward(input.movedim(1, -1)).movedim(-1, 1)",
        "super().forward((input - input.mean((2, 3), keepdim=True)).movedim(1, -1)).movedim(-1, 1)",
        UNET,
        "nn/test_unet.py::test_a_norm_knows_one_pixel_at_a_time",
    ),
    _(
        "gradient of the doubling of a shifted image",
        "nn/blocks.py",
        "small, False, 2.0, 2.0)",
        "small, True, 2.0, 2.0)",
        "nn/test_blocks.py::test_doubled_is_bilinear_forwards_and_backwards_seen_or_opaque",
    ),
    # Recipes
    _(
        "a recipe can run code",
        "config.py",
        "yaml.load(text, _Loader)",
        "yaml.unsafe_load(text)",
        "test_config.py::test_hostile_and_broken_files_are_refused_in_one_sentence",
    ),
    _(
        "fields of a kind set before the kind",
        "config.py",
        'key=lambda p: (p.count("."), p)',
        'key=lambda p: (-p.count("."), p)',
        "test_config.py::test_fields_are_set_by_path_in_any_order",
    ),
    # Data
    _(
        "every epoch in one order",
        "data/order.py",
        "SeedSequence([seed, use, epoch])",
        "SeedSequence([seed, use])",
        ORDER + "test_epochs_and_seeds_have_different_orders",
        ORDER + "test_an_image_is_flipped_in_some_epochs_and_not_in_others",
    ),
    _(
        "an epoch begins where a batch begins",
        "data/order.py",
        "start = first - epochs.start * n",
        "start = 0",
        ORDER + "test_positions_run_through_the_epochs_end_to_end",
        ORDER + "test_position_by_position_the_batches_do_not_matter",
    ),
    _(
        "an image of both halves of the split",
        "data/order.py",
        "np.sort(shuffled[train:])",
        "np.sort(shuffled[max(0, train - 1) :])",
        ORDER + "test_the_two_halves_are_disjoint_and_complete",
    ),
    _(
        "one split for every seed",
        "data/order.py",
        "_stream(seed, _SPLIT, 0)",
        "_stream(0, _SPLIT, 0)",
        ORDER + "test_the_split_is_by_seed_and_not_the_order_of_the_files",
    ),
    _(
        "images mirrored top to bottom",
        "data/transforms.py",
        "rows[flips, :, ::-1]",
        "rows[flips, ::-1]",
        "data/test_transforms.py::test_a_flip_mirrors_left_and_right_and_only_where_it_is_asked",
    ),
    # Checkpoints
    _(
        "hashes not compared",
        "checkpoint.py",
        "    if found != said:\n",
        '    if found["size"] != said["size"]:\n',
        CHECKPOINT + "test_a_flipped_bit_anywhere_is_found",
        CHECKPOINT + "test_reading_finds_damage_by_itself",
    ),
    _(
        "files not flushed before the rename",
        "checkpoint.py",
        "            rest = rest[os.write(file, rest) :]\n        os.fsync(file)\n",
        "            rest = rest[os.write(file, rest) :]\n",
        CHECKPOINT + "test_a_power_cut_after_any_system_call_leaves_the_old_or_the_new",
    ),
    _(
        "the best is removed with the old",
        "checkpoint.py",
        "            spared |= manifest.best and not marked\n",
        "",
        CHECKPOINT + "test_the_newest_and_the_best_stay",
    ),
    _(
        "the oldest is taken for the newest",
        "checkpoint.py",
        "sorted(found, reverse=True)",
        "sorted(found)",
        CHECKPOINT + "test_the_newest_is_the_highest_step_and_none_where_there_is_none",
    ),
    # Metrics
    _(
        "kernel without its dimensions",
        "metrics/kid.py",
        "k = (some_x @ some_y.T / x.shape[1] + 1).pow(3)",
        "k = (some_x @ some_y.T + 1).pow(3)",
        KERNEL + "test_kid_over_subsets_is_that_of_torch_fidelity",
        KERNEL + "test_the_value_is_the_mean_over_pairs_of_different_images",
    ),
    _(
        "an image paired with itself",
        "metrics/kid.py",
        "xx, yy = xx - of_x, yy - of_y",
        "xx, yy = xx - of_x, yy + 0 * of_y",
        KERNEL + "test_the_value_is_the_mean_over_pairs_of_different_images",
        KERNEL + "test_the_estimate_is_unbiased_and_so_below_zero_half_of_the_time",
    ),
    _(
        "an image paired with itself in a subset",
        "metrics/kid.py",
        "in_yy - theirs @ of_y",
        "in_yy",
        KERNEL + "test_kid_over_subsets_is_that_of_torch_fidelity",
    ),
    _(
        "row left out, column kept",
        "metrics/kid.py",
        "_mmd2(xx.sum() - 2 * xx, n - 1",
        "_mmd2(xx.sum() - xx, n - 1",
        KERNEL + "test_the_interval_is_the_jackknife_that_leaves_out_every_image_in_turn",
        KERNEL + "test_the_interval_holds_the_truth_as_often_as_it_says",
    ),
    _(
        "jackknife of one set alone",
        "metrics/kid.py",
        "for left in (without_x, without_y))",
        "for left in (without_x,))",
        KERNEL + "test_the_interval_is_the_jackknife_that_leaves_out_every_image_in_turn",
    ),
    _(
        "pairs counted as of one set",
        "metrics/kid.py",
        "2 * xy / (n * m)",
        "2 * xy / (n * n)",
        KERNEL + "test_the_value_is_the_mean_over_pairs_of_different_images",
    ),
    _(
        "features kept in float32",
        "metrics/blocks.py",
        'np.array(features[rows], np.float64, order="C"))',
        'np.array(features[rows], np.float32, order="C"))',
        KERNEL + "test_float32_features_are_compared_in_float64",
    ),
    _(
        "last single image as a batch",
        "metrics/kid.py",
        "min(len(generated), len(reference)) - 1, batch)",
        "min(len(generated), len(reference)), batch)",
        KERNEL + "test_legacy_kid_leaves_out_a_last_single_image",
    ),
    _(
        "trace of the root taken once",
        "metrics/fid.py",
        "- 2 * cross).item()",
        "- cross).item()",
        FRECHET + "test_fid_is_that_of_torch_fidelity",
        FRECHET + "test_identical_sets_are_at_no_distance",
    ),
    _(
        "covariance over N",
        "metrics/fid.py",
        "math.sqrt(len(features) - 1)",
        "math.sqrt(len(features))",
        FRECHET + "test_fid_of_commuting_gaussians_is_the_distance_of_means_and_of_deviations",
        FRECHET + "test_fid_of_two_dimensions_has_a_closed_form",
    ),
    _(
        "features not centred",
        "metrics/fid.py",
        "torch.cat([root, some - mean])",
        "torch.cat([root, some])",
        FRECHET + "test_fid_of_commuting_gaussians_is_the_distance_of_means_and_of_deviations",
    ),
    _(
        "line in N instead of 1 / N",
        "metrics/fid.py",
        "at.append(cuts / len(generated))",
        "at.append(len(generated) / cuts)",
        FRECHET + "test_fid_infinity_takes_off_the_bias_of_few_generated_images",
    ),
    _(
        "slope instead of intercept",
        "metrics/fid.py",
        "np.polyfit(at, means, 1)[1]",
        "np.polyfit(at, means, 1)[0]",
        FRECHET + "test_the_interval_of_fid_infinity_holds_the_truth_as_often_as_it_says",
    ),
    _(
        "precision and recall swapped",
        "metrics/precision_recall.py",
        "return _part(within_reference > 0), _part(within_generated > 0)",
        "return _part(within_generated > 0), _part(within_reference > 0)",
        NEIGHBOURS + "test_precision_and_recall_are_those_of_torch_fidelity",
        NEIGHBOURS + "test_a_subset_of_the_reference_is_precise_and_recalls_little",
    ),
    _(
        "an image as its own nearest neighbour",
        "metrics/precision_recall.py",
        "radii.append(nearest[:, k])",
        "radii.append(nearest[:, k - 1])",
        NEIGHBOURS + "test_precision_and_recall_are_those_of_torch_fidelity",
        NEIGHBOURS + "test_all_four_are_what_their_definitions_say",
    ),
    _(
        "balls of the generated in density",
        "metrics/precision_recall.py",
        "within, held = _balls(generated, reference, _radii(reference, k))",
        "within, held = _balls(reference, generated, _radii(generated, k))",
        NEIGHBOURS + "test_a_subset_as_reference_is_recalled_whole_by_generated_images_that_are_imprecise",
        NEIGHBOURS + "test_all_four_are_what_their_definitions_say",
    ),
    _(
        "copies apart by rounding",
        "metrics/precision_recall.py",
        "squared < _ROUNDING * norms",
        "squared < 0",
        NEIGHBOURS + "test_identical_sets_are_within_one_another_even_where_images_are_copies",
    ),
    _(
        "padding counted in the means of Inception",
        "metrics/inception.py",
        "count_include_pad=False",
        "count_include_pad=True",
        FEATURES + "test_inception_2015_makes_the_features_of_torch_fidelity",
    ),
    _(
        "last block pooled by the mean",
        "metrics/inception.py",
        "_max if channels == DIMENSIONS else _mean",
        "_mean",
        FEATURES + "test_inception_2015_makes_the_features_of_torch_fidelity",
    ),
    _(
        "resize about the centres of pixels",
        "metrics/inception.py",
        "torch.arange(side, dtype=torch.float32) * (size / side)",
        "((torch.arange(side) + 0.5) * (size / side) - 0.5).clamp(min=0)",
        FEATURES + "test_the_old_resize_is_that_of_tensorflow_1",
        FEATURES + "test_the_old_resize_reads_a_ramp_from_the_upper_left_corner",
    ),
    _(
        "Inception of 2015 on [0, 1]",
        "metrics/inception.py",
        "(resize_tf1(images, _SIDE) - 128) / 128",
        "resize_tf1(images, _SIDE) / 255",
        FEATURES + "test_inception_2015_makes_the_features_of_torch_fidelity",
    ),
    _(
        "torchvision's Inception on [0, 1]",
        "metrics/inception.py",
        "network(2 * big - 1)",
        "network(big)",
        FEATURES + "test_inception_torchvision_is_torchvisions_on_values_from_minus_one_to_one",
    ),
    _(
        "any weights will do",
        "metrics/weights.py",
        "if not sha.startswith(KNOWN[name].hashes):",
        "if not sha:",
        FEATURES + "test_only_known_weights_are_loaded",
    ),
    _(
        "weights that can run code",
        "metrics/weights.py",
        "weights_only=True",
        "weights_only=False",
        FEATURES + "test_a_file_of_a_known_hash_can_run_no_code",
        FEATURES + "test_the_only_torch_load_is_of_weights_alone",
    ),
    _(
        "transparent shown black",
        "metrics/features.py",
        "colours * opacity + 255 * (1 - opacity)",
        "colours * opacity",
        FEATURES + "test_gray_is_repeated_and_what_is_transparent_shows_white",
    ),
    _(
        "what was written to a private memory map is dropped",
        "metrics/features.py",
        'if mode == "r" and isinstance',
        "if isinstance",
        FEATURES + "test_a_memory_map_keeps_what_was_written_to_it_but_not_to_its_file",
    ),
    # Experiments: claims and leases, combinations, repeats, pages
    _(
        "a file made once may be made twice",
        "files.py",
        "os.link(temporary, path)",
        "os.replace(temporary, path)",
        "test_files.py::test_of_many_that_create_the_same_file_one_succeeds",
        "test_claims.py::test_of_many_workers_that_see_the_same_dead_claim_one_takes_over",
    ),
    _(
        "a worker taken for dead by a clock that was not watched",
        "claims.py",
        "if page != before:",
        "if before is not None and page != before:",
        "test_claims.py::test_silence_counts_from_when_one_looks_and_not_from_what_other_clocks_say",
    ),
    _(
        "beats of others not heard",
        "claims.py",
        "if page != before:",
        "if before is None:",
        "test_claims.py::test_a_beat_seen_starts_the_lease_anew",
        "test_claims.py::test_a_worker_that_beats_keeps_the_thing_for_ever",
    ),
    _(
        "a worker that lost its claim goes on",
        "claims.py",
        "if _file(self.folder, self.page.number + 1).exists():",
        "if _file(self.folder, self.page.number + 2).exists():",
        "test_claims.py::test_who_was_taken_for_dead_hears_of_it_and_disturbs_nobody",
        "test_workers.py::test_a_worker_that_lost_its_trial_ends_its_child_and_writes_nothing",
    ),
    _(
        "a claim that was given up stays held",
        "claims.py",
        "and not latest.released and",
        "and",
        "test_claims.py::test_what_is_released_is_free_at_once",
        "test_workers.py::test_ctrl_c_ends_the_child_and_frees_the_trial_at_once",
    ),
    _(
        "the result not looked for again once the claim is had",
        "workers.py",
        "if claim is not None and sweep.result(trial).exists():",
        "if claim is None and sweep.result(trial).exists():",
        "test_workers.py::test_a_trial_that_ended_while_one_looked_is_left",
    ),
    _(
        "the child of a killed worker disturbed",
        "workers.py",
        "if not checkpoint.held(self.sweep.run(self.trial)):",
        "if self.child is None:",
        "test_workers.py::test_the_child_of_a_killed_worker_is_not_disturbed",
    ),
    _(
        "a failed trial evaluated",
        "workers.py",
        "if code == 0 and self.left:",
        "if self.left:",
        "test_workers.py::test_the_second_command_runs_only_where_the_first_was_good",
    ),
    _(
        "a trainer disturbed by whoever looks",
        "checkpoint.py",
        "time.sleep(0.05)  # whoever",
        "time.sleep(0)  # whoever",
        "test_runs.py::test_looking_at_a_run_does_not_keep_it_from_training",
    ),
    _(
        "a range of rates drawn evenly",
        "trials.py",
        "low * (high / low) ** u if self.log",
        "low + (high - low) * u if self.log",
        "test_trials.py::test_a_range_is_even_in_its_logarithm",
    ),
    _(
        "a combination drawn twice",
        "trials.py",
        "count, replace=False)",
        "count, replace=True)",
        "test_trials.py::test_draws_from_lists_differ_and_are_the_same_for_a_seed",
        "test_sweeps.py::test_random_draws_some_of_them_the_same_for_a_seed",
    ),
    _(
        "the last field slowest",
        "trials.py",
        "for choice in itertools.product(*lists)]",
        "for choice in (c[::-1] for c in itertools.product(*lists[::-1]))]",
        "test_trials.py::test_the_last_field_changes_fastest",
    ),
    _(
        "repeats of one seed",
        "sweeps.py",
        "seed=recipe.seed + k",
        "seed=recipe.seed",
        "test_sweeps.py::test_every_combination_has_a_run_for_each_seed",
    ),
    _(
        "a search that looks for the worst",
        "tuning.py",
        ".tell(number, value, state",
        ".tell(number, value and -value, state",
        "test_tuning.py::test_a_search_comes_nearer_to_what_is_best_than_chance_does",
        "cli/test_sweep.py::test_a_search_learns_from_runs",
    ),
    _(
        "what lies within a run taken for runs",
        "runs.py",
        "inner.clear()",
        "inner.sort()",
        "test_runs.py::test_runs_are_found_at_any_depth_and_only_runs",
    ),
    _(
        "the ninth evaluation newer than the tenth",
        "runs.py",
        "for number in sorted(numbered):",
        "for number in sorted(numbered, key=str):",
        "test_runs.py::test_the_latest_evaluation_counts_by_number_not_by_spelling",
    ),
    _(
        "deviation of a population",
        "results.py",
        "for value in values) / (n - 1)",
        "for value in values) / n",
        "test_results.py::test_a_spread_is_the_mean_and_the_sample_deviation",
    ),
    _(
        "unfinished runs in a mean",
        "results.py",
        'for run in self.runs if run.state == "finished")',
        "for run in self.runs)",
        "test_results.py::test_numbers_are_means_over_the_finished_repeats",
    ),
    _(
        "a mean over unequal numbers of pictures",
        "results.py",
        'against, record["generated"]["images"])',
        "against, 0)",
        "test_results.py::test_what_was_judged_otherwise_is_no_part_of_a_mean_and_is_named",
    ),
    _(
        "each seed a configuration",
        "results.py",
        'if name != "seed")',
        'if name != "name")',
        "test_results.py::test_runs_that_differ_in_their_seed_alone_are_one_configuration",
    ),
    _(
        "markup in a cell of a page",
        "pages.py",
        "text = html.escape(cell.text)",
        "text = cell.text",
        "test_pages.py::test_no_text_becomes_markup",
    ),
    _(
        "a cell that ends its column",
        "pages.py",
        "+!|<>~&$]",
        "+!<>~&$]",
        "test_pages.py::test_a_table_of_markdown_keeps_its_shape_whatever_its_cells_say",
    ),
    _(
        "the worst in bold",
        "reports.py",
        "METRICS[name][1] * found[k][name].mean",
        "-METRICS[name][1] * found[k][name].mean",
        "test_reports.py::test_the_best_is_marked_among_what_compares",
        "test_reports.py::test_what_is_large_when_it_is_good_is_marked_so",
    ),
    _(
        "a grid cut without its gaps",
        "reports.py",
        "- width + 1, width + GAP)",
        "- width + 1, width)",
        "test_reports.py::test_a_grid_is_cut_into_the_pictures_that_it_was_laid_of",
    ),
    # Evaluations: records, references, comparisons
    _(
        "weights of the extractor not compared",
        "scores.py",
        """        ("weights", "weights of the extractor"),
""",
        "",
        SCORED + "test_what_makes_records_incomparable_is_said_in_one_sentence_either_way",
    ),
    _(
        "references compared by their part alone",
        "scores.py",
        'one["reference"]["sha256"] != other["reference"]["sha256"]',
        'one["reference"]["part"] != other["reference"]["part"]',
        SCORED + "test_what_makes_records_incomparable_is_said_in_one_sentence_either_way",
        "test_ranking.py::test_what_may_not_be_ranked_comes_last_with_its_reason",
    ),
    _(
        "counts compared where they do not matter",
        "scores.py",
        "if read_as.biased and",
        "if not read_as.biased and",
        SCORED + "test_another_count_forbids_ranking_by_what_is_biased_by_it",
    ),
    _(
        "few images of the reference ranked",
        "scores.py",
        'min(*counts, one["reference"]["images"])',
        "min(counts)",
        SCORED + "test_a_small_reference_is_too_few_as_well",
    ),
    _(
        "evaluations in the order of words",
        "scores.py",
        "sorted(numbers)",
        "sorted(numbers, key=str)",
        SCORED + "test_a_run_is_read_as_its_newest_whole_evaluation",
    ),
    _(
        "kept features believed unseen",
        "reference.py",
        '_seal(path).read_text("ascii") == _digest(path)',
        "_seal(path).exists()",
        "test_reference.py::test_damaged_features_are_computed_again",
    ),
    _(
        "features of any resize are the same",
        "reference.py",
        "extractor.weights, extractor.resize]",
        "extractor.weights]",
        "test_reference.py::test_the_identity_moves_with_everything_that_features_are_a_function_of",
    ),
    _(
        "judged by the images it trained on",
        "reference.py",
        'valid if part == "valid" else train',
        'train if part == "valid" else valid',
        "test_reference.py::test_by_default_a_run_is_judged_by_what_it_did_not_train_on",
        "test_evaluation.py::test_the_numbers_are_those_of_the_runs_pictures_against_the_images_held_out",
    ),
    _(
        "every part of the pictures of the first seeds",
        "evaluation.py",
        "trained, seeds[first : first + size], steps",
        "trained, seeds[:size], steps",
        "test_evaluation.py::test_pictures_come_a_few_at_a_time_and_each_is_its_seeds",
    ),
    _(
        "levels of a search never used",
        "evaluation.py",
        "if searched and not any(",
        "if searched and any(",
        "test_evaluation.py::test_levels_that_a_search_found_are_used_unless_a_grid_is_named",
    ),
    _(
        "an evaluation in its place before it is whole",
        "evaluation.py",
        'parent / f".tmp-{os.getpid()}-evaluation"',
        'parent / "1"',
        "test_evaluation.py::test_a_killed_evaluation_leaves_nothing_that_is_believed",
    ),
    _(
        "the reference left out for one run at a time",
        "metrics/kid.py",
        "for left in [*left_out, apart - apart_2])",
        "for left in [*left_out, apart, apart_2])",
        "metrics/test_kid_difference.py::"
        "test_it_is_the_difference_of_both_with_the_jackknife_of_what_is_left_out_at_once",
    ),
    _(
        "pairs of seeds left out one by one",
        "metrics/kid.py",
        "[without - without_2] if paired else [without, without_2]",
        "[without, without_2]",
        "metrics/test_kid_difference.py::"
        "test_it_is_the_difference_of_both_with_the_jackknife_of_what_is_left_out_at_once",
        "metrics/test_kid_difference.py::test_the_interval_holds_the_truth_as_often_as_it_says[True]",
    ),
    _(
        "the worst first",
        "ranking.py",
        "reverse=not read_as.lower_is_better",
        "reverse=read_as.lower_is_better",
        "test_ranking.py::test_the_best_is_first",
    ),
    _(
        "pictures of any seeds paired",
        "ranking.py",
        "seeds[0] is not None and seeds[0] == seeds[1]",
        "seeds[0] is not None",
        "test_ranking.py::test_pictures_of_the_same_seeds_are_paired_and_others_are_not",
    ),
    _(
        "a jackknife that forgets its factor",
        "ranking.py",
        "(_GROUPS - 1) * float(np.var(without))",
        "float(np.var(without))",
        "test_ranking.py::test_the_jackknife_of_tenths_is_that_of_means_in_closed_form",
    ),
    _(
        "the best always by its loss",
        "training/callbacks.py",
        "values.get(training.recipe.report.best)",
        'values.get("image_mae")',
        "training/test_judge.py::test_the_best_by_kid_is_kept_where_the_recipe_says_so",
        "training/test_judge.py::test_a_resumed_run_logs_the_same_kid_and_keeps_the_same_best",
    ),
    _(
        "a run in training judged by its training images",
        "training/judge.py",
        "Chosen(parts.images, parts.valid,",
        "Chosen(parts.images, parts.train,",
        "training/test_judge.py::test_each_event_logs_the_kid_of_the_averaged_weights",
    ),
    # Memorisation and diagnostics
    _(
        "mirrored images have the features of the plain ones",
        "reference.py",
        'facts += ["mirrored"] if self.mirrored else []',
        "facts += []",
        "test_memorisation.py::test_features_tell_copies_too_and_those_of_images_are_asked_for_once",
    ),
    _(
        "copies judged by distance alone",
        "metrics/neighbours.py",
        "np.divide(self.distances[:, 0], mean,",
        "np.divide(self.distances[:, 0], 1 + 0 * mean,",
        "test_memorisation.py::test_pictures_of_a_dense_part_of_the_data_are_not_called_copies",
    ),
    _(
        "the second nearest for the next fifty",
        "metrics/neighbours.py",
        "mean = self.distances.mean(1)",
        "mean = self.distances[:, 1]",
        "metrics/test_neighbours.py::test_training_images_that_come_twice_do_not_hide_their_copies",
    ),
    _(
        "an image found as its own neighbour",
        "metrics/neighbours.py",
        "found[inside.nonzero()[:, 0], at[inside]] = torch.inf",
        "pass",
        "metrics/test_neighbours.py::test_an_image_is_not_its_own_neighbour",
    ),
    _(
        "mirror images top to bottom",
        "metrics/neighbours.py",
        "images[:, :, ::-1]",
        "images[:, ::-1]",
        "metrics/test_neighbours.py::test_a_mirror_image_is_a_copy_where_both_sides_train",
    ),
    _(
        "contrast left in",
        "metrics/neighbours.py",
        "(rows / rows.norm(dim=1, keepdim=True).clamp(min=1.0)).float()",
        "(rows / 1000).float()",
        "metrics/test_neighbours.py::test_standardised_rows_tell_correlation_and_neither_brightness_nor_contrast",
        "metrics/test_neighbours.py::test_a_constant_image_is_equally_far_from_all",
    ),
    _(
        "a threshold that holds on average only",
        "metrics/proportions.py",
        "at_most(rank, n, level) <= 1 - confidence",
        "at_most(rank, n, level) <= 0.5",
        "metrics/test_proportions.py::test_false_alarms_exceed_the_bound_no_more_often_than_the_confidence_allows",
    ),
    _(
        "an interval of one tail on both sides",
        "metrics/proportions.py",
        "tail = (1 - confidence) / 2",
        "tail = 1 - confidence",
        "metrics/test_proportions.py::test_no_success_of_n_leaves_the_interval_of_the_rule_of_three",
    ),
    _(
        "the threshold learnt from the images that are judged",
        "memorisation.py",
        "learn, rest = halves[: len(valid) // 2], halves[len(valid) // 2 :]",
        "learn, rest = halves, halves",
        "test_memorisation.py::test_real_images_that_were_not_learnt_from_give_no_more_alarms_than_promised",
    ),
    _(
        "memorised by the share and not by its interval",
        "memorisation.py",
        "self.pictures.share.low > self.bound",
        "self.pictures.share.value > 0",
        "test_memorisation.py::test_a_sampler_of_copies_is_called_memorised_and_one_of_the_same_law_is_not",
    ),
    _(
        "the sign of the residual lost",
        "calibration.py",
        "-p.eps.double() * noise,",
        "p.eps.double() * noise,",
        "test_calibration.py::test_predictions_of_the_wrong_size_are_seen",
    ),
    _(
        "the slope of predictions on the truth",
        "calibration.py",
        "ratio(self.power + self.inner, self.power)",
        "ratio(self.power, self.power + self.inner)",
        "test_calibration.py::test_predictions_of_the_wrong_size_are_seen",
    ),
    _(
        "one noise for all levels of a batch",
        "calibration.py",
        "noise.like(x0)) for t in times], 2)",
        "Noise(range(first, first + len(x0))).like(x0)) for t in times], 2)",
        "test_calibration.py::test_an_image_has_its_own_noise_in_whatever_batches_it_comes",
    ),
    _(
        "the signal of gradients with the noise of the batch in it",
        "gradient_noise.py",
        "(count * large - small) / (count - 1)",
        "large",
        "test_gradient_noise.py::test_the_estimates_are_without_bias_from_few_batches",
    ),
    _(
        "the scale in batches and not in images",
        "gradient_noise.py",
        "batch * (small - large)",
        "(small - large)",
        "test_gradient_noise.py::test_the_scale_of_a_linear_model_is_its_closed_form",
    ),
    _(
        "the mean image left out of the divergence",
        "bounds.py",
        "(excess - excess.log1p()).sum() + at.alpha**2 * square",
        "(excess - excess.log1p()).sum()",
        "test_bounds.py::test_the_divergence_is_that_of_the_two_gaussians",
    ),
    _(
        "a plateau counted by its entries",
        "levels.py",
        "share = counts / SLICES",
        "share = counts / counts.numel()",
        "test_levels.py::test_the_plateau_of_the_seed_repository_is_found",
    ),
    _(
        "errors by log-SNR of the wrong images",
        "training/loop.py",
        "each[k, part] =",
        "each[k, part.flip(0)] =",
        "training/test_loop.py::test_the_errors_by_log_snr_are_those_of_each_image_alone",
    ),
    # The networks of the literature, the recipe ddpm, diffusers
    _(
        "scale taken for shift in the blocks of improved DDPM",
        "nn/ddpm_unet.py",
        "scale, shift = told.chunk(2, dim=1)",
        "shift, scale = told.chunk(2, dim=1)",
        DDPM_UNET + "test_improved_ddpm_and_adm_are_those_of_diffusers_where_it_has_them",
    ),
    _(
        "zeros before instead of after",
        "nn/ddpm_unet.py",
        "F.pad(x, (0, 1, 0, 1)) if self.same",
        "F.pad(x, (1, 0, 1, 0)) if self.same",
        DDPM_UNET + "test_it_is_the_ddpm_of_diffusers",
    ),
    _(
        "sum of a block not scaled",
        "nn/ddpm_unet.py",
        "return (self.project(self.resize(x)) + h) * self.root",
        "return self.project(self.resize(x)) + h",
        DDPM_UNET + "test_the_score_networks_are_those_described_layer_by_layer",
    ),
    _(
        "every block of a level attends on the way up",
        "nn/ddpm_unet.py",
        "(not spec.sde or k == spec.blocks)",
        "(not spec.sde or k <= spec.blocks)",
        DDPM_UNET + "test_the_parameters_are_as_many_as_in_the_originals",
    ),
    _(
        "pyramid forgets what entered before",
        "nn/ddpm_unet.py",
        "image = x = (x + self.pyramid[level - 1](image)) * self.root",
        "x = (x + self.pyramid[level - 1](image)) * self.root",
        DDPM_UNET + "test_any_size_and_channels_start_as_the_zero_function",
    ),
    _(
        "upsampling at the brightness of a quarter",
        "nn/ddpm_unet.py",
        "F.conv_transpose2d(x, 4 * weight",
        "F.conv_transpose2d(x, weight",
        DDPM_UNET + "test_filters_halve_and_double_and_keep_the_mean_of_what_is_inside",
    ),
    _(
        "null class told as class 0",
        "nn/ddpm_unet.py",
        "self.label(label.clamp(min=0)) * (label >= 0)[:, None]",
        "self.label(label.clamp(min=0))",
        DDPM_UNET + "test_a_class_is_told_to_its_image_and_none_is_the_null_class",
    ),
    _(
        "projection at full resolution rounded",
        "nn/ddpm_unet.py",
        "made = block(now, widths[level], exact=level == 0)",
        "made = block(now, widths[level])",
        DDPM_UNET + "test_the_path_of_the_image_at_full_resolution_stays_float32_under_autocast",
    ),
    _(
        "blocks that do not start as their shortcut",
        "nn/ddpm_unet.py",
        "zeroed(module.second)",
        "zeroed(module.told)",
        DDPM_UNET + "test_every_block_starts_as_its_shortcut",
    ),
    _(
        "slowest speed one short of the end",
        "nn/embedding.py",
        "max(1, half - 1)",
        "max(1, half)",
        "nn/test_embedding.py::test_indices_turn_at_speeds_from_one_to_a_ten_thousandth",
    ),
    _(
        "weights for the norm before attention",
        "nn/clear_unet.py",
        "self.norm = nn.GroupNorm(groups, channels, _EPS, affine=False)",
        "self.norm = nn.GroupNorm(groups, channels, _EPS)",
        "nn/test_clear_unet.py::test_the_parameters_are_as_many_as_in_the_original",
    ),
    _(
        "index counted from one",
        "parameterisation.py",
        "self.entries * t.double() - 1",
        "self.entries * t.double()",
        "test_parameterisation.py::test_a_timestep_is_the_index_of_the_entry_whose_level_it_is",
        "test_recipes.py::test_ddpm_is_asked_and_trained_at_the_entries_of_its_table_alone",
    ),
    _(
        "entries of a table drawn from zero",
        "objective.py",
        "(uniform.double() * self.entries).floor() + 1",
        "(uniform.double() * self.entries).floor()",
        "test_objective.py::test_each_entry_of_a_table_is_trained_equally_often",
    ),
    _(
        "quad without its square",
        "schedules.py",
        "return line(self.first**0.5, self.last**0.5) ** 2",
        "return line(self.first, self.last)",
        SCHEDULES + "test_each_table_is_the_product_of_its_fractions",
    ),
    _(
        "grains for 255 values",
        "data/transforms.py",
        "(images.float() + grain) / 256",
        "(images.float() + grain) / 255",
        "data/test_transforms.py::test_dequantised_images_fill_the_unit_interval_evenly_and_floor_to_what_they_were",
    ),
    _(
        "dropout of the caller's stream",
        "training/engine.py",
        'torch.default_generator.set_state(stream("cpu", seed, use, step).get_state())',
        "pass",
        "training/test_loop.py::test_dropout_is_a_function_of_seed_and_step",
    ),
    _(
        "one dropout for all steps",
        "training/loop.py",
        "streaming(runtime.device, seed, DROPOUT, self.step)",
        "streaming(runtime.device, seed, DROPOUT, 0)",
        "training/test_loop.py::test_the_dropout_of_a_step_is_not_that_of_another",
    ),
    _(
        "keys exported as queries",
        "interop.py",
        'for part in ("to_q", "to_k", "to_v")',
        'for part in ("to_k", "to_q", "to_v")',
        "test_interop.py::test_an_exported_network_gives_the_same_output",
    ),
    _(
        "diffusers left to clip",
        "interop.py",
        '"clip_sample": False',
        '"clip_sample": True',
        "test_interop.py::test_diffusers_opens_an_exported_run_and_makes_the_same_pictures",
    ),
    _(
        "other pixels exported",
        "interop.py",
        "if trained.pixels != Pixels(half, half):",
        "if not trained.pixels:",
        "test_interop.py::test_what_diffusers_has_no_words_for_is_refused_in_one_sentence",
    ),
    _(
        "a report ranks by FID of a few images",
        "results.py",
        "min(self.pictures, self.reference[-1]) >= least",
        "True",
        "test_reports.py::test_what_there_are_too_few_images_for_is_not_ranked",
    ),
    # EDM: preconditioning, weighting, averages, augmentation, ablation
    _(
        "c_out without sigma_data",
        "parameterisation.py",
        "ratio * data / norm, 1 / (norm * at.alpha)",
        "ratio / norm, 1 / (norm * at.alpha)",
        EDM + "test_input_and_target_have_unit_variance",
        EDM + "test_the_objective_is_the_weighted_denoising_error",
    ),
    _(
        "the score without its sign",
        "parameterisation.py",
        "Scales(1 / at.alpha, at.sigma / at.alpha,",
        "Scales(1 / at.alpha, -at.sigma / at.alpha,",
        EDM + "test_a_recipe_has_the_row_of_the_table",
        "test_parameterisation.py::test_the_score_is_the_gradient_of_the_log_density_times_sigma",
    ),
    _(
        "c_noise of the variance",
        "parameterisation.py",
        "self.factor * (-at.log_snr / 2 - math.log(self.unit))",
        "self.factor * (-at.log_snr - math.log(self.unit))",
        EDM + "test_the_network_is_told_c_noise",
        "test_parameterisation.py::test_c_noise_is_a_logarithm_of_the_noise_on_a_clean_image_of_weight_one",
    ),
    _(
        "the weight of EDM as that of noise",
        "objective.py",
        "(at.alpha / at.sigma) ** 2 + 1 / self.sigma_data**2",
        "(at.alpha / at.sigma) ** 2 * torch.ones_like(at.alpha)",
        EDM + "test_the_objective_is_the_weighted_denoising_error",
        "test_objective.py::test_a_weight_multiplies_the_error_of_its_level",
    ),
    _(
        "the half-life as a time constant",
        "ema.py",
        "1 - 0.5 ** (batch / half)",
        "1 - 2.718281828 ** (-batch / half)",
        "test_ema.py::test_what_was_learnt_a_half_life_ago_weighs_a_half",
    ),
    _(
        "the ramp of the half-life in updates",
        "ema.py",
        "self.ramp * (k - 1) * batch)",
        "self.ramp * (k - 1))",
        "test_ema.py::test_a_young_average_lags_by_a_part_of_the_run",
    ),
    _(
        "sigma linear in time",
        "schedules.py",
        "clock.exp() if self.rho is None else clock**self.rho",
        "clock.exp() if self.rho is None else clock * self.rho",
        SCHEDULES + "test_equal_times_of_karras_sigma_are_equal_steps_of_its_root",
    ),
    _(
        "images turned the other way than told",
        "augment.py",
        "torch.stack([cos, sin, -sin, cos], dim=1)",
        "torch.stack([cos, -sin, sin, cos], dim=1)",
        AUGMENTED + "test_quarter_turns_move_pixels",
        AUGMENTED + "test_a_turn_is_counter_clockwise_as_one_sees_it",
    ),
    _(
        "pixels taken from where they should go",
        "augment.py",
        "torch.linalg.inv(_matrix(labels))",
        "_matrix(labels)",
        AUGMENTED + "test_a_round_cloud_becomes_what_the_labels_say",
    ),
    _(
        "width and height of a translation mistaken",
        "augment.py",
        "torch.tensor([width, height], dtype=torch.float64)",
        "torch.tensor([height, width], dtype=torch.float64)",
        AUGMENTED + "test_a_translation_by_whole_pixels_moves_pixels",
    ),
    _(
        "every transformation with every image",
        "augment.py",
        "done = chance < self.probability",
        "done = chance <= 1",
        AUGMENTED + "test_each_transformation_comes_as_often_as_it_is_asked_for_and_alone",
        AUGMENTED + "test_without_augmentation_nothing_is_done",
    ),
    _(
        "a network told of another image's augmentation",
        "training/loop.py",
        "augmented(x0, done[mine]), self.quick.given(augment=done[mine])",
        "augmented(x0, done[mine]), self.quick.given(augment=done[mine].flip(0))",
        "training/test_loop.py::test_images_are_augmented_as_the_network_is_told",
    ),
    _(
        "one augmentation for all steps",
        "training/loop.py",
        'stream("cpu", seed, AUGMENT, self.step)',
        'stream("cpu", seed, AUGMENT, 0)',
        "training/test_loop.py::test_images_are_augmented_as_the_network_is_told",
    ),
    _(
        "labels of augmentation lost on the way to the network",
        "denoiser.py",
        "return self.model(x_t, t, label, self.augment)",
        "return self.model(x_t, t, label)",
        "test_denoiser.py::test_how_images_were_augmented_reaches_the_network_with_and_without_a_label",
    ),
    _(
        "half forgotten in the speed of the VP SDE",
        "ablation.py",
        "(LOW + SLOPE * t) * (sigma + 1 / sigma) / 2",
        "(LOW + SLOPE * t) * (sigma + 1 / sigma)",
        ABLATED + "test_every_choice_converges_to_the_one_flow_at_the_order_of_its_rule",
    ),
    _(
        "Heun's second slope where its first was",
        "ablation.py",
        "then.moved(ahead, q.x0, h)",
        "now.moved(ahead, q.x0, h)",
        ABLATED + "test_sigma_that_is_t_and_no_scaling_are_ddim_and_heun",
    ),
    # Learned variance and likelihood
    _(
        "the bound trains the mean",
        "objective.py",
        "Prediction(p.x0.detach(), p.eps.detach(), p.mix)",
        "Prediction(p.x0, p.eps, p.mix)",
        "test_hybrid.py::test_the_bound_moves_no_gradient_of_the_mean",
    ),
    _(
        "the bound does not train the variance",
        "objective.py",
        "p.eps.detach(), p.mix)",
        "p.eps.detach(), p.mix.detach())",
        "test_hybrid.py::test_the_bound_moves_no_gradient_of_the_mean",
    ),
    _(
        "the bound counts for one step and not for all",
        "objective.py",
        "self.vlb * self.times.entries * self._bits",
        "self.vlb * self._bits",
        "test_hybrid.py::test_the_hybrid_loss_is_the_simple_one_and_the_terms_of_the_bound",
    ),
    _(
        "a mix of a quarter of the range at the start",
        "denoiser.py",
        "more[0].sigmoid()",
        "(more[0] - 1).sigmoid()",
        "test_hybrid.py::test_a_fresh_network_puts_the_variance_halfway",
        "test_hybrid.py::test_the_mix_is_of_the_second_half_of_the_channels_and_the_noise_of_the_first",
    ),
    _(
        "the divergence of the laws the wrong way round",
        "gaussian.py",
        "(narrower.exp() - 1 - narrower + apart) / 2",
        "((-narrower).exp() - 1 + narrower + apart) / 2",
        "test_gaussian.py::test_the_divergence_is_the_integral_that_defines_it",
        "test_hybrid.py::test_the_bound_teaches_the_variance_that_is_right",
    ),
    _(
        "white has no open bin",
        "gaussian.py",
        "torch.where(values > 254.5, _phi(-below), _mass(below, above))",
        "_mass(below, above)",
        "test_gaussian.py::test_the_probabilities_of_all_values_add_up_to_one",
    ),
    _(
        "masses of the right tail cancel",
        "gaussian.py",
        "flip = below > 0",
        "flip = below > 1e9",
        "test_gaussian.py::test_both_tails_keep_their_digits",
    ),
    _(
        "the decoder's deviation in units of the image",
        "bound.py",
        "* pixels.units.reshape(-1, 1, 1).to(x0)",
        "* 255",
        "test_likelihood.py::test_the_bound_is_above_the_flow_and_its_gap_closes_with_the_steps",
    ),
    _(
        "the prior forgotten",
        "likelihood.py",
        "prior_bits(x0, schedule(times[0])).double()",
        "0 * prior_bits(x0, schedule(times[0])).double()",
        "test_likelihood.py::test_a_start_that_is_not_noise_costs_bits",
    ),
    _(
        "the flow in units of the model",
        "likelihood.py",
        "bits(units - last)",
        "bits(-last)",
        "test_likelihood.py::test_the_flow_gives_the_exact_bits_of_a_law",
    ),
    _(
        "a divergence of the wrong sign",
        "likelihood.py",
        "- fallen / math.log(2)",
        "+ fallen / math.log(2)",
        "test_likelihood.py::test_the_flow_gives_the_exact_bits_of_a_law",
    ),
    _(
        "the rule of the flow is of order two",
        "likelihood.py",
        "b = slope(y + h / 2 * a[0], k + 1)",
        "b = slope(y + h / 3 * a[0], k + 1)",
        "test_likelihood.py::test_the_rule_of_the_flow_is_of_order_four",
    ),
    _(
        "importance sampling without its weights",
        "importance.py",
        "1 / (self.choice.entries * p[index])",
        "torch.ones_like(p[index])",
        "test_importance.py::test_the_weighted_loss_has_the_mean_of_even_draws",
    ),
    _(
        "times drawn by the mean loss and not its square",
        "importance.py",
        "self.losses.square().mean(1).sqrt()",
        "self.losses.abs().mean(1)",
        "test_importance.py::test_entries_are_drawn_as_the_root_of_their_mean_squared_loss",
    ),
    _(
        "the memory is not saved",
        "training/loop.py",
        ' | ({"times": self.memory.state()} if self.memory else {})',
        "",
        "training/test_resume.py::test_losses_that_times_are_drawn_by_survive_a_stop",
    ),
    _(
        "the memory takes losses that are not finite",
        "training/loop.py",
        "        if all(math.isfinite(value) for value in values.values()):",
        "        if self.memory:\n            self.memory.update(times, losses)\n"
        "        if all(math.isfinite(value) for value in values.values()):",
        "training/test_resume.py::test_losses_of_an_update_that_was_skipped_are_not_remembered",
    ),
    _(
        "sections of a table counted from its end",
        "grids.py",
        "return torch.cat(index).flip(0) / self.entries",
        "return 1 - (torch.cat(index) - 1) / self.entries",
        "test_grids.py::test_sections_are_the_respacing_of_improved_ddpm",
    ),
    _(
        "betas of the cosine without a ceiling",
        "schedules.py",
        ".clamp(max=0.999)",
        ".clamp(max=0.9999)",
        "test_schedules.py::test_the_cosine_table_is_that_of_improved_ddpm",
    ),
    _(
        "a step of noise as flat at the start as at the end",
        "schedules.py",
        '"noise_step": t * (2 - t)',
        '"noise_step": t**2',
        SCHEDULES + "test_a_schedule_is_linear_in_what_it_is_called_by",
    ),
    _(
        "half an angle",
        "schedules.py",
        "lambda angle: -2 * angle.tan().log()",
        "lambda angle: -angle.tan().log()",
        SCHEDULES + "test_linear_in_the_angle_is_the_cosine_schedule",
    ),
    _(
        "x not scaled to the schedule that a model was trained on",
        "guidance.py",
        "scale = own(time).alpha / at.alpha",
        "scale = torch.ones_like(at.alpha)",
        GUIDED + "test_what_knows_the_images_knows_them_on_every_schedule",
    ),
    _(
        "a model asked at the time of another schedule",
        "guidance.py",
        "time = own.inverse(at.log_snr)",
        "time = t",
        GUIDED + "test_what_knows_the_images_knows_them_on_every_schedule",
    ),
    _(
        "levels past the end of training taken for the last",
        "guidance.py",
        "at.log_snr.min() < noisy - _NEAR",
        "at.log_snr.min() < -torch.inf",
        GUIDED + "test_levels_that_a_model_was_not_trained_on_are_refused",
    ),
    _(
        "a search of pictures that are not clipped",
        "grid_search.py",
        "denoise = trained.sampled(trained.model)",
        "denoise = trained.model",
        "test_grid_search.py::test_a_search_tries_pictures_as_they_are_sampled",
    ),
    _(
        "an edit of a model that is not sampled so",
        "cli/editing.py",
        "trained.sampled(counted), counted, recipe",
        "counted, counted, recipe",
        "cli/test_edits.py::test_an_edit_asks_the_model_as_it_is_sampled",
    ),
    _(
        "clean images are not clipped when a recipe says so",
        "generate.py",
        "if self.recipe.clip else denoise",
        "if self.recipe.clip is None else denoise",
        "test_generate.py::test_a_recipe_that_clips_makes_pictures_from_images_that_pixels_can_be",
    ),
]


def main(names):
    """Plant the bugs of these names, or all; the exit code."""
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print(f"no such bug: {', '.join(sorted(unknown))}")
        return 1
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        code, said = _pytest(copy, sorted({test for mutant in chosen for test in mutant.tests}))
        if code != 0:
            print(said, "the tests fail without any bug, or are not there", sep="\n")
            return 1
        missed = [mutant.name for mutant in chosen if not _caught(copy, mutant)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    return 1 if missed else 0


def _caught(copy, mutant):
    """Plant one bug, run its tests, take it out again; whether each of them failed."""
    path = copy / "src" / "ddim" / mutant.file
    sound = path.read_text()
    begin = time.monotonic()
    if sound.count(mutant.old) == 1:
        path.write_text(sound.replace(mutant.old, mutant.new))
        # One by one, each until its first failure. 1: tests ran and failed; an error of import or of
        # collection is 2 and catches nothing.
        codes = {test: _pytest(copy, [test], "-x")[0] for test in mutant.tests}
        path.write_text(sound)
        silent = [test for test, code in codes.items() if code != 1]
        why = f"(pytest ended with {', '.join(str(codes[test]) for test in silent)})"
    else:
        silent, why = mutant.tests, f"{mutant.old!r} stands {sound.count(mutant.old)} times in {mutant.file}"
    caught = not silent
    print(
        f"{'caught  ' if caught else 'SURVIVED'} {time.monotonic() - begin:5.1f} s  {mutant.name}", flush=True
    )
    for test in () if caught else silent:
        print(f"                   {test} did not fail {why}")
    return caught


def _pytest(copy, tests, *options):
    """The exit code and the output of some tests of the copy, on the sources of the copy."""
    sources = copy / "src"
    environment = os.environ | {
        "PYTHONPATH": str(sources),
        "PYTHONDONTWRITEBYTECODE": "1",  # two bugs in one second would share a compiled file
        "OMP_NUM_THREADS": "1",
    }
    where = "import ddim, sys; sys.exit(not ddim.__file__.startswith(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", where, str(sources)], env=environment, check=True, cwd=copy)
    how = ["-q", "--tb=no", "-rf", "-p", "no:randomly", "-p", "no:cacheprovider", *options]
    run = [sys.executable, "-m", "pytest", *how, *(f"tests/{test}" for test in tests)]
    done = subprocess.run(run, env=environment, check=False, cwd=copy, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
