"""One image file to pixels: orientation, crop, resize, modes."""

import io
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bad_images import animation, encoded, interlaced, picture, png, usable, with_orientation
from ddim.data.decode import UnusableError, decode_image, is_image_name, open_image, read_header


def pixels_of(data, size, channels=3):
    return decode_image(data, size, channels)[1]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_for_every_exif_orientation(orientation, format):
    upright = picture(12, 20)
    data = with_orientation(upright, orientation, format, **({"lossless": True} if format == "WEBP" else {}))
    found, pixels = decode_image(data, (12, 20), 3)
    assert (found.height, found.width) == (12, 20)
    assert (read_header(data).height, read_header(data).width) == (12, 20)
    np.testing.assert_array_equal(pixels, upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_decoded_at_reduced_size_is_upright(orientation):
    upright = picture(640, 960)
    pixels = pixels_of(with_orientation(upright, orientation, "JPEG", quality=95), (16, 24))
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
    [((100, 160), (100, 100)), ((160, 100), (100, 100)), ((101, 163), (100, 100)), ((160, 100), (50, 100))],
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
    np.testing.assert_array_equal(pixels_of(encoded(noise, "PNG"), (16, 24)), noise)


@given(value=st.integers(0, 255))
def test_sixteen_bits_are_scaled_not_clipped(value):
    gray = np.full((8, 8), value * 257, np.uint16)
    for format in ("PNG", "TIFF"):
        assert (pixels_of(encoded(gray, format), (8, 8), 1) == value).all()


def test_big_endian_sixteen_bits_are_scaled_too():
    gray = (np.arange(64).reshape(8, 8) * 4 * 257).astype(">u2")
    data = encoded(Image.frombytes("I;16B", (8, 8), gray.tobytes()), "TIFF")
    np.testing.assert_array_equal(pixels_of(data, (8, 8), 1)[..., 0], np.arange(64).reshape(8, 8) * 4)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (0.0, 65535.0), (-3.0, 900.0)])
def test_floats_keep_their_order_and_fill_the_range(low, high):
    ramp = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    pixels = pixels_of(encoded(ramp, "TIFF"), (8, 8), 1)[..., 0].astype(int)
    np.testing.assert_allclose(pixels.ravel(), np.linspace(0, 255, 64), atol=0.51)


def test_transparent_pixels_are_laid_on_white_or_kept():
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:] = (10, 20, 30, 255)
    data = encoded(clear, "PNG")
    assert read_header(data).channels == 4
    flat, whole = pixels_of(data, (8, 8), 3), pixels_of(data, (8, 8), 4)
    assert (flat[:, :4] == 255).all()
    assert (flat[:, 4:] == (10, 20, 30)).all()
    np.testing.assert_array_equal(whole[..., 3], clear[..., 3])


def test_hidden_colours_do_not_bleed_into_the_resize():
    red = np.zeros((32, 32, 4), np.uint8)
    red[..., 1] = 255
    red[:, 16:] = (255, 0, 0, 255)
    pixels = pixels_of(encoded(red, "PNG"), (8, 8), 4)
    assert (pixels[pixels[..., 3] > 128][:, 1] == 0).all()


def test_transparent_palettes_are_recognised():
    image = Image.fromarray(picture()).quantize(8)
    assert read_header(encoded(image, "PNG")).channels == 3
    assert read_header(encoded(image, "PNG", transparency=0)).channels == 4


def test_gray_images_have_one_channel():
    for mode in ("1", "L"):
        assert read_header(encoded(Image.fromarray(picture()).convert(mode), "PNG")).channels == 1


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format):
    still = pixels_of(encoded(picture(), format), (20, 24))
    np.testing.assert_array_equal(pixels_of(animation(format), (20, 24)), still)


def test_an_interlaced_image_equals_the_plain_one():
    np.testing.assert_array_equal(pixels_of(interlaced(picture(13, 9)), (13, 9)), picture(13, 9))


def test_inverted_cmyk_of_photo_editors_is_not_decoded_as_a_negative():
    cmyk = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(
        pixels_of(cmyk, (20, 24)).astype(int), pixels_of(encoded(picture(), "PNG"), (20, 24)), atol=12
    )


@given(cut=st.integers(0, 400), byte=st.integers(0, 255))
def test_damaged_files_raise_only_unusable_error(cut, byte):
    for format in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        data = bytearray(encoded(picture(20, 24), format))
        data[cut % len(data)] = byte
        for damaged in (bytes(data), bytes(data[: cut % len(data)])):
            with suppress(UnusableError):
                assert pixels_of(damaged, (8, 8)).shape == (8, 8, 3)


def test_avif_is_read():
    whole = picture(40, 60)
    header, pixels = decode_image(encoded(whole, "AVIF", quality=100, subsampling="4:4:4"), (40, 60), 3)
    assert (header.height, header.width, header.format) == (40, 60, "AVIF")
    assert np.abs(pixels.astype(int) - whole).mean() < 3


def test_heic_is_read_with_pillow_heif():
    heif = pytest.importorskip("pillow_heif")
    file, whole, registered = io.BytesIO(), picture(40, 60), list(Image.ID)
    heif.from_pillow(Image.fromarray(whole)).save(file, quality=100)
    header, pixels = decode_image(file.getvalue(), (40, 60), 3)
    assert (header.height, header.width, header.format) == (40, 60, "HEIF")
    assert np.abs(pixels.astype(int) - whole).mean() < 5
    assert registered == Image.ID


def test_without_pillow_heif_a_heic_photo_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(200)
    assert is_image_name("IMG_0001", data[:16])
    with pytest.raises(UnusableError, match="a HEIC photo: `pip install pillow-heif` lets ddim read it"):
        decode_image(data, (8, 8), 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_large_images_are_converted_in_strips_to_the_same_bits(channels, monkeypatch):
    whole = {name: pixels_of(data, (16, 24), channels) for name, data in usable().items()}
    # Strips of one or two rows, and of three with one row left.
    for strip in (96, 150):
        monkeypatch.setattr("ddim.data.decode._STRIP", strip)
        for name, data in usable().items():
            np.testing.assert_array_equal(pixels_of(data, (16, 24), channels), whole[name], name)


@pytest.mark.parametrize("size", [(1, 64_000_000), (64_000_000, 1), (1, 65_537)])
def test_an_image_with_a_huge_side_is_refused_by_its_header(size):
    """Pillow keeps a pointer for each row: 64 million rows take half a gigabyte before they have pixels."""
    with pytest.raises(UnusableError, match="a side of more than 65,536"):
        pixels_of(png(*size, 8, 0, b""), (8, 8))


def test_decoders_that_overlap_as_those_of_threads_do_restore_the_filters_of_warnings():
    data, before = encoded(picture(4, 4), "PNG"), list(warnings.filters)
    first, second = open_image(data), open_image(data)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert warnings.filters == before


def test_while_an_image_is_open_only_the_warnings_of_its_decoder_are_hidden():
    data = encoded(picture(4, 4), "PNG")
    with warnings.catch_warnings(action="always", record=True) as shown, open_image(data):
        warnings.warn_explicit("repaired", UserWarning, "Png.py", 1, module="PIL.PngImagePlugin")
        warnings.warn("about something else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["about something else"]
