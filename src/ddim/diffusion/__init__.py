"""The mathematics of diffusion: schedules, losses, samplers. It does not depend on networks or files."""
