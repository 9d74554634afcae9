"""Pictures hold exactly what they were given."""

import io
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddim.errors import UserError
from ddim.plots import pictures as plots


def pictures(count, height=16, width=16, channels=3, seed=0):
    """(B, H, W, C) uint8, every pixel of its own."""
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tensor(pixels):
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)


def places(sheet, picture, scale=1):
    """(row, column) of the top left corners at which a picture lies in a sheet, enlarged."""
    large = np.kron(picture, np.ones((scale, scale, 1), np.uint8))
    height, width = large.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (1, 1, 3))[..., 0, 0, :]
    corners = np.argwhere((windows[:, :, 0] == large[0, 0]).all(-1))
    return [
        (int(y), int(x)) for y, x in corners if np.array_equal(sheet[y : y + height, x : x + width], large)
    ]


# --- images -------------------------------------------------------------------------------------------------


def test_every_level_of_eight_bits_survives_and_what_lies_between_goes_to_the_nearest():
    levels = torch.arange(256, dtype=torch.float64)
    for shift in (-0.49, 0.0, 0.49):
        image = ((levels + shift) / 255).float().reshape(1, 1, 16, 16)
        assert plots.to_uint8(image).ravel().tolist() == list(range(256))


def test_images_outside_the_range_are_clamped_and_numbers_that_are_none_are_black():
    image = torch.tensor([-0.5, 1.5, torch.nan, torch.inf, -torch.inf, 1.0]).reshape(1, 1, 2, 3)
    assert plots.to_uint8(image)[..., 0].tolist() == [[[0, 255, 0], [255, 0, 255]]]


