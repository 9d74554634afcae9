"""Images in arrays: files and Python objects, their shapes, types, labels, and what is refused."""

import gc
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from bad_images import with_orientation
from ddim.data import open_images
from ddim.data.arrays import arrange_pixels, give_images
from ddim.data.open import find_array_size
from ddim.data.values import Reading
from ddim.errors import UserError
from deep_files import noise16

DEEP = noise16(5, 9, 12, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)


def saved(tmp_path, images, **more):
    path = tmp_path / ("images.npz" if more else "images.npy")
    np.savez(path, images=images, **more) if more else np.save(path, images)
    return str(path)


def opened(path, cache, **reading):
    how = Reading(**reading)
    return open_images(path, find_array_size(path, how), reading=how, cache=cache)


def given(data, cache, values="auto", size=None):
    source = give_images(data, values)
    reading = Reading(values="float32" if values == "float32" else "auto")
    return open_images(source.text, size or source.size, reading=reading, cache=cache)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", ">f4", "float64"])
def test_the_values_of_arrays_are_kept_to_the_last_bit(tmp_path, first, order, dtype):
    values = (DEEP / 65536 if "f" in dtype else DEEP % 256 if dtype == "uint8" else DEEP).astype(dtype)
    values = values[..., :3] if dtype == "uint8" else values
    array = np.asarray(values.transpose(0, 3, 1, 2) if first else values, order=order)
    for path in (saved(tmp_path, array), saved(tmp_path, array, labels=np.arange(5))):
        images = opened(path, tmp_path / "cache")
        assert images.pixels.dtype == (np.float32 if "f" in dtype else np.dtype(dtype).newbyteorder("="))
        assert np.array_equal(images.pixels, values.astype(images.pixels.dtype))


def test_the_channel_axis_has_a_usual_length_or_is_shorter_than_both_others():
    draw = np.random.default_rng(0).random
    for shape in ((3, 32, 32), (1, 32, 3), (8, 9, 10)):
        image = draw(shape, np.float32)
        assert np.array_equal(arrange_pixels(image, "it"), image.transpose(1, 2, 0))
    image = draw((32, 32, 3), np.float32)
    assert np.array_equal(arrange_pixels(image, "it"), image)
    for shape in ((8, 8, 8), (64, 8, 64)):
        with pytest.raises(UserError, match="first or last axis, got"):
            arrange_pixels(draw(shape), "it")


def test_an_ambiguous_axis_and_the_array_of_images_can_be_named(tmp_path):
    array = noise16(2, 8, 8, 8)
    path = saved(tmp_path, array)
    first, last = (opened(path, tmp_path / "cache", axis=axis) for axis in ("first", "last"))
    assert np.array_equal(first.pixels[:].transpose(0, 3, 1, 2), array)
    assert np.array_equal(last.pixels, array)
    path = str(tmp_path / "two.npz")
    np.savez(path, before=DEEP, after=DEEP[::-1])
    for asked in ({}, {"array": "late"}):
        with pytest.raises(UserError, match="holds the arrays before, after.*--data.array NAME"):
            opened(path, tmp_path / "cache", **asked)
    assert np.array_equal(opened(path, tmp_path / "cache", array="after").pixels, DEEP[::-1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((2, 8, 8), np.nan, np.float32), "finite"),
        (np.zeros((8, 8), np.uint8), r"shape .*, got \(8,\)"),
        (np.zeros((0, 8, 8), np.uint8), "contains no image"),
        (np.array([{"a": 1}] * 3), "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_arrays_that_are_not_images_are_refused(tmp_path, content, message):
    path = tmp_path / "images.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        open_images(path, find_array_size(path) or (8, 8), cache=tmp_path / "cache")


def test_labels_must_be_class_indices_for_all_images(tmp_path):
    for labels in (np.zeros(4, int), np.zeros(5), np.full(5, -1), np.full(5, 10**7)):
        with pytest.raises(UserError, match="class index"):
            opened(saved(tmp_path, DEEP, labels=labels), tmp_path / "cache")


class Stream(IterableDataset):
    """A data set without an index."""

    def __iter__(self):
        return iter(PIXELS)


@pytest.mark.parametrize(
    "data",
    [
        PIXELS,
        PIXELS.transpose(0, 3, 1, 2),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255,
        PIXELS / 255,
        TensorDataset(torch.from_numpy(PIXELS)),
        Stream(),
        [Image.fromarray(image) for image in PIXELS],
    ],
    ids=lambda data: type(data).__name__,
)
def test_the_pixels_are_those_that_were_given(data, tmp_path):
    images = given(data, tmp_path)
    assert np.array_equal(images.pixels, PIXELS)
    assert images.labels is None
    assert images.fingerprint == given(PIXELS, tmp_path).fingerprint


def test_given_arrays_and_tensors_keep_16_bits_any_channels_and_floats_if_asked(tmp_path):
    for data in (DEEP, torch.from_numpy(DEEP.astype(np.int32)).to(torch.uint16), list(DEEP)):
        assert np.array_equal(given(data, tmp_path).pixels, DEEP)
    for data in (PIXELS[..., :1], PIXELS[..., [0, 1, 2, 0]]):
        assert np.array_equal(given(data, tmp_path).pixels, data)
    floats = (DEEP[..., :3] / 50).astype(np.float32)
    assert np.array_equal(given(floats, tmp_path, "float32").pixels, floats)
    unit = give_images(PIXELS / 255)
    again = give_images(unit, "float32")
    assert give_images(PIXELS / 255, "float32").text == again.text != unit.text


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "YCbCr", "F", "I;16"])
def test_images_of_pillow_are_read_as_files_of_their_mode_are(mode, tmp_path):
    photo = Image.fromarray(PIXELS[0])
    if mode in ("F", "I;16"):
        photo = Image.fromarray(DEEP[0, ..., 0].astype({"F": np.float32, "I;16": np.uint16}[mode]))
    image = photo if mode in ("F", "I;16") else photo.convert(mode)
    wanted = image.convert("RGB") if mode in ("CMYK", "YCbCr") else image
    pixels = given([image], tmp_path).pixels[0]
    assert np.array_equal(pixels, np.asarray(wanted).reshape(pixels.shape))


