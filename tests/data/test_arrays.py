"""Files of arrays: shapes, types, labels, and what is refused."""

import io
import zipfile
from functools import partial

import numpy as np
import pytest
import torch

from ddim.data import open_images
from ddim.data.arrays import find_channel_axis
from ddim.data.arrays import give_images
from ddim.data.npy import NotAnArrayError, read_npy, render_npy
from ddim.data.open import find_array_size
from ddim.data.values import Reading
from ddim.errors import UserError
from deep_files import noise16
from refusals import check_refused

DEEP = noise16(5, 9, 12, 8)


def saved(tmp_path, images, **more):
    path = tmp_path / ("images.npz" if more else "images.npy")
    np.savez(path, images=images, **more) if more else np.save(path, images)
    return str(path)


def opened(path, cache, **reading):
    found = Reading(**reading)
    return open_images(path, find_array_size(path, found), reading=found, cache=cache)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("first", [False, True])
def test_16_bit_arrays_are_kept_to_the_last_bit(tmp_path, first, order):
    array = np.asarray(DEEP.transpose(0, 3, 1, 2) if first else DEEP, order=order)
    images = opened(saved(tmp_path, array), tmp_path / "cache")
    assert images.pixels.dtype == np.uint16
    assert np.array_equal(images.pixels, DEEP)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", ">u2"])
def test_other_types_are_kept_too(tmp_path, dtype):
    array = (DEEP / 65536 if "f" in dtype else DEEP).astype(dtype)
    images = opened(saved(tmp_path, array), tmp_path / "cache")
    assert images.pixels.dtype == (np.float32 if "f" in dtype else np.uint16)
    assert np.array_equal(images.pixels[:], array)


@pytest.mark.parametrize("top", [65535, 1.0, 255.0, 65535.0])
def test_arrays_of_more_bits_are_rounded_to_8_bits_if_the_user_wants_it(tmp_path, top):
    deep = np.where(DEEP < 100, 0, DEEP)
    array = deep if isinstance(top, int) else (deep / 65535 * top).astype(np.float32)
    images = opened(saved(tmp_path, array), tmp_path / "cache", values="uint8")
    assert images.values.eight_bits
    assert np.abs(images.pixels[:].astype(float) - deep / 257).max() < 0.501


def test_8_bit_arrays_are_pictures_with_the_bits_of_the_array(tmp_path):
    array = noise16(5, 9, 12, 3).astype(np.uint8)
    images = opened(saved(tmp_path, array), tmp_path / "cache")
    assert images.values.eight_bits
    assert np.array_equal(images.pixels, array)


def test_gray_arrays_need_no_axis_and_labels_lie_beside_them(tmp_path):
    path = saved(tmp_path, DEEP[..., 0], labels=np.array([2, 0, 1, 0, 2]))
    images = opened(path, tmp_path / "cache")
    assert images.classes == ("0", "1", "2")
    found = {image.tobytes(): label for image, label in zip(images.pixels[:], images.labels, strict=True)}
    assert [found[image.tobytes()] for image in DEEP[..., 0]] == [2, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 32, 32), "first"),
        ((32, 32, 3), "last"),
        ((8, 9, 10), "first"),
        ((10, 9, 8), "last"),
        ((8, 8, 8), None),
        ((8, 64, 8), None),
        ((64, 8, 64), None),
    ],
)
def test_the_channel_axis_is_the_one_that_is_shorter_than_both_others(shape, axis):
    assert find_channel_axis(shape) == axis


def test_an_ambiguous_axis_is_refused_and_can_be_given(tmp_path):
    array = noise16(2, 8, 8, 8)
    path = saved(tmp_path, array)
    with pytest.raises(UserError, match=r"axis 1 or the last axis: give data.axis first or last"):
        opened(path, tmp_path / "cache")
    first, last = (opened(path, tmp_path / "cache", axis=axis) for axis in ("first", "last"))
    assert np.array_equal(first.pixels[:].transpose(0, 3, 1, 2), array)
    assert np.array_equal(last.pixels, array)
    assert first.fingerprint != last.fingerprint


def test_the_array_of_images_can_be_named(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, before=DEEP, after=DEEP[::-1])
    with pytest.raises(UserError, match="holds the arrays before, after: name the one .*--data.array NAME"):
        opened(str(path), tmp_path / "cache")
    assert np.array_equal(opened(str(path), tmp_path / "cache", array="after").pixels, DEEP[::-1])
    with pytest.raises(UserError, match="must be an array in .*, before, after, got 'late'"):
        opened(str(path), tmp_path / "cache", array="late")


def test_the_range_of_floats_is_0_to_1_or_that_of_the_values_or_the_users(tmp_path):
    unit = (DEEP / 65536).astype(np.float32)
    path = saved(tmp_path, unit)
    assert (opened(path, tmp_path / "a").values.low, opened(path, tmp_path / "a").values.high) == (0, 1)
    path = saved(tmp_path, unit * 5 - 2)
    values = opened(path, tmp_path / "b").values
    assert (values.low, values.high) == ((unit * 5 - 2).min(), (unit * 5 - 2).max())
    assert opened(path, tmp_path / "b", range=(-2, 4)).values.high == 4
    with pytest.raises(UserError, match=r"data.range must hold all values of the images, -.* got -1 to 4"):
        opened(path, tmp_path / "b", range=(-1, 4))
    with pytest.raises(UserError, match="LOW < HIGH, got 4 and 4"):
        opened(path, tmp_path / "b", range=(4, 4))


