"""One image to pixels: orientation, crop, resize, modes, 16-bit and float values."""

import gc
import io
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from bad_images import animation, chunk, encoded, interlaced, oriented, picture, usable, with_orientation
from ddim.data.decode import UnusableError, decode_image, hide_warnings, read_header
from deep_files import noise16, png16, tiff

FLOATS = np.random.default_rng(1).normal(size=(9, 12, 5)).astype(np.float32)
PAGES = FLOATS.transpose(2, 0, 1)


def pixels_of(data, size, channels=3, kind="uint8"):
    with hide_warnings():
        return decode_image(data, size, channels, kind).pixels


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_for_every_exif_orientation(orientation, format):
    upright = picture(12, 20)
    data = with_orientation(upright, orientation, format, **({"lossless": True} if format == "WEBP" else {}))
    assert (read_header(data).height, read_header(data).width) == (12, 20)
    np.testing.assert_array_equal(pixels_of(data, (12, 20)), upright)


def test_a_large_jpeg_decoded_at_reduced_size_is_upright():
    upright = picture(640, 960)
    pixels = pixels_of(with_orientation(upright, 6, "JPEG", quality=95), (16, 24))
    np.testing.assert_allclose(pixels, pixels_of(encoded(upright, "PNG"), (16, 24)), atol=6)


