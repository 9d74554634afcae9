"""16-bit and float TIFF and PNG files: every value survives decoding; damaged files give their reason."""

import contextlib
import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from bad_images import chunk, oriented
from ddim.data import open_images
from ddim.data.batch import gather_batch, to_unit
from ddim.data.cache import open_decoded
from ddim.data.decode import UnusableError
from ddim.data.high_bit_depth import decode_any, read_any_header, resize_values, stored_type
from ddim.data.values import Reading, Values
from ddim.errors import UserError
from deep_files import noise16, png16

FLOATS = np.random.default_rng(1).normal(size=(9, 12, 5)).astype(np.float32)
DEEP = Values("uint16", 0, 65535)


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def flat(channels):
    return {"photometric": "minisblack", "planarconfig": "contig"} if channels > 1 else {}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_png_keeps_every_bit(channels):
    pixels = noise16(9, 12, channels)
    found, decoded = decode_any(png16(pixels), (9, 12), channels, DEEP)
    assert (stored_type(found), found.channels) == ("uint16", channels)
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": True}])
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_a_16_bit_tiff_keeps_every_bit(channels, options):
    pixels = noise16(9, 12, channels)
    content = tiff(pixels if channels > 1 else pixels[..., 0], **flat(channels), **options)
    assert read_any_header(content).channels == channels
    assert np.array_equal(decode_any(content, (9, 12), channels, DEEP)[1], pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_images_are_upright_for_every_exif_orientation(format, channels, orientation):
    pixels = noise16(9, 12, channels)
    stored = oriented(pixels, orientation)
    if format == "PNG":
        exif = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 274, 3, 1, orientation) + bytes(4)
        content = png16(stored).replace(chunk(b"IEND", b""), chunk(b"eXIf", exif) + chunk(b"IEND", b""))
    else:
        tag = (274, "H", 1, orientation, True)
        content = tiff(stored if channels > 1 else stored[..., 0], **flat(channels), extratags=[tag])
    found, decoded = decode_any(content, (9, 12), channels, DEEP)
    assert (found.height, found.width) == (9, 12)
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (FLOATS, flat(5)),
        (FLOATS.transpose(2, 0, 1), {"metadata": {"axes": "CYX"}}),
        (FLOATS.transpose(2, 0, 1), {}),
        (
            FLOATS.transpose(2, 0, 1),
            {"photometric": "minisblack", "planarconfig": "separate", "bigtiff": True},
        ),
        (FLOATS.transpose(2, 0, 1).astype(">f4"), {"byteorder": ">"}),
    ],
)
def test_a_float_tiff_keeps_every_bit_wherever_its_channels_are(pixels, options):
    assert np.array_equal(decode_any(tiff(pixels, **options), (9, 12), 5, Values("float32"))[1], FLOATS)


