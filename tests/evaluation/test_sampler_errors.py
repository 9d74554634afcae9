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
    error = sampler_errors.error_on_mixture(LAW, normal(4, 1, 2, 2), ENDS)
    table = sampler_errors.compare_samplers(error, ENDS, (5, 40))
    assert len(table) == 4
    for lines in table.values():
        assert lines.keys() == sampler_errors.SAMPLERS.keys()
        assert all(many < few / 4 for (_, few), (_, many) in lines.values())
        assert lines["UniPC-3"][1][0] == lines["DDIM"][1][0] == 40
    assert table["uniform_log_snr"]["UniPC-3"][1][1] < table["uniform_log_snr"]["DDIM"][1][1] / 1000


def test_a_figure_has_a_panel_for_each_grid_and_a_line_for_each_sampler():
    error = sampler_errors.error_on_mixture(LAW, torch.zeros(1, 1, 2, 2, dtype=torch.float64), ENDS)
    figure = plot_sampler_errors(sampler_errors.compare_samplers(error, ENDS, (5, 10)), "oracle")
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert len(axes.get_lines()) == len(sampler_errors.SAMPLERS)
        assert axes.get_yscale() == axes.get_xscale() == "log"


def test_a_schedule_with_fewer_levels_than_the_reference_is_refused():
    run = open_pipeline(Model(lambda x, t: x, Linear(clip="rates", read="floor"), shape=(1, 8, 8)))
    with pytest.raises(UserError, match="the noise levels of 500 times .* are not all different"):
        sampler_errors.prepare_run(run, [0])
