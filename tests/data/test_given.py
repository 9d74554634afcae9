"""Images that are given from Python: tensors, arrays and data sets."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from bad_images import with_orientation
from ddim.data import open_images
from ddim.data.arrays import give_images
from ddim.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)


def opened(data, cache, size=None, channels=None):
    source = give_images(data)
    return open_images(source.text, size or source.size, channels, cache=cache)


@pytest.mark.parametrize(
    "data",
    [
        PIXELS,
        PIXELS.transpose(0, 3, 1, 2),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255,
        PIXELS / 255,
        TensorDataset(torch.from_numpy(PIXELS)),
        [Image.fromarray(image) for image in PIXELS],
    ],
    ids=["NHWC", "NCHW", "tensor", "tensor NCHW", "floats", "doubles", "data set", "Pillow"],
)
def test_the_pixels_are_those_that_were_given(data, tmp_path):
    images = opened(data, tmp_path)
    assert np.array_equal(images.pixels, PIXELS)
    assert images.labels is None
    assert images.fingerprint == opened(PIXELS, tmp_path).fingerprint


def test_gray_and_transparent_images_keep_their_channels(tmp_path):
    assert np.array_equal(opened(PIXELS[..., :1], tmp_path).pixels, PIXELS[..., :1])
    clear = np.concatenate([PIXELS, PIXELS[..., :1]], 3)
    assert np.array_equal(opened(clear, tmp_path).pixels, clear)
    assert opened(PIXELS, tmp_path, (8, 8), channels=1).pixels.shape == (5, 8, 8, 1)


def test_images_of_pillow_of_other_modes_are_converted_or_refused(tmp_path):
    photo = Image.fromarray(PIXELS[0])
    for mode in ("CMYK", "YCbCr"):
        other = photo.convert(mode)
        assert np.array_equal(opened([other], tmp_path).pixels[0], np.asarray(other.convert("RGB")))
    floats = np.linspace(0, 3, 384, dtype=np.float32).reshape(16, 24)
    for exact in (floats, floats / 3):
        assert np.array_equal(opened([Image.fromarray(exact)], tmp_path).pixels[0, ..., 0], exact)
    with pytest.raises(UserError, match="image 1 has the mode 'LAB': convert it"):
        opened([photo, Image.new("LAB", (24, 16))], tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_images_of_pillow_are_turned_by_their_orientation_as_files_are(mode, tmp_path):
    upright = np.asarray(Image.fromarray(PIXELS[0]).convert(mode))
    with Image.open(io.BytesIO(with_orientation(upright, 6, "PNG"))) as photo:
        assert photo.size == (16, 24)
        pixels = opened([photo], tmp_path).pixels[0]
    assert np.array_equal(pixels, upright.reshape(16, 24, -1))


class Pairs(Dataset):
    """A data set of pairs without an end, as torch allows it."""

    classes = ["tulip", "rose", "aster"]

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, k):
        return Image.fromarray(PIXELS[k % 5]), [2, 0, 2, 0, 0][k % 5]


def test_labels_keep_their_numbers_and_names(tmp_path):
    images = opened(Pairs(), tmp_path)
    assert images.classes == ("tulip", "rose", "aster")
    found = {image.tobytes(): label for image, label in zip(images.pixels, images.labels, strict=True)}
    assert [found[image.tobytes()] for image in PIXELS] == [2, 0, 2, 0, 0]
    unnamed = opened(TensorDataset(torch.from_numpy(PIXELS), torch.tensor([1, 3, 1, 1, 1])), tmp_path)
    assert unnamed.classes == ("0", "1", "2", "3")
    assert sorted(unnamed.labels) == [1, 1, 1, 1, 3]
    assert len({images.fingerprint, unnamed.fingerprint, opened(PIXELS, tmp_path).fingerprint}) == 3


def test_images_without_an_index_are_read_as_they_come(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(PIXELS)

    assert np.array_equal(opened(Stream(), tmp_path).pixels, PIXELS)


def test_different_sizes_need_a_size(tmp_path):
    several = [PIXELS[0], PIXELS[1, :8]]
    with pytest.raises(UserError, match="different sizes, such as 8x24 and 16x24: give a size"):
        opened(several, tmp_path)
    assert opened(several, tmp_path, (8, 8)).pixels.shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(5, 3, 16, 16) - 1, r"float32 from -1 to -1 in image 0: \(x \+ 1\) / 2 maps"),
        (torch.full((5, 3, 16, 16), 200.0), "from 200 to 200 in image 0: divide them by 255"),
        (torch.full((5, 3, 16, 16), 1.01, dtype=torch.float64), "from 1.01 to 1.01 in image 0: clamp"),
        (torch.full((5, 3, 16, 16), torch.nan), r"floats in \[0, 1\], got float32 from nan"),
        (
            torch.zeros(5, 3, 16, 16, dtype=torch.int64),
            "got int64 .* 0: convert them to uint8",
        ),
        (torch.zeros(5, 16, 16), r"got \(5, 16, 16\): add the channel, images\[:, None\]"),
        (
            PIXELS[0],
            r"got \(16, 24, 3\): one image is images\[None\], several gray images are images\[:, None\]",
        ),
        (
            torch.utils.data.DataLoader(PIXELS),
            "cannot be a DataLoader, .*: give its data set, loader.dataset",
        ),
        (torch.utils.data.DataLoader(PIXELS, batch_sampler=[[0, 1]]), "cannot be a DataLoader"),
        (torch.utils.data.DataLoader(PIXELS, batch_size=None), "cannot be a DataLoader"),
        (torch.zeros(5, 7, 7, 7), r"may be on its first or last axis, got \(7, 7, 7\): save the images"),
        (torch.zeros(0, 3, 16, 16), "at least one image, got none"),
        (3, "a data set, got int"),
        ([("rose.png", 3)], "got .* for image 0"),
        ([(PIXELS[0], "rose")], "label of image 0 must be a class index, 0, 1, 2, ..., got 'rose'"),
        ([(PIXELS[0], 0), PIXELS[1]], "every image needs a label, or none: 1 of 2"),
    ],
)
def test_objects_that_are_not_images_are_refused_with_the_way_to_convert_them(data, message):
    with pytest.raises(UserError, match=message):
        give_images(data)


def test_images_given_in_another_process_must_be_given_again(tmp_path):
    with pytest.raises(UserError, match="Tensor:0123456789ab were given from Python: give them again"):
        open_images("given:Tensor:0123456789ab", (16, 16), cache=tmp_path)
