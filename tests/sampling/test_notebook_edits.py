"""Edits as a notebook calls them: with files, PIL images, tensors and seeds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
import tiny
from ddim.data.values import Values
from ddim.errors import UserError
from ddim.sampling.edit_inputs import open_pictures

MASK = torch.zeros(32, 32)
MASK[8:16, 8:16] = 1


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return ddim.load(tiny.train(tiny.recipe(images=16), folder, progress=False))


@pytest.fixture(scope="module")
def images(pipeline):
    return ddim.sample(pipeline, seeds=[3, 7], steps=2)


def test_a_file_a_picture_and_a_tensor_are_the_same_image(pipeline, images, tmp_path):
    ddim.sheet(images[:1], zoom=1).save(tmp_path / "one.png")
    exact = (images[:1] * 255).round() / 255
    given = (tmp_path / "one.png", str(tmp_path / "one.png"), ddim.sheet(images[:1], zoom=1), exact, exact[0])
    found = [ddim.invert(pipeline, image, 3) for image in given]
    assert all(torch.equal(one.latents, found[0].latents) for one in found)
    assert ddim.invert(pipeline, list(images), 3).latents.shape == (2, 3, 32, 32)
    with pytest.raises(UserError, match=r"images must be \(B, 3, 32, 32\), got \(1, 3, 8, 8\)"):
        ddim.vary(pipeline, torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    "edit",
    [ddim.invert, ddim.vary, ddim.interpolate, lambda model, image: ddim.inpaint(model, image, MASK)],
    ids=["invert", "vary", "interpolate", "inpaint"],
)
def test_images_outside_0_and_1_are_refused_and_uint8_is_scaled(edit, pipeline, images):
    with pytest.raises(UserError, match="images must be .* from -1 .*: convert them"):
        edit(pipeline, torch.full((2, 3, 32, 32), -1.0))
    with pytest.raises(UserError, match="images must be .* from nan"):
        edit(pipeline, torch.full((2, 3, 32, 32), torch.nan))
    whole = (images * 255).round().byte()
    assert torch.equal(ddim.invert(pipeline, whole, 3).latents, ddim.invert(pipeline, whole / 255, 3).latents)


def test_a_variation_and_inpainting_take_one_image(pipeline, images):
    with pytest.raises(UserError, match="a variation takes one image, got 2"):
        ddim.vary(pipeline, images, seeds=[1, 2], steps=2)
    with pytest.raises(UserError, match="inpainting takes one image, got 2"):
        ddim.inpaint(pipeline, list(images), MASK, [1, 2], 2, resample=1)


def test_a_list_of_one_image_is_inpainted_with_the_file_of_a_mask(pipeline, images, tmp_path):
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "rose.png")
    hole = np.zeros((32, 32), np.uint8)
    hole[:8] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    paths = str(tmp_path / "rose.png"), str(tmp_path / "mask.png")
    alone = ddim.inpaint(pipeline, *paths, seeds=[1], steps=2, resample=1)
    listed = ddim.inpaint(pipeline, [paths[0]], paths[1], seeds=[1], steps=2, resample=1)
    assert torch.equal(alone.images, listed.images)


def test_missing_images_and_seeds_are_refused_in_one_sentence(pipeline, images):
    for none in ([], torch.zeros(0, 3, 32, 32)):
        with pytest.raises(UserError, match="give at least one image"):
            ddim.invert(pipeline, none)
        with pytest.raises(UserError, match="give at least one image"):
            ddim.inpaint(pipeline, none, MASK)
    for edit in (ddim.vary, lambda *given, seeds: ddim.inpaint(*given, MASK, seeds)):
        for none in ([], None):
            with pytest.raises(UserError, match=r"give at least one seed, such as seeds=\[3, 7\]"):
                edit(pipeline, images[:1], seeds=none)
        with pytest.raises(UserError, match="seeds must be a list of whole numbers"):
            edit(pipeline, images[:1], seeds=3)
    with pytest.raises(UserError, match=r"a tensor, such as torch.from_numpy\(array\), got an array"):
        ddim.vary(pipeline, images[:1].numpy())
    with pytest.raises(UserError, match=r"from_numpy\(array\), got an array \(32, 32\)"):
        ddim.inpaint(pipeline, images[:1], MASK.numpy())


@pytest.mark.parametrize("strength", ["a", None, 0, 1.5, float("nan")])
def test_a_strength_that_is_not_a_number_in_0_1_is_refused(pipeline, images, strength):
    with pytest.raises(UserError, match=rf"^strength must be a number in \(0, 1\], got {strength!r}$"):
        ddim.vary(pipeline, images[:1], strength)


def test_seeds_of_an_edit_may_be_an_array(pipeline, images):
    given = [ddim.vary(pipeline, images[:1], seeds=seeds, steps=2) for seeds in ([3, 7], np.array([3, 7]))]
    assert torch.equal(*(edit.images for edit in given))


def test_an_interpolation_is_of_two_seeds_or_two_images(pipeline, images):
    between = ddim.interpolate(pipeline, seeds=[3, 7], frames=3, steps=3)
    assert between.facts["between_seeds"] == [3, 7]
    assert ddim.interpolate(pipeline, images, frames=3, steps=3).images.shape == (3, 3, 32, 32)
    for given in ({}, {"images": images, "seeds": [3, 7]}):
        with pytest.raises(UserError, match=r"give two images, or seeds=\[3, 7\]"):
            ddim.interpolate(pipeline, **given)


def test_a_mask_is_a_picture_or_a_tensor(pipeline, images):
    mask, grays = MASK.bool(), (MASK * 200).byte()
    masks = (mask, ddim.sheet(MASK[None], zoom=1), grays + 20, MASK.long(), MASK[None, None])
    one, *others = (ddim.inpaint(pipeline, images[0], m, [1], 2, resample=1) for m in masks)
    assert all(torch.equal(one.images, other.images) for other in others)
    assert torch.equal(one.images[0][:, ~mask], images[0][:, ~mask])
    with pytest.raises(UserError, match="mask must be uint8 or floats .* to 255: convert them"):
        ddim.inpaint(pipeline, images[0], MASK * 255)
    with pytest.raises(UserError, match=r"mask must be \(32, 32\), the height and .*, got \(16, 16\)"):
        ddim.inpaint(pipeline, images[0], MASK[:16, :16])


def test_masks_of_files_and_of_pillow_are_read_as_by_the_command(pipeline, images, tmp_path):
    erased = np.full((32, 32, 4), 255, np.uint8)
    erased[..., :3] = 40
    erased[8:16, 8:16, 3] = 0
    strokes = np.full((32, 32, 4), 255, np.uint8)
    strokes[..., 3] = MASK.numpy() * 255
    wanted = ddim.inpaint(pipeline, images[0], MASK, [1], 2, resample=1).images
    for mask in map(Image.fromarray, (erased, strokes)):
        mask.save(tmp_path / "mask.png")
        for given in (mask, tmp_path / "mask.png"):
            assert torch.equal(ddim.inpaint(pipeline, images[0], given, [1], 2, resample=1).images, wanted)
    small = ddim.sheet(MASK[None, 4:20], zoom=1)
    photo = tmp_path / "photo.png"
    ddim.sheet(images[:1], zoom=1).resize((64, 64)).save(photo)
    for image, size in ((images[0], "32x32"), (photo, "64x64"), (Image.open(photo), "64x64")):
        with pytest.raises(UserError, match=f"the mask must have the size of the image, {size}, got 16x32"):
            ddim.inpaint(pipeline, image, small, [1], 2, resample=1)


def test_images_of_pillow_are_read_as_their_files(pipeline, tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    turned, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    photo.save(turned, exif=exif)
    photo.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(np.linspace(0, 300, 1600, dtype=np.float32).reshape(40, 40)).save(tmp_path / "floats.tif")
    for name in ("turned.jpg", "cmyk.tif", "floats.tif"):
        path = tmp_path / name
        assert torch.equal(open_pictures(pipeline, Image.open(path)), open_pictures(pipeline, path))
    wide = replace(pipeline, values=Values("uint16", 0, 4095))
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)).save(tmp_path / "deep.png")
    deep = open_pictures(wide, Image.open(tmp_path / "deep.png"))
    assert torch.equal(deep, open_pictures(wide, tmp_path / "deep.png"))
    assert torch.equal(deep[0, 0].flatten(), torch.arange(1024) / 4095)
    with pytest.raises(UserError, match="of Pillow cannot be read: .*LAB"):
        ddim.vary(pipeline, Image.new("LAB", (32, 32)))
    turned.write_bytes(turned.read_bytes()[:700])
    with Image.open(turned) as cut, pytest.raises(UserError, match="of Pillow cannot be read: .*truncated"):
        ddim.vary(pipeline, cut)


def test_an_edit_shows_itself_as_a_strip(pipeline, images):
    edit = ddim.vary(pipeline, images[0], seeds=[1, 2], steps=2)
    assert edit._repr_png_().startswith(b"\x89PNG")
    assert len(repr(edit)) < 200