def broken_npy(shape, content=b"", dtype="<u2"):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    return head.getvalue() + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((2, 8, 8), np.nan, np.float32), "must be finite, got NaN or infinity in image 0"),
        (np.full((2, 8, 8), np.inf, np.float16), "must be finite, got NaN or infinity in image 0"),
        (np.full((2, 8, 8), 1e300), "must be finite"),
        (np.zeros((2, 8, 8), np.int16), "must be uint8, uint16, float16, float32 or float64, got int16"),
        (np.zeros((8, 8), np.uint8), r"must have the shape \(N, H, W\).*, got \(8, 8\)"),
        (np.zeros((0, 8, 8), np.uint8), r"must have the shape .* got \(0, 8, 8\)"),
        (np.array([{"a": 1}] * 3), "Python objects, which could run code"),
        (broken_npy((2, 8, 8), b"\0" * 200), "is cut off in image 1 of 2"),
        (broken_npy((2, 10**6, 10**6)), "at most 64 million values"),
        (broken_npy((2, 8, -8), b"\0" * 200), "cut off|must have the shape"),
        (b"\x93NUMPY\1\0\xff\xff{", "a damaged array file"),
        (b"\x93NUMPY\1\0\xe8\x03" + b"(" * 900 + b")" * 100, "a damaged array file"),
        (broken_npy((2,), b"", [(f"a{k}", "<f4") for k in range(400)]), "an array of .*: save it as numbers"),
        (b"no array", "a damaged array file"),
        (b"", "it is empty"),
    ],
)
def test_arrays_that_are_not_images_are_refused_in_one_sentence(tmp_path, content, message):
    save = partial(np.save, allow_pickle=True)
    check_refused(tmp_path / "images.npy", content, message, save)


def test_labels_must_fit_the_images(tmp_path):
    for labels, message in [
        (np.zeros(4, int), "holds 5 images and 4 labels"),
        (np.zeros(5), r"labels must be class indices \(N,\)"),
        (np.full(5, -1), "labels must be class indices"),
        (np.full(5, 10**7), "less than a million"),
    ]:
        with pytest.raises(UserError, match=message):
            opened(saved(tmp_path, DEEP, labels=labels), tmp_path / "cache")


def test_a_zip_bomb_of_one_image_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", broken_npy((1, 10**5, 10**5), b"\0" * 10**6))
    with pytest.raises(UserError, match="at most 64 million values"):
        opened(str(path), tmp_path / "cache")


def test_an_array_takes_no_more_memory_than_its_file_has_bytes():
    for content in (broken_npy((10**9, 10**9)), broken_npy((-1, 8)), broken_npy((4, 4), b"\0" * 31)):
        with pytest.raises(NotAnArrayError, match="needs .* bytes"):
            read_npy(io.BytesIO(content), len(content))
    assert np.array_equal(np.load(io.BytesIO(render_npy(DEEP))), DEEP)


def test_arrays_and_tensors_from_python_keep_16_bits_and_any_channels(tmp_path):
    for data in (DEEP, torch.from_numpy(DEEP.astype(np.int32)).to(torch.uint16), list(DEEP)):
        source = give_images(data)
        images = open_images(source.text, source.size, cache=tmp_path)
        assert np.array_equal(images.pixels, DEEP)
    floats = (DEEP[..., :3] / 65536).astype(np.float32)
    rounded, kept = give_images(floats), give_images(floats, "float32")
    assert open_images(rounded.text, (9, 12), cache=tmp_path).values.eight_bits
    assert np.array_equal(open_images(kept.text, (9, 12), cache=tmp_path).pixels, floats)
    assert give_images(rounded, "float32").text == kept.text


def zeros(path, members):
    """Write a .npz file whose arrays are zeros, of which only the headers are true."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, dtype, count) in members.items():
            archive.writestr(f"{name}.npy", broken_npy(shape, bytes(count), dtype))
    return str(path)


def test_a_npz_file_that_unpacks_to_much_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.data.archives.SLACK", 10**6)
    bombs = {
        "large": {"images": ((400, 200, 200), "|u1", 16 * 10**6)},
        "many": {"images": ((2 * 10**4, 8, 8), "|u1", 64 * 2 * 10**4)},
    }
    for name, members in bombs.items():
        with pytest.raises(UserError, match="unpacks to more than 250 times its size"):
            opened(zeros(tmp_path / f"{name}.npz", members), tmp_path / "cache")
    labels = {"images": ((2, 8, 8), "|u1", 128), "labels": ((3 * 10**6,), "|u1", 3 * 10**6)}
    with pytest.raises(UserError, match="labels .* cannot be read: a damaged array file: .* needs 3,000,000"):
        opened(zeros(tmp_path / "labels.npz", labels), tmp_path / "cache")


def test_a_file_of_millions_of_images_of_one_pixel_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"at least 64 values, got \(1, 1\)"):
        opened(saved(tmp_path, np.zeros((10**6, 1, 1), np.uint8)), tmp_path / "cache")
