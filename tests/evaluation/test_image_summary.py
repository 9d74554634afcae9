"""The description of the images of a source, and the sheet that shows them."""

import json

import numpy as np
import pytest

import ddim
from archives import as_folder
from bad_images import encoded
from ddim.data.decode import FORMATS
from ddim.plots import charts


def noise(seed, height=12, width=12):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(here, empty_cache):
    """Five images in two classes, with copies within and across classes, and two broken files."""
    files = {
        "rose/a.png": encoded(noise(0), "PNG"),
        "rose/b.png": encoded(noise(0), "PNG"),
        "aster/a.png": encoded(noise(0), "PNG"),
        "aster/c.png": encoded(noise(1, 6, 40), "PNG"),
        "aster/d.bmp": encoded(noise(2, 30, 20)[..., 0], "BMP"),
        "aster/broken\x1b[31m.png": b"",
        "aster/torn.png": encoded(noise(3), "PNG")[:-40],
        "notes.txt": b"",
    }
    return as_folder(here / "photos", files)


def test_the_command_describes_the_images_line_by_line(folder, command):
    assert command("data photos --size 12").out.splitlines() == [
        "photos: 5 usable images, 12x12, RGB; 2 files rejected",
        "original sizes: 12x12 3, 6x40 1, 30x20 1",
        "enlarged: 1",
        "formats: PNG 4, BMP 1",
        "modes: RGB 4, L 1",
        "classes: aster 3, rose 2",
        "skipped: 1",
        r"rejected: aster/broken\x1b[31m.png: contains no image that can be read ("
        + ", ".join(FORMATS)
        + ")",
        "rejected: aster/torn.png: damaged: Truncated File Read",
        "equal: aster/a.png = rose/a.png = rose/b.png",
        "grid: data-grid.png",
    ]
    # An existing file is never replaced.
    found = json.loads(command("data photos --size 8x12 --json").out)
    assert (found["images"], found["size"], found["sheet"]) == (5, [8, 12], "data-grid-2.png")
    command("data photos --out data-grid.png", code=2)


def gray(value):
    """An image of one gray with a little noise, so that no two are equal."""
    return encoded((value + noise(value) % 5).astype(np.uint8), "PNG")


def test_clusters_are_counted_and_each_has_a_row_of_its_typical_images(folder, tmp_path, monkeypatch):
    grays, drawn, plot_strip = [*range(20, 34), *range(200, 206)], [], charts.plot_strip
    monkeypatch.setattr(charts, "plot_strip", lambda *strip: drawn.append(strip) or plot_strip(*strip))
    as_folder(tmp_path / "grays", {f"{k}.png": gray(k) for k in grays})
    found = ddim.inspect_data("grays", size=8, clusters=2)
    # Two of the 20 images are held out.
    sizes = sorted(found.facts["clusters"].values(), reverse=True)
    assert sum(sizes) == 18
    assert found.sheet.name == "data-clusters.png"
    ((rows, heads),) = drawn
    assert list(rows) == list(found.facts["clusters"])
    dark, light = rows.values()
    assert (len(dark), len(light)) == (len(heads), sizes[1])
    assert np.max(dark) < 60
    assert 190 < np.min(light) <= np.max(light) < 215