def test_uint8_images_pass_unchanged_channels_last():
    pixels = pictures(2, 3, 5, 4)
    assert np.array_equal(plots.to_uint8(tensor(pixels)), pixels)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 8, 8), (1, 5, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(UserError, match=re.escape(str(shape))):
        plots.to_uint8(torch.zeros(shape))


@pytest.mark.parametrize(("count", "columns", "gap"), [(7, 3, 2), (6, 2, 0), (5, None, 1), (3, 8, 4)])
def test_a_grid_puts_image_k_at_its_row_and_column(count, columns, gap):
    images = pictures(count, 6, 5)
    sheet = plots.grid(tensor(images), columns, gap)
    wide = {None: 3, 8: 3}.get(columns, columns)  # 3 columns for 5 images; never more columns than images
    assert sheet.shape[1] == wide * 5 + (wide - 1) * gap
    for k, image in enumerate(images):
        assert places(sheet, image) == [(k // wide * (6 + gap), k % wide * (5 + gap))]


def test_a_grid_is_white_between_images_and_where_there_is_none():
    sheet = plots.grid(torch.zeros(3, 3, 4, 4), columns=2, gap=2)
    assert sheet.shape == (10, 10, 3)
    black = (sheet == 0).all(-1)
    assert black.sum() == 3 * 16
    assert (sheet[~black] == 255).all()


def test_a_grid_of_gray_images_is_rgb_of_equal_channels():
    gray = pictures(1, 4, 4, 1)
    sheet = plots.grid(tensor(gray))
    assert sheet.shape == (4, 4, 3)
    assert (sheet == gray[0]).all()


def test_transparency_shows_a_light_checker_board_and_opacity_hides_it():
    image = np.zeros((1, 32, 32, 4), np.uint8)
    image[..., :3] = 10, 200, 90
    clear = plots.grid(tensor(image))
    assert len({tuple(pixel) for pixel in clear.reshape(-1, 3).tolist()}) == 2
    assert clear.min() > 200
    image[..., 3] = 255
    assert (plots.grid(tensor(image)) == (10, 200, 90)).all()
    image[..., 3] = 51
    mixed = 0.2 * np.array([10, 200, 90]) + 0.8 * clear.astype(float)
    assert np.abs(plots.grid(tensor(image)) - mixed).max() <= 0.5


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(UserError, match="an image"):
        plots.grid(torch.zeros(0, 3, 4, 4))


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_saved_png_gives_its_pixels_back(tmp_path, channels):
    pixels = pictures(1, channels=channels)[0]
    plots.save_png(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_equal_pixels_give_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plots.save_png(tmp_path / name, pictures(1)[0])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    plots.save_png(path, pictures(1)[0])
    before = path.read_bytes()

    def full(file):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        plots.save_png(path, pictures(1, seed=1)[0])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        plots.save_png(tmp_path / "nowhere" / "a.png", pictures(1)[0])


def test_a_picture_may_replace_one_of_ours_and_no_other_file(tmp_path):
    ours, theirs, text = (tmp_path / name for name in ("ours.png", "theirs.png", "text.png"))
    plots.save_png(ours, pictures(1)[0])
    Image.fromarray(pictures(1)[0]).save(theirs)
    text.write_text("no picture")
    plots.check_out(ours)
    plots.check_out(tmp_path / "new.png")
    for path in (theirs, text):
        with pytest.raises(UserError, match="not made by ddim"):
            plots.check_out(path)
    with pytest.raises(UserError, match="must end in"):
        plots.check_out(tmp_path / "new.jpg")
    with pytest.raises(UserError, match="does not exist"):
        plots.check_out(tmp_path / "nowhere" / "a.png")


def test_a_film_has_a_frame_for_each_state_each_exact_and_holds_the_last(tmp_path):
    frames = list(pictures(5, 20, 24))
    plots.save_film(tmp_path / "film.webp", frames, seconds=2.0)
    durations = []
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == 5
        assert film.info["loop"] == 0
        for k, frame in enumerate(frames):
            film.seek(k)
            film.load()
            assert np.array_equal(np.asarray(film.convert("RGB")), frame)
            durations.append(film.info["duration"])
    assert durations == [500, 500, 500, 500, 1000]


def test_a_film_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="a film needs a frame"):
        plots.save_film(tmp_path / "film.webp", [])


# --- figures ------------------------------------------------------------------------------------------------


def test_curves_hold_their_data_and_name_each_line_once_in_its_colour():
    series = {"rising": ([1, 2, 3], [0.0, 0.5, 1.0]), "falling": ([1, 2], [1.0, 0.2]), "point": ([2], [0.4])}
    figure = plots.curves(series, "images", "loss", title="Runs")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("images", "loss", "Runs")
    words = {text.get_text(): text.get_color() for text in axes.texts}
    assert len(axes.texts) == len(axes.get_lines()) == 3
    for (name, (x, y)), line in zip(series.items(), axes.get_lines(), strict=True):
        assert (list(line.get_xdata()), list(line.get_ydata())) == (x, y)
        assert words[name] == line.get_color()
    assert len(set(words.values())) == 3


def test_a_logarithmic_axis_is_one_and_a_gap_in_a_line_does_not_lose_its_name():
    x = np.geomspace(1e-7, 0.1, 50)
    figure = plots.curves({"suggested": (x, np.where(x > 0.01, np.nan, x))}, "rate", "loss", log_x=True)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["suggested"]
    plots.drawn(figure)


def test_names_lie_within_the_figure_and_do_not_cover_each_other():
    series = {f"{40 * 'long '}{k}": ([0, 1], [1.0, 0.5 + k / 1000]) for k in range(5)}
    figure = plots.curves(series, "x", "y")
    plots.drawn(figure)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert [name[-1] for name in names] == list("01234")
    assert all(name.startswith("long") and "…" in name for name in names)
    assert figure.axes[0].bbox.width > figure.bbox.width / 2
    boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(box.x0 > 0 and box.x1 < figure.bbox.x1 for box in boxes)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))


def test_a_name_stays_at_the_end_of_its_line_when_the_panel_is_widened():
    figure = plots.curves({"line": ([0, 1], [0.2, 0.4])}, "x", "y")
    figure.axes[0].set_ylim(-3, 3)
    plots.drawn(figure)
    box = figure.axes[0].texts[0].get_window_extent()
    end = figure.axes[0].transData.transform((1, 0.4))[1]
    assert abs((box.y0 + box.y1) / 2 - end) < 3


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.3))
def test_places_spread_apart_keep_their_order_and_their_mean(given_places, apart):
    moved = plots.spread(given_places, apart)
    order = sorted(range(len(moved)), key=given_places.__getitem__)
    gaps = np.diff([moved[k] for k in order])
    assert (gaps > apart - 1e-9).all()
    assert np.isclose(np.mean(moved), np.mean(given_places))


def test_a_name_that_looks_like_a_formula_stays_a_name():
    figure = plots.curves({"$a^2$ and $b": ([0, 1], [0, 1])}, "x", "y")
    plots.drawn(figure)
    assert not figure.axes[0].texts[0].get_parse_math()


def test_places_far_enough_apart_do_not_move():
    assert plots.spread([0.9, 0.1, 0.5], 0.2) == [0.9, 0.1, 0.5]