@pytest.mark.parametrize(
    ("content", "channels", "kind", "message"),
    [
        (tiff(np.full((9, 12), np.nan, np.float32)), 1, "float32", "not finite"),
        (tiff(np.full((9, 12, 5), np.inf, np.float32), **flat(5)), 5, "float32", "not finite"),
        (tiff(noise16(6, 9, 12), metadata={"axes": "ZYX"}), 6, "uint16", "6 pages, each its own image"),
        (tiff(noise16(9, 12, 3), photometric="rgb", compression=33005), 3, "uint16", "compression 33005"),
        (tiff(noise16(9, 12, 3), photometric="rgb")[:300], 3, "uint16", "damaged"),
        (png16(noise16(9, 12, 3))[:200], 3, "uint16", "damaged"),
        (png16(noise16(9, 12, 3)).replace(b"IDAT", b"IDAX"), 3, "uint16", "damaged|no image"),
        (b"II*\0\xff\xff\xff\xff", 3, "uint16", "damaged|no image"),
        (tiff(noise16(9, 12, 5), **flat(5)), 3, "uint16", "has 5 channels, not 3"),
        (tiff(noise16(9, 12)), 1, "float32", "has uint16 values, not float32"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(content, channels, kind, message):
    with pytest.raises(UnusableError, match=message):
        decode_any(content, (9, 12), channels, Values(kind))


def test_a_bomb_is_refused_by_its_header():
    huge = tiff(np.zeros((64, 64), np.uint16), compression="zlib")
    # The tags ImageWidth and ImageLength, 256 and 257, say 64: let them say 2^20.
    wide, large = (64).to_bytes(4, "little"), (2**20).to_bytes(4, "little")
    head, tail = huge[:400], huge[400:]
    for kind in (b"\x04\0\x01\0\0\0", b"\x03\0\x01\0\0\0"):
        head = head.replace(kind + wide, kind.replace(b"\x03", b"\x04") + large)
    with pytest.raises(UnusableError, match="more than 64 megapixels"):
        read_any_header(head + tail)


def test_a_strip_that_inflates_to_more_than_its_size_is_cut(monkeypatch):
    """The strip of a small image holds a hundred megabytes of zeros, in a few kilobytes."""
    import zlib

    small = tiff(noise16(8, 8, 5), compression="zlib", **flat(5))
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    bomb = zlib.compress(b"\0" * 10**8, 9)
    counted = small.replace(int(size).to_bytes(4, "little"), len(bomb).to_bytes(4, "little"))
    moved = counted.replace(int(start).to_bytes(4, "little"), len(small).to_bytes(4, "little")) + bomb
    import tracemalloc

    tracemalloc.start()
    with contextlib.suppress(UnusableError):
        decode_any(moved, (8, 8), 5, DEEP)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 10**6


def write(folder, images):
    folder.mkdir()
    for name, content in images.items():
        (folder / name).write_bytes(content)
    return str(folder)


def test_a_folder_keeps_16_bits_through_cache_and_batch(tmp_path, monkeypatch):
    pixels = noise16(6, 8, 8, 3)
    folder = write(tmp_path / "deep", {f"{k}.png": png16(each) for k, each in enumerate(pixels)})
    images = open_images(folder, (8, 8), cache=tmp_path / "cache")
    assert np.array_equal(images.pixels, pixels)
    which, flips = np.array([4, 0, 3]), np.array([True, False, True])
    batch = to_unit(gather_batch(images, which, flips))
    back = images.values.from_unit(batch)
    wanted = pixels[which]
    wanted[flips] = wanted[flips, :, ::-1]
    assert np.array_equal(back, wanted)
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    again = open_decoded(images.fingerprint, (8, 8))
    assert np.array_equal(again.pixels, pixels)
    assert again.values == images.values
    rounded = open_images(folder, (8, 8), reading=Reading("uint8"), cache=tmp_path / "cache")
    assert rounded.pixels.dtype == np.uint8
    assert rounded.fingerprint != images.fingerprint


def test_a_damaged_cache_of_16_bits_is_noticed(tmp_path):
    folder = write(tmp_path / "deep", {f"{k}.png": png16(noise16(8, 8, 1, seed=k)) for k in range(3)})
    images = open_images(folder, (8, 8), cache=tmp_path / "cache")
    path = images.folder / "images.u16"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged on the disk"):
        np.asarray(open_images(folder, (8, 8), cache=tmp_path / "cache").pixels)


def test_most_files_decide_and_others_are_widened_or_refused(tmp_path):
    gray = noise16(8, 8)
    file = io.BytesIO()
    Image.fromarray((gray >> 8).astype(np.uint8)).save(file, "PNG")
    deep = {f"{k}.png": png16(gray[..., None]) for k in range(3)}
    folder = write(
        tmp_path / "mixed", {**deep, "eight.png": file.getvalue(), "float.tif": tiff(FLOATS[..., 0])}
    )
    images = open_images(folder, (8, 8), cache=tmp_path / "cache")
    assert images.names == ("0.png", "1.png", "2.png", "eight.png")
    assert np.array_equal(images.pixels[3][..., 0], (gray >> 8) * 257)


def test_gray_images_are_opaque_among_transparent_ones(tmp_path):
    for name, gray, others, top in (
        ("deep", noise16(8, 8), noise16(2, 8, 8, 4), 65535),
        ("floats", FLOATS[:8, :8, 0], np.full((2, 8, 8, 4), 2.5, np.float32), 2.5),
    ):
        files = [tiff(gray), *(tiff(other, **flat(4)) for other in others)]
        folder = write(tmp_path / name, {f"{k}.tif": content for k, content in enumerate(files)})
        pixels = open_images(folder, (8, 8), channels=4, cache=tmp_path / "cache").pixels[0]
        assert np.array_equal(pixels[..., 0], gray)
        assert (pixels[..., 3] == top).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_resizing_keeps_constants_and_the_range(dtype):
    values = (noise16(20, 30, 2) / 65536 * (1 if dtype == "float32" else 255)).astype(dtype)
    small = resize_values(values, (7, 9))
    assert (small.dtype, small.shape) == (values.dtype, (7, 9, 2))
    assert (values.min((0, 1)) <= small.min((0, 1))).all()
    assert (small.max((0, 1)) <= values.max((0, 1))).all()
    constant = np.full((20, 30, 1), values[0, 0, 0])
    assert (resize_values(constant, (7, 9)) == constant[0, 0, 0]).all()


def test_every_16_bit_value_survives_the_way_to_the_unit_interval_and_back():
    import torch

    every = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256, 1)
    for values in (Values("uint16", 0, 65535), Values("uint16", 0, 65536), Values("uint16", -5, 70000)):
        unit = torch.from_numpy(values.to_unit(every)).permute(0, 3, 1, 2)
        assert np.array_equal(values.from_unit(unit), every)
