"""Bugs that the tests of diffusion must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "the integral of a linear beta lacks its factor 1/2",
        "diffusion/schedules.py",
        "(self.high - self.low) / 2 * t**2 => (self.high - self.low) * t**2",
        "diffusion/test_schedules.py::test_linear_beta_solves_its_differential_equation",
    ),
    bug(
        "log-SNR is computed from rates and not from powers",
        "diffusion/schedules.py",
        "return 2 * (self.alpha.log() - self.sigma.log()) => return self.alpha.log() - self.sigma.log()",
        "diffusion/test_schedules.py::test_a_linear_in_schedule_is_linear_in_its_quantity",
    ),
    bug(
        "all images of a batch share one random stream",
        "diffusion/noise.py",
        "image.normal_(generator=stream) => image.normal_(generator=self.streams[0])",
        "diffusion/test_noise.py::test_an_image_depends_on_its_own_seed_only",
    ),
    bug(
        "the loss compares noise with image",
        "diffusion/parameterisation.py",
        "return a * p.eps - b * p.x0 => return a * p.x0 - b * p.eps",
        "diffusion/test_loss.py::test_the_error_of_the_image_is_the_mean_over_its_numbers",
    ),
    bug(
        "a DDIM step takes alpha of the wrong time",
        "diffusion/samplers.py",
        "spread_over(then.alpha, x) * p.x0 => spread_over(now.alpha, x) * p.x0",
        "diffusion/samplers/test_convergence.py::test_every_sampler_has_its_order_on_every_grid",
    ),
    bug(
        "a stochastic DDIM step keeps all of the predicted noise",
        "diffusion/samplers.py",
        "(then.sigma**2 - fresh**2) => (then.sigma**2)",
        "diffusion/samplers/test_stochastic.py::test_around_one_image_every_step_leaves_exactly_the_noise_of_its_level",
    ),
    bug(
        "a learned variance is interpolated linearly and not in its logarithm",
        "diffusion/likelihood.py",
        "return low + mix * (high - low) => return (low.exp() + mix * (high.exp() - low.exp())).log()",
        "diffusion/test_likelihood.py::test_the_learned_variance_goes_from_small_to_large_in_the_logarithm",
    ),
    bug(
        "guidance moves away from the label",
        "diffusion/guidance.py",
        "torch.lerp(weak.x0, strong.x0, scale) => torch.lerp(strong.x0, weak.x0, scale)",
        "diffusion/test_guidance.py::test_guidance_raises_the_strong_density_over_the_weak_one",
    ),
    bug(
        "the sample lacks the last evaluation",
        "diffusion/sampler.py",
        "yield State(x, times[-1].item(), denoise(x, times[-1]).x0) => yield State(x, times[-1].item(), x)",
        "diffusion/samplers/test_convergence.py::test_a_sampler_states_its_evaluations_and_whether_it_is_stochastic",
    ),
    bug(
        "the inpainting mask is inverted",
        "diffusion/editing.py",
        "mask * new + (1 - mask) * known => (1 - mask) * new + mask * known",
        "diffusion/test_editing.py::test_the_known_part_of_an_inpainted_sample_is_the_image",
    ),
    bug(
        "the divergence in the likelihood has the wrong sign",
        "diffusion/likelihood.py",
        "- fallen / math.log(2) => + fallen / math.log(2)",
        "diffusion/test_likelihood.py::test_the_flow_gives_the_exact_bits_of_a_distribution",
    ),
    bug(
        "importance sampling uses the mean loss and not its square",
        "diffusion/times.py",
        "self.losses.square().mean(1).sqrt() => self.losses.abs().mean(1)",
        "diffusion/test_times.py::test_entries_are_drawn_as_the_root_of_their_mean_squared_loss",
    ),
    bug(
        "eps belongs to the image before clipping",
        "diffusion/guidance.py",
        "if self.keep: => if True:",
        "diffusion/test_guidance.py::test_clipping_holds_each_channel_within_its_bounds_and_leaves_the_rest",
    ),
    bug(
        "a single noise level is copied to the device",
        "diffusion/schedules.py",
        "return value.to(x.dtype) => return value.to(x)",
        "diffusion/test_devices.py::test_sampling_never_waits_for_the_device",
    ),
    bug(
        "in one batch, the halves with and without a label are swapped",
        "diffusion/guidance.py",
        "torch.cat([label, none]) => torch.cat([none, label])",
        "diffusion/test_guidance.py::test_one_model_predicts_with_and_without_its_label_in_one_batch",
    ),
]
