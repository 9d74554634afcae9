"""Previews in the terminal."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from ddim.plots.pictures import arrange_preview, can_preview, render_preview
from distinct_images import random_images


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def shown(text):
    """What a truecolor terminal would show: (H, W, 3), with -1 where its own background is."""
    rows = []
    for line in text.split("\n"):
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+)(?:;48;2;(\d+);(\d+);(\d+))?m▀\x1b\[0m", line)
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


def test_without_truecolor_a_preview_has_numbered_colours(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    picture = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    assert re.findall(r"\x1b\[38;5;(\d+)m▀", render_preview(picture)) == ["196", "21"]


@pytest.mark.parametrize(
    ("environment", "tty", "encoding", "can"),
    [
        ({"TERM": "xterm-256color"}, True, "utf-8", True),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, True, "utf-8", True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, "utf-8", False),
        ({"TERM": "xterm-256color"}, False, "utf-8", False),
        ({"TERM": "xterm-256color"}, True, "latin-1", False),
    ],
)
def test_a_preview_needs_a_terminal_with_256_colours(monkeypatch, environment, tty, encoding, can):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert can_preview(SimpleNamespace(isatty=lambda: tty, encoding=encoding)) is can


@pytest.mark.parametrize(
    ("size", "columns", "rows", "wanted"),
    [(64, 100, 1, (24, 99)), (16, 100, 2, (33, 84)), (64, 20, 1, (20, 20)), (64, 400, 1, (24, 249))],
)
def test_a_preview_shows_as_many_samples_as_can_be_recognised(size, columns, rows, wanted):
    assert arrange_preview(list(random_images(10, size, size)), columns, rows).shape == (*wanted, 3)
