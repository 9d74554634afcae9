"""The mathematics of diffusion: schedules, losses, samplers. It knows no network and no file."""