def test_a_strip_shows_every_pixel_of_every_picture_in_rows_and_columns():
    shown = pictures(6, 16, 32)
    figure = plots.strip({"first": shown[:3], "second": shown[3:]}, ["a", "b", "c"], title="Strip")
    sheet = plots.drawn(figure)
    # 128 pixels are the goal for the longer side: four times 32.
    found = np.array([places(sheet, picture, scale=4) for picture in shown])
    assert found.shape == (6, 1, 2)
    rows, columns = found[:, 0].reshape(2, 3, 2).transpose(2, 0, 1)
    assert (np.diff(rows, axis=1) == 0).all()
    assert (np.diff(rows, axis=0) > 64).all()
    assert (np.diff(columns, axis=0) == 0).all()
    assert (np.diff(columns, axis=1) > 128).all()
    assert {text.get_text() for text in figure.texts} == {"Strip", "first", "second", "a", "b", "c"}


def test_the_words_of_a_strip_do_not_cover_its_pictures():
    name = "a long name,\nin two lines"
    blank = np.zeros((1, 8, 8, 3), np.uint8)
    figure = plots.strip({name: blank}, ["t = 0.5"], {name: ["a note"]}, "Title")
    sheet = plots.drawn(figure)
    rows, columns = np.nonzero((sheet == 0).all(-1))
    high = sheet.shape[0]
    for text in figure.texts:
        box = text.get_window_extent()
        beside = box.x1 < columns.min() or box.x0 > columns.max()
        assert beside or high - box.y0 < rows.min() or high - box.y1 > rows.max(), text.get_text()


def test_an_equal_figure_is_saved_as_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        plots.save_figure(tmp_path / name, plots.curves({"line": ([0, 1], [0, 1])}, "x", "y"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# --- the terminal -------------------------------------------------------------------------------------------


def shown(text):
    """What a truecolor terminal would show: (H, W, 3), with -1 where its own background is."""
    rows = []
    for line in text.split("\n"):
        assert line.endswith("\x1b[0m")
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+)m(?:\x1b\[48;2;(\d+);(\d+);(\d+)m)?▀", line)
        assert line.count("▀") == len(cells)
        numbers = np.array([[int(value or -1) for value in cell] for cell in cells])
        rows += [numbers[:, :3], numbers[:, 3:]]
    return np.array(rows)


@pytest.mark.parametrize("height", [6, 7])
def test_a_preview_decodes_to_the_colours_of_the_picture(monkeypatch, height):
    monkeypatch.setenv("COLORTERM", "truecolor")
    picture = pictures(1, height, 5)[0]
    decoded = shown(plots.terminal(picture, columns=40))
    assert np.array_equal(decoded[:height], picture)
    assert (decoded[height:] == -1).all()


def test_a_wide_picture_is_made_as_wide_as_the_terminal_and_keeps_its_shape(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, 40:] = 30, 60, 90
    decoded = shown(plots.terminal(halves, columns=20))
    assert decoded.shape == (10, 20, 3)
    assert (decoded[:, :10] == 0).all()
    assert (decoded[:, 10:] == (30, 60, 90)).all()


def test_without_truecolor_each_channel_goes_to_the_nearest_level_of_the_cube(monkeypatch):
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.delenv("WT_SESSION", raising=False)
    levels = [0, 95, 135, 175, 215, 255]
    ramp = np.arange(256, dtype=np.uint8)
    picture = np.stack([ramp, ramp[::-1], np.full_like(ramp, 100)], axis=-1)[None]
    text = plots.terminal(picture, columns=256)
    codes = [int(code) - 16 for code in re.findall(r"\x1b\[38;5;(\d+)m", text)]
    for value, code in enumerate(codes):
        red, green, blue = levels[code // 36], levels[code // 6 % 6], levels[code % 6]
        assert abs(red - value) == min(abs(level - value) for level in levels)
        assert abs(green - (255 - value)) == min(abs(level - (255 - value)) for level in levels)
        assert blue == 95
    assert len(codes) == 256


class Stream(io.TextIOWrapper):
    def __init__(self, tty=True, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.tty = tty

    def isatty(self):
        return self.tty


@pytest.mark.parametrize(
    ("environment", "stream", "can"),
    [
        ({"TERM": "xterm-256color"}, {}, True),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, {}, True),
        ({"TERM": "xterm-kitty", "COLORTERM": "24bit"}, {}, True),
        ({"WT_SESSION": "1"}, {}, True),
        ({"TERM": "xterm"}, {}, False),
        ({}, {}, False),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, {}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, {}, False),
        ({"TERM": "xterm-256color"}, {"tty": False}, False),
        ({"TERM": "xterm-256color"}, {"encoding": "latin-1"}, False),
    ],
)
def test_a_preview_is_shown_only_where_it_can_be_seen(monkeypatch, environment, stream, can):
    for name in ("TERM", "COLORTERM", "NO_COLOR", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Stream(**stream) as output:
        assert plots.can_preview(output) is can