def marked(height, width):
    """Black, with a white square of 20 x 20 in the middle and red bars at the ends of the longer side."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 - 10 : height // 2 + 10, width // 2 - 10 : width // 2 + 10] = 255
    long = pixels if height > width else pixels.swapaxes(0, 1)
    long[:10] = long[-10:] = (255, 0, 0)
    return pixels


@pytest.mark.parametrize(
    "shape, size",
    [((100, 160), (100, 100)), ((164, 98), (95, 95)), ((101, 163), (100, 100)), ((160, 100), (50, 100))],
)
def test_the_crop_keeps_the_middle_and_the_aspect(shape, size):
    pixels = pixels_of(encoded(marked(*shape), "PNG"), size).astype(int)
    white = np.argwhere((pixels > 128).all(axis=-1))
    assert np.abs(white.mean(axis=0) - (np.array(size) - 1) / 2).max() <= 0.5
    assert np.abs(np.ptp(white, axis=0) + 1 - 20).max() <= 1
    assert (pixels[..., 0] - pixels[..., 1]).max() < 40


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    error = np.abs(pixels_of(encoded(stripes, "PNG"), (8, 8)).astype(int) - 100)
    assert error[:, 1:-1].max() <= 1
    assert error.max() < 10


def test_an_image_of_the_right_size_is_unchanged():
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    for data in (noise, encoded(noise, "PNG"), interlaced(noise)):
        np.testing.assert_array_equal(pixels_of(data, (16, 24)), noise)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (0.0, 65535.0), (-3.0, 900.0)])
def test_floats_keep_their_order_and_fill_8_bits(low, high):
    ramp = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    pixels = pixels_of(encoded(ramp, "TIFF"), (8, 8), 1)[..., 0].astype(int)
    np.testing.assert_allclose(pixels.ravel(), np.linspace(0, 255, 64), atol=0.51)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8_and_8_bits_to_more(format):
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    deep = pixels_of(encoded(gray.astype(np.uint16) * 257, format), (8, 8), 1)
    np.testing.assert_array_equal(deep[..., 0], gray)
    wide, unit = (pixels_of(encoded(gray, format), (8, 8), 1, kind) for kind in ("uint16", "float32"))
    np.testing.assert_array_equal(wide[..., 0], gray * np.uint16(257))
    np.testing.assert_allclose(unit[..., 0], gray / 255, 1e-6)


def test_transparent_pixels_are_laid_on_white_or_kept():
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:] = (10, 20, 30, 255)
    data = encoded(clear, "PNG")
    assert read_header(data).channels == 4
    flat = pixels_of(data, (8, 8), 3)
    assert (flat[:, :4] == 255).all()
    assert (flat[:, 4:] == (10, 20, 30)).all()
    np.testing.assert_array_equal(pixels_of(data, (8, 8), 4)[..., 3], clear[..., 3])


def test_the_channels_of_palettes_and_gray_images_are_recognised():
    image = Image.fromarray(picture())
    assert read_header(encoded(image.quantize(8), "PNG")).channels == 3
    assert read_header(encoded(image.quantize(8), "PNG", transparency=0)).channels == 4
    assert [read_header(encoded(image.convert(mode), "PNG")).channels for mode in ("1", "L")] == [1, 1]


def test_an_animation_gives_its_first_frame_and_cmyk_is_not_decoded_as_a_negative():
    for format in ("GIF", "PNG", "TIFF"):
        still = pixels_of(encoded(picture(), format), (20, 24))
        np.testing.assert_array_equal(pixels_of(animation(format), (20, 24)), still)
    cmyk = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(pixels_of(cmyk, (20, 24)).astype(int), picture(20, 24), atol=12)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", sorted(usable()))
def test_every_image_mode_can_be_decoded_to_any_number_of_channels(name, channels):
    assert pixels_of(usable()[name], (16, 24), channels).shape == (16, 24, channels)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_photos_of_phones_are_read(format):
    file, whole = io.BytesIO(), picture(40, 60)
    if format == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(Image.fromarray(whole)).save(file, quality=100)
    else:
        Image.fromarray(whole).save(file, format, quality=100, subsampling="4:4:4")
    assert read_header(file.getvalue()).format == format
    assert np.abs(pixels_of(file.getvalue(), (40, 60)).astype(int) - whole).mean() < 5


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": True}])
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_a_16_bit_tiff_keeps_every_bit(channels, options):
    pixels = noise16(9, 12, channels)
    content = tiff(pixels if channels > 1 else pixels[..., 0], **options)
    assert read_header(content).channels == channels
    assert np.array_equal(pixels_of(content, (9, 12), channels, "uint16"), pixels)


@pytest.mark.parametrize("orientation", [1, 4, 6, 7])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_images_are_upright_for_every_exif_orientation(format, channels, orientation):
    pixels = noise16(9, 12, channels)
    stored = oriented(pixels, orientation)
    if format == "PNG":
        exif = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 274, 3, 1, orientation) + bytes(4)
        content = png16(stored).replace(chunk(b"IEND", b""), chunk(b"eXIf", exif) + chunk(b"IEND", b""))
    else:
        tag = (274, "H", 1, orientation, True)
        content = tiff(stored if channels > 1 else stored[..., 0], extratags=[tag])
    assert (read_header(content).height, read_header(content).width) == (9, 12)
    assert np.array_equal(pixels_of(content, (9, 12), channels, "uint16"), pixels)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (FLOATS.astype(np.float64), {}),
        (PAGES, {"metadata": {"axes": "CYX"}}),
        (PAGES, {"photometric": "minisblack", "planarconfig": "separate", "bigtiff": True}),
        (PAGES.astype(">f4"), {"byteorder": ">", "photometric": "minisblack"}),
    ],
)
def test_a_float_tiff_keeps_every_bit_wherever_its_channels_are(pixels, options):
    found = decode_image(tiff(pixels, **options), (9, 12), 5, "float32")
    assert np.array_equal(found.pixels, FLOATS)
    assert found.ends == (FLOATS.min(), FLOATS.max())


@pytest.mark.parametrize(
    ("content", "channels", "kind", "message"),
    [
        (tiff(np.full((9, 12), np.nan, np.float32)), 1, "float32", "not finite"),
        (tiff(np.full((9, 12, 5), np.inf, np.float32)), 5, "float32", "not finite"),
        (tiff(noise16(6, 9, 12), metadata={"axes": "ZYX"}), 6, "uint16", "one file for each image"),
        (png16(noise16(9, 12, 3))[:200], 3, "uint16", "damaged"),
        (png16(noise16(9, 12, 3)).replace(b"IDAT", b"IDAX"), 3, "uint16", "damaged|no image"),
        (tiff(noise16(9, 12, 5)), 3, "uint16", "has 5 channels, not 3"),
        (encoded(picture(), "JPEG"), 5, "uint16", "3 channels, not 5"),
        (tiff(FLOATS[..., 0]), 1, "uint16", "has float32 values, not uint16"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(content, channels, kind, message):
    with pytest.raises(UnusableError, match=message):
        pixels_of(content, (9, 12), channels, kind)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_resizing_keeps_constants_and_the_range(dtype):
    values = (noise16(20, 30, 2) / 65536 * (1 if dtype == "float32" else 255)).astype(dtype)
    small = pixels_of(values, (7, 9), 2, dtype)
    assert (small.dtype, small.shape) == (values.dtype, (7, 9, 2))
    assert (values.min((0, 1)) <= small.min((0, 1))).all()
    assert (small.max((0, 1)) <= values.max((0, 1))).all()
    constant = np.full((20, 30, 2), values[0, 0, 0])
    assert (pixels_of(constant, (7, 9), 2, dtype) == constant[0, 0, 0]).all()


def test_threads_read_arrays_at_the_same_time():
    """The parser of Python 3.11 fails if a garbage collection inside it lets another thread parse."""
    file, usual = io.BytesIO(), gc.get_threshold()
    np.save(file, FLOATS)
    gc.callbacks.append(yielding := lambda *_: time.sleep(1e-6))
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(2) as pool:
            headers = list(pool.map(read_header, [file.getvalue()] * 10_000))
    finally:
        gc.set_threshold(*usual)
        gc.callbacks.remove(yielding)
    assert headers == [read_header(FLOATS)] * 10_000
