"""Charts show the data that they are given, and their words do not cover it."""

import numpy as np
import pytest

from ddim.plots import charts
from distinct_images import find_places, random_images


def plot(series, **labels):
    figure = charts.new_figure(7.2, 4.2)
    charts.draw_curves(figure.add_subplot(), series, **{"xlabel": "x", "ylabel": "y"} | labels)
    return figure


def test_curves_hold_their_data_and_each_name_has_the_colour_of_its_line():
    series = {"rising": ([1, 2, 3], [0.0, 0.5, 1.0]), "$a^2$": ([1, 2], [1.0, 0.2]), "point": ([2], [0.4])}
    (axes,) = plot(series, xlabel="images", ylabel="loss", title="Runs").axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("images", "loss", "Runs")
    words = axes.get_legend().get_texts()
    assert len({word.get_color() for word in words}) == 3
    for (name, (x, y)), line, word in zip(series.items(), axes.get_lines(), words, strict=True):
        assert (list(line.get_xdata()), list(line.get_ydata())) == (x, y)
        assert (word.get_text(), word.get_color()) == (name, line.get_color())
        assert not word.get_parse_math()


def test_long_names_leave_room_for_the_lines():
    figure = plot({f"{20 * 'long '}{k}": ([0, 1], [1.0, 0.5 + k / 1000]) for k in range(5)})
    charts.rasterise(figure)
    (axes,) = figure.axes
    assert axes.bbox.width > figure.bbox.width / 2
    assert axes.get_legend().get_window_extent().x1 < figure.bbox.x1


def test_a_strip_shows_every_pixel_of_every_image_in_rows_and_columns():
    shown = random_images(6, 16, 32)
    figure = charts.plot_strip({"first": shown[:3], "second": shown[3:]}, ["a", "b", "c"], title="Strip")
    sheet = charts.rasterise(figure)
    # 128 pixels are the goal for the longer side: four times 32.
    found = np.array([find_places(sheet, image, scale=4) for image in shown])
    assert found.shape == (6, 1, 2)
    rows, columns = found[:, 0].reshape(2, 3, 2).transpose(2, 0, 1)
    assert (np.diff(rows, axis=1) == 0).all()
    assert (np.diff(rows, axis=0) > 64).all()
    assert (np.diff(columns, axis=0) == 0).all()
    assert (np.diff(columns, axis=1) > 128).all()
    assert {text.get_text() for text in figure.texts} == {"Strip", "first", "second", "a", "b", "c"}


@pytest.mark.parametrize("ending", charts.ENDINGS)
def test_equal_figures_give_equal_files(tmp_path, ending):
    for name in "ab":
        charts.save_figure(tmp_path / f"{name}{ending}", plot({"gap": ([0, 1], [1, np.nan])}))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
