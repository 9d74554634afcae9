"""Files and previews hold exactly the pixels that they are given."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddim.errors import UserError
from ddim.plots.pictures import (
    GAP,
    check_picture_path,
    enlarge,
    find_unused_path,
    make_sheet,
    save_film,
    save_png,
    sheet,
    split_sheet,
    to_uint8,
)
from distinct_images import find_places, random_images, to_tensor

# Images


def test_values_are_rounded_to_the_nearest_of_256_levels_and_nan_becomes_black():
    levels = torch.arange(256, dtype=torch.float64)
    for shift in (-0.49, 0.0, 0.49):
        image = ((levels + shift) / 255).float().reshape(1, 1, 16, 16)
        assert to_uint8(image).ravel().tolist() == list(range(256))
    image = torch.tensor([-0.5, 1.5, torch.nan, torch.inf, -torch.inf, 1.0]).reshape(1, 1, 2, 3)
    assert to_uint8(image)[..., 0].tolist() == [[[0, 255, 0], [255, 0, 255]]]


@pytest.mark.parametrize(("count", "columns"), [(7, 3), (6, 2), (5, None), (3, 8)])
def test_a_sheet_puts_image_k_at_its_row_and_column(count, columns):
    images = random_images(count, 6, 5)
    sheet = make_sheet(to_tensor(images), columns)
    wide = {None: 3, 8: 3}.get(columns, columns)  # 3 columns for 5 images; never more columns than images
    assert sheet.shape[1] == wide * 5 + (wide - 1) * GAP
    for k, image in enumerate(images):
        top, left = k // wide * (6 + GAP), k % wide * (5 + GAP)
        assert find_places(sheet, image) == [(top, left)]
        sheet[top : top + 6, left : left + 5] = 255
    assert (sheet == 255).all()  # between images and in empty cells


def test_transparent_pixels_show_a_light_checker_board():
    image = np.zeros((1, 32, 32, 4), np.uint8)
    image[..., :3] = 10, 200, 90
    clear = make_sheet(to_tensor(image))
    assert len({tuple(pixel) for pixel in clear.reshape(-1, 3).tolist()}) == 2
    assert clear.min() > 200
    image[..., 3] = 255
    assert (make_sheet(to_tensor(image)) == (10, 200, 90)).all()
    image[..., 3] = 51
    mixed = 0.2 * np.array([10, 200, 90]) + 0.8 * clear.astype(float)
    assert np.abs(make_sheet(to_tensor(image)) - mixed).max() <= 0.5


@pytest.mark.parametrize("zoom", [1, None])
def test_a_sheet_takes_tensors_arrays_and_lists_and_is_enlarged_by_a_whole_factor(zoom):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = enlarge(make_sheet(images), zoom)
    for given in (images, images.numpy(), [*images], [*images.numpy()], images.numpy()[::-1].copy()[::-1]):
        assert np.array_equal(np.asarray(sheet(given, zoom=zoom)), wanted)
    assert wanted.shape[0] == 34 * (zoom or 24)
    gray = random_images(1, 4, 4, 1)
    assert np.array_equal(np.asarray(sheet(to_tensor(gray)[0], zoom=1)), np.repeat(gray[0], 3, 2))
    for value in (-0.5, 1.01, 200.0, torch.nan):
        with pytest.raises(UserError, match="images must be"):
            sheet(torch.full((2, 3, 8, 8), value))
    for factor in (0, 65, 2.5):
        with pytest.raises(UserError, match="zoom must be"):
            sheet(torch.zeros(1, 3, 4, 4), zoom=factor)


# Files


def test_a_saved_png_holds_its_pixels_exactly(tmp_path):
    gray = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    for pixels in (gray, *(random_images(1, channels=channels)[0] for channels in (1, 3, 4))):
        save_png(tmp_path / "a.png", pixels)
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_a_picture_replaces_a_file_only_if_asked(tmp_path):
    old = tmp_path / "old.png"
    save_png(old, random_images(1)[0])
    check_picture_path(tmp_path / "new.png")
    check_picture_path(old, replace=True)
    for path in (old, tmp_path / "new.jpg", tmp_path / "nowhere" / "a.png"):
        with pytest.raises(UserError, match=path.name):
            check_picture_path(path)
    assert find_unused_path(old).name == "old-2.png"


@pytest.mark.parametrize(("shape", "zoom"), [((202, 202), 4), ((32, 48), 17), ((540, 100), 1), ((900, 9), 1)])
def test_small_images_are_enlarged_by_a_whole_factor_to_about_800_pixels(shape, zoom):
    pixels = random_images(1, *shape)[0]
    large = enlarge(pixels)
    assert large.shape == (shape[0] * zoom, shape[1] * zoom, 3)
    for row in range(zoom):
        assert np.array_equal(large[row::zoom, zoom - 1 :: zoom], pixels)


@pytest.mark.parametrize("zoom", [1, 4, 7, None])
@pytest.mark.parametrize(("count", "height", "width"), [(1, 32, 20), (3, 32, 20), (36, 32, 20), (16, 8, 8)])
def test_an_enlarged_sheet_is_split_into_its_exact_images(zoom, count, height, width):
    """16 images of 8 x 8 are enlarged 21 times, and 798 + 2 pixels are also a multiple of 8 + 2."""
    images = random_images(count, height, width)
    cells = split_sheet(enlarge(make_sheet(to_tensor(images)), zoom), height, width)
    assert np.array_equal(np.stack(cells[:count]), images)


def test_a_film_holds_every_frame_exactly_and_shows_the_last_longer(tmp_path):
    frames = list(random_images(5, 20, 24))
    save_film(tmp_path / "film.webp", frames)
    durations = []
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == 5
        assert film.info["loop"] == 0
        for k, frame in enumerate(frames):
            film.seek(k)
            film.load()
            assert np.array_equal(np.asarray(film.convert("RGB")), enlarge(frame))
            durations.append(film.info["duration"])
    assert durations == [1000, 1000, 1000, 1000, 2000]
