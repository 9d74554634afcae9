"""Edits as a notebook calls them: with files, PIL images, tensors and seeds."""

import pytest
import torch

import ddim
import tiny
from ddim.errors import UserError

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
    with pytest.raises(UserError, match=r"images must be .* from -1 .*: \(x \+ 1\) / 2 maps"):
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
    with pytest.raises(UserError, match="mask must be uint8 or floats .* to 255: divide them by 255"):
        ddim.inpaint(pipeline, images[0], MASK * 255)
    with pytest.raises(UserError, match=r"mask must be \(32, 32\), the height and .*, got \(16, 16\)"):
        ddim.inpaint(pipeline, images[0], MASK[:16, :16])


def test_an_edit_shows_itself_as_a_strip(pipeline, images):
    edit = ddim.vary(pipeline, images[0], seeds=[1, 2], steps=2)
    assert edit._repr_png_().startswith(b"\x89PNG")
    assert len(repr(edit)) < 200
