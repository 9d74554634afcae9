import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import DDIM, EDM
from ddim.diffusion.schedules import Cosine, Linear
from ddim.errors import UserError
from ddim.evaluation import sampler_errors
from ddim.evaluation.figures import plot_sampler_errors
from ddim.evaluation.sampler_errors import TimeRange
from ddim.sampling.pipeline import open_pipeline
from oracles import normal

LAW = Mixture(Cosine(0.1, 0.999), normal(3, 1, 2, 2, seed=1), 0.5)
ENDS = TimeRange(LAW.schedule, 0.1)


@pytest.mark.parametrize(
    "sampler, nfe, count",
    [
        (DDIM(), 10, 10),
        (EDM(), 10, 5),
        (EDM(), 5, 3),
        (EDM(), 2, 2),
    ],
)
def test_a_budget_of_evaluations_gives_this_many_levels(sampler, nfe, count):
    assert sampler_errors.count_levels(sampler, nfe) == count


def test_more_evaluations_and_better_samplers_have_less_error():
    error = sampler_errors.sampling_error_of_oracle(LAW, normal(4, 1, 2, 2), ENDS)
    cells = sampler_errors.compare_samplers(error, ENDS, (5, 40))
    table = {(c.sampler, c.grid, c.nfe): c.error for c in cells}
    assert len(table) == len(sampler_errors.SAMPLERS) * 4 * 2
    for (sampler, grid, nfe), value in table.items():
        if nfe > 5:
            few = next(v for (s, g, n), v in table.items() if (s, g) == (sampler, grid) and n <= 5)
            assert value < few / 4, (sampler, grid)
    assert table["UniPC-3", "uniform_log_snr", 40] < table["DDIM", "uniform_log_snr", 40] / 1000


def test_a_figure_has_a_panel_for_each_grid_and_a_line_for_each_sampler():
    error = sampler_errors.sampling_error_of_oracle(LAW, torch.zeros(1, 1, 2, 2, dtype=torch.float64), ENDS)
    figure = plot_sampler_errors(sampler_errors.compare_samplers(error, ENDS, (5, 10)), "oracle")
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert len(axes.get_lines()) == len(sampler_errors.SAMPLERS)
        assert axes.get_yscale() == axes.get_xscale() == "log"


def test_a_schedule_with_fewer_levels_than_the_reference_is_refused():
    run = open_pipeline(Model(lambda x, t: x, Linear(clip="rates", read="floor"), shape=(1, 8, 8)))
    with pytest.raises(UserError, match="the noise levels of 500 times .* are not all different"):
        sampler_errors.compare_samplers_on_run(run, [5], [0])
