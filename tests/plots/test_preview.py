"""Previews in the terminal."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from ddim.plots.preview import arrange_preview, can_preview, render_preview
from distinct_images import random_images


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
def test_a_preview_decodes_to_the_colours_of_the_image(monkeypatch, height):
    monkeypatch.setenv("COLORTERM", "truecolor")
    picture = random_images(1, height, 5)[0]
    decoded = shown(render_preview(picture))
    assert np.array_equal(decoded[:height], picture)
    assert (decoded[height:] == -1).all()


def test_a_wide_image_is_shrunk_to_the_terminal_and_keeps_its_shape(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, 40:] = 30, 60, 90
    decoded = shown(render_preview(arrange_preview([halves], columns=20)))
    assert decoded.shape == (10, 20, 3)
    assert (decoded[:, :10] == 0).all()
    assert (decoded[:, 10:] == (30, 60, 90)).all()


def test_without_truecolor_each_channel_takes_the_nearest_of_six_levels(monkeypatch):
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.delenv("WT_SESSION", raising=False)
    levels = [0, 95, 135, 175, 215, 255]
    ramp = np.arange(256, dtype=np.uint8)
    picture = np.stack([ramp, ramp[::-1], np.full_like(ramp, 100)], axis=-1)[None]
    text = render_preview(picture)
    codes = [int(code) - 16 for code in re.findall(r"\x1b\[38;5;(\d+)m", text)]
    for value, code in enumerate(codes):
        red, green, blue = levels[code // 36], levels[code // 6 % 6], levels[code % 6]
        assert abs(red - value) == min(abs(level - value) for level in levels)
        assert abs(green - (255 - value)) == min(abs(level - (255 - value)) for level in levels)
        assert blue == 95
    assert len(codes) == 256


@pytest.mark.parametrize(
    ("environment", "tty", "encoding", "can"),
    [
        ({"TERM": "xterm-256color"}, True, "utf-8", True),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, True, "utf-8", True),
        ({"WT_SESSION": "1"}, True, "utf-8", True),
        ({"TERM": "xterm"}, True, "utf-8", False),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, True, "utf-8", False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, "utf-8", False),
        ({"TERM": "xterm-256color"}, False, "utf-8", False),
        ({"TERM": "xterm-256color"}, True, "latin-1", False),
    ],
)
def test_a_preview_needs_a_terminal_with_256_colours(monkeypatch, environment, tty, encoding, can):
    for name in ("TERM", "COLORTERM", "NO_COLOR", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert can_preview(SimpleNamespace(isatty=lambda: tty, encoding=encoding)) is can


@pytest.mark.parametrize(
    ("size", "columns", "rows", "wanted"),
    [(64, 100, 1, (24, 99)), (16, 100, 2, (33, 84)), (64, 20, 1, (20, 20)), (64, 400, 1, (24, 249))],
)
def test_a_preview_shows_as_many_samples_as_can_be_recognised(size, columns, rows, wanted):
    assert arrange_preview(list(random_images(10, size, size)), columns, rows).shape == (*wanted, 3)
