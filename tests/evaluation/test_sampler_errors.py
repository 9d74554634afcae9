"""Errors of samplers against samples with many steps, on a law with a known score."""

from ddim.diffusion.samplers import DDIM, EDM
from ddim.evaluation.figures import plot_sampler_errors
from ddim.evaluation.sampler_errors import SAMPLERS, compare_samplers, count_levels, prepare_oracle


def test_a_budget_of_evaluations_gives_this_many_levels():
    assert count_levels(DDIM(), 10) == 10
    assert [count_levels(EDM(), nfe) for nfe in (10, 5, 2)] == [5, 3, 2]


def test_more_evaluations_and_better_samplers_have_less_error():
    table = compare_samplers(*prepare_oracle(4), (5, 40))
    assert len(table) == 4
    for lines in table.values():
        assert lines.keys() == SAMPLERS.keys()
        assert all(many < few / 4 for (_, few), (_, many) in lines.values())
        assert lines["UniPC-3"][1][0] == lines["DDIM"][1][0] == 40
    assert table["uniform_log_snr"]["UniPC-3"][1][1] < table["uniform_log_snr"]["DDIM"][1][1] / 1000
    figure = plot_sampler_errors(table, "oracle")
    for axes in figure.axes:
        assert len(axes.get_lines()) == len(SAMPLERS)
        assert axes.get_yscale() == axes.get_xscale() == "log"