def test_images_of_pillow_are_turned_by_their_orientation_as_files_are(tmp_path):
    with Image.open(io.BytesIO(with_orientation(PIXELS[0], 6, "PNG"))) as photo:
        assert photo.size == (16, 24)
        assert np.array_equal(given([photo], tmp_path).pixels[0], PIXELS[0])


class Pairs(Dataset):
    """A data set of pairs without an end, as torch allows it."""

    classes = ["tulip", "rose", "aster"]

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, k):
        return Image.fromarray(PIXELS[k % 5]), [2, 0, 2, 0, 0][k % 5]


def test_labels_keep_their_numbers_and_names(tmp_path):
    images = given(Pairs(), tmp_path)
    assert images.classes == ("tulip", "rose", "aster")
    assert images.labels.tolist() == [2, 0, 2, 0, 0]
    unnamed = given(TensorDataset(torch.from_numpy(PIXELS), torch.tensor([1, 3, 1, 1, 1])), tmp_path)
    assert unnamed.classes == ("0", "1", "2", "3")
    assert unnamed.labels.tolist() == [1, 3, 1, 1, 1]
    assert len({images.fingerprint, unnamed.fingerprint, given(PIXELS, tmp_path).fingerprint}) == 3
    named = given(list(zip(PIXELS, ["rose", "aster", "rose", "rose", "aster"], strict=True)), tmp_path)
    assert (named.classes, named.labels.tolist()) == (("aster", "rose"), [1, 0, 1, 1, 0])


def test_different_sizes_need_a_size(tmp_path):
    several = [PIXELS[0], PIXELS[1, :8]]
    with pytest.raises(UserError, match="have 2 sizes"):
        given(several, tmp_path)
    assert given(several, tmp_path, size=(8, 8)).pixels.shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(5, 3, 16, 16) - 1, r"\(x \+ 1\) / 2"),
        (torch.zeros(5, 3, 16, 16, dtype=torch.int64), "got int64"),
        (torch.zeros(5, 16, 16), r"got \(5, 16, 16\): one image is images\[None\]"),
        (PIXELS[0], r"gray images are images\[:, None\]"),
        ((PIXELS, np.zeros(5, int)), "image 0 must have the shape"),
        ({"train": list(PIXELS)}, r"one split .* data\['train'\]"),
        (torch.zeros(0, 3, 16, 16), "the images have 0 sizes"),
        ([(PIXELS[0], -1)], "class index"),
        ([(PIXELS[0], 0), PIXELS[1]], "every image needs a label"),
    ],
)
def test_objects_that_are_not_images_are_refused(data, message, tmp_path):
    with pytest.raises(UserError, match=message):
        given(data, tmp_path)


def test_images_that_nobody_uses_are_forgotten_and_must_be_given_again(tmp_path):
    class Watched(list):
        def __del__(self):
            freed.append(True)

    freed, source = [], give_images(Watched(PIXELS))
    text = source.text
    del source
    gc.collect()
    assert freed
    with pytest.raises(UserError, match="give them again"):
        open_images(text, (16, 24), cache=tmp_path)
