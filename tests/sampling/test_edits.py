"""Edits as a notebook calls them: images of any kind, masks, seeds, guidance, and the saved folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
import tiny
from ddim.cli import main
from ddim.data.values import Values
from ddim.errors import UserError
from ddim.sampling.pictures import open_mask, open_pictures

STEPS = 4
MASK = torch.zeros(32, 32)
MASK[8:16, 8:16] = 1
RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (48, 90, 3), np.uint8)
RIGHT = np.zeros((48, 90), bool)
RIGHT[:, 45:] = True
GUIDED = {"guidance": 3.0, "guide_with": "@guide"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "one"
    return tiny.train(tiny.recipe(report__guide=0.3), folder, progress=False)


@pytest.fixture(scope="module")
def pipeline(run):
    return ddim.load(run)


@pytest.fixture(scope="module")
def images(pipeline):
    return (ddim.sample(pipeline, seeds=[3, 7], steps=2) * 255).round() / 255


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two photos and a mask, which have not the size of the run."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(PHOTO).save(folder / "A.png")
    Image.fromarray(PHOTO[::-1]).save(folder / "B.png")
    Image.fromarray(RIGHT).save(folder / "MASK.png")
    return {path.stem: path for path in folder.iterdir()}


# Images


def opened(pipeline, given):
    """The images that are given, and the sentences about them."""
    return open_pictures(pipeline, given, notes := [])[0], notes


def test_a_file_a_picture_an_array_and_a_tensor_are_the_same_image(pipeline, images, files, tmp_path):
    ddim.sheet(images[:1], zoom=1).save(tmp_path / "one.png")
    pixels, exact = np.asarray(ddim.sheet(images[:1], zoom=1)), images[:1]
    for given in (str(tmp_path / "one.png"), Image.fromarray(pixels), pixels, exact, exact[0], exact.numpy()):
        assert torch.equal(opened(pipeline, given)[0], exact)
    for given in (list(images), images, [images[:1], images[1]], (images * 255).byte()):
        assert torch.equal(opened(pipeline, given)[0], images)
    photos = [opened(pipeline, p) for p in (files["A"], Image.open(files["A"]), PHOTO)]
    for photo, notes in photos:
        assert torch.equal(photo, photos[0][0])
        assert "90 x 48 pixels (width x height), cropped and resized to 32 x 32" in notes[0]
    floats, _ = opened(pipeline, torch.from_numpy(PHOTO).permute(2, 0, 1) / 255)
    # Bytes are rounded while they are resized, and floats are not.
    assert 0 < (floats - photos[0][0]).abs().mean() < 1 / 255


def test_images_of_16_bits_have_the_range_of_the_run(pipeline, tmp_path):
    wide = replace(pipeline, values=Values("uint16", 0, 4095))
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)).save(tmp_path / "deep.png")
    for given in (tmp_path / "deep.png", Image.open(tmp_path / "deep.png")):
        assert torch.equal(opened(wide, given)[0][0, 0].flatten(), torch.arange(1024) / 4095)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda run, x: ddim.invert(run, x - 2), "images must be .* convert them"),
        (lambda run, x: ddim.vary(run, x, seeds=[1, 2], steps=2), "one image, got 2"),
        (lambda run, x: ddim.vary(run, "none.png"), "none.png cannot be read"),
        (lambda run, x: ddim.vary(run, x[0], n=0), "n must be at least 1"),
        (lambda run, x: ddim.interpolate(run), "two images, or two seeds"),
        (lambda run, x: ddim.interpolate(run, x, seeds=[3, 7]), "two images, or two seeds"),
        (lambda run, x: ddim.inpaint(run, x[0], mask=MASK * 0), "white pixels"),
        (lambda run, x: ddim.interpolate(run, x, steps=STEPS, **GUIDED), "cannot be guided"),
    ],
)
def test_what_an_edit_cannot_use_is_refused(edit, said, run, images):
    with pytest.raises(UserError, match=said):
        edit(run, images)


def test_a_misspelt_option_is_refused(run, images):
    with pytest.raises(TypeError, match="unexpected keyword argument 'guidence'"):
        ddim.vary(run, images[0], guidence=2.0)


# Masks


def layer(colours, opaque):
    """An RGBA image of 90 x 48 pixels: colours (48, 90, 3), and where it is opaque."""
    return Image.fromarray(np.dstack([colours, 255 * opaque]).astype(np.uint8))


MASKS = {
    "white on black": Image.fromarray(RIGHT),
    "light gray on dark gray": Image.fromarray(np.where(RIGHT, 200, 60).astype(np.uint8)),
    "white strokes on transparency": layer(np.full((48, 90, 3), 255), RIGHT),
    "a photo with an erased part": layer(PHOTO, ~RIGHT),
    "black with an erased part": layer(np.zeros((48, 90, 3)), ~RIGHT),
    "truth values": RIGHT,
    "a tensor of 0 and 1": torch.from_numpy(RIGHT).float()[None, None],
    "gray levels": torch.from_numpy(RIGHT).long() * 255,
    "twice the size": RIGHT.repeat(2, 0).repeat(2, 1),
    "the size of the run": np.arange(32).repeat(32).reshape(32, 32).T >= 16,
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_brought_to_the_size_of_the_run_like_its_photo(kind, pipeline, tmp_path):
    """Paint programs write masks in several ways, and the page draws them at the size of the run."""
    masks, notes = [MASKS[kind]], []
    if isinstance(masks[0], Image.Image):
        masks[0].save(tmp_path / "mask.png")
        masks.append(tmp_path / "mask.png")
    for mask in masks:
        hole = open_mask(pipeline, mask, notes)
        assert torch.equal(hole[0, 0], (torch.arange(32) >= 16).float().expand(32, 32))
    part = {"white strokes on transparency": "white"}.get(kind, "transparent" if "erased" in kind else None)
    said = [note.split(": ")[1] for note in notes if "inpainted" in note]
    assert said == ([f"the {part} part, 50 % of the image, will be inpainted"] * len(masks) if part else [])


def test_pixels_outside_the_mask_keep_their_bits(pipeline, images):
    painted = ddim.inpaint(pipeline, [images[0]], [1, 2], 2, mask=MASK, resample=1).images
    keep = ~MASK.bool()
    assert torch.equal(painted[:, :, keep], images[:1, :, keep].expand(2, -1, -1))
    assert (painted[:, :, ~keep] != images[:1, :, ~keep]).any()


# Guidance, states and progress

IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EDITS = {
    "vary": lambda run, **options: ddim.vary(run, IMAGE, 0.9, range(2), STEPS, **options),
    "inpaint": lambda run, **options: ddim.inpaint(run, IMAGE, [0], STEPS, mask=MASK, resample=2, **options),
    "interpolate": lambda run, **options: ddim.interpolate(
        run, seeds=[3, 7], frames=3, steps=STEPS, **options
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_guided_edit_evaluates_two_networks_in_its_interval_only(name, pipeline):
    more = ({}, GUIDED, {**GUIDED, "guidance_interval": (60.0, 70.0)}, {**GUIDED, "guidance": 1})
    plain, guided, far, off = (EDITS[name](pipeline, **options) for options in more)
    assert torch.equal(plain.images, far.images)
    assert torch.equal(plain.images, off.images)
    assert not torch.allclose(plain.images, guided.images, atol=1e-3)
    assert plain.calls == far.calls == guided.calls / 2
    assert guided.to_json()["guide"]["name"] == "@guide"
    assert "guidance" not in plain.to_json()


@pytest.mark.parametrize(("name", "count"), [("vary", 2), ("inpaint", 1), ("interpolate", 3)])
def test_states_and_progress_of_an_edit_are_shown(name, count, pipeline):
    seen, steps = [], []
    small = replace(pipeline, runtime=replace(pipeline.runtime, micro_batch=2))
    watched = EDITS[name](
        small,
        watch=lambda seeds, state: seen.append((list(seeds), len(state.x))),
        progress=lambda *now: steps.append(now),
    )
    assert torch.equal(EDITS[name](small).images, watched.images)
    assert all(len(seeds) == images for seeds, images in seen)
    assert sorted({seed for seeds, _ in seen for seed in seeds}) == list(range(count))
    assert len(steps) == len(seen)
    assert [what for what, _, _ in steps] == ["samples"] * len(steps)
    assert steps == sorted(steps)
    assert all(done < total == count for _, done, total in steps)


def test_the_ends_of_a_guided_interpolation_are_the_guided_samples(pipeline):
    frames = EDITS["interpolate"](pipeline, **GUIDED).images
    samples = ddim.sample(pipeline, None, STEPS, seeds=[3, 7], **GUIDED)
    assert torch.allclose(frames[[0, -1]], samples, atol=1e-5)


# The folder

SAVED = {
    "vary A --strength 0.6 -n 2 --seed 2": lambda run, a, b, m: ddim.vary(run, a, 0.6, [2, 3], STEPS),
    "inpaint A --mask MASK -n 1 --seed 1": lambda run, a, b, m: ddim.inpaint(run, a, [1], STEPS, mask=m),
    "interpolate A B --frames 3": lambda run, a, b, m: ddim.interpolate(run, a, b, frames=3, steps=STEPS),
    "interpolate --seeds 3,8": lambda run, a, b, m: ddim.interpolate(
        run, seeds=np.array([3, 8]), steps=STEPS
    ),
    "invert A B": lambda run, a, b, m: ddim.invert(run, a, b, steps=STEPS),
}


@pytest.mark.parametrize("words", SAVED)
def test_a_notebook_saves_the_folder_of_the_command(words, run, files, tmp_path, capsys):
    name, *options = [str(files.get(word, word)) for word in words.split()]
    out = tmp_path / "command"
    assert main([name, str(run), *options, "--steps", str(STEPS), "--out", str(out)]) == 0
    edit = SAVED[words](run, files["A"], files["B"], files["MASK"])
    assert edit.save(tmp_path / "notebook") == edit.folder == tmp_path / "notebook"
    assert str(edit).replace("/notebook/", "/command/") == capsys.readouterr().out.rstrip()
    assert all(note in edit.details for note in edit.notes)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("notebook", "command"))
    records = [json.loads(each.pop("record.json")) for each in (one, two)]
    assert one == two
    assert {key: value for key, value in records[0].items() if key not in ("time", "seal")} == {
        key: value for key, value in records[1].items() if key not in ("time", "seal")
    }
    assert {file for row in edit.rows for file in edit.name_files(row)} < one.keys()
    edit.save(tmp_path / "notebook")  # the same files again
    with pytest.raises(UserError, match="holds another result"):
        replace(edit, calls=edit.calls + 1).save(tmp_path / "notebook")


@pytest.mark.parametrize("name", ["vary", "inpaint"])
def test_a_record_has_all_seeds(name, pipeline, images, tmp_path):
    more = {"mask": MASK, "resample": 1} if name == "inpaint" else {}
    edit = getattr(ddim, name)(pipeline, images[0], seeds=np.array([3, 7]), steps=2, **more)
    record = json.loads((edit.save(tmp_path / "out") / "record.json").read_text())
    assert (record["seed"], record["seeds"]) == (3, [3, 7])
    assert record["image"] == "a tensor (3, 32, 32)"
    assert edit.captions == ["seed 3", "seed 7"]


def test_files_in_the_folder_are_recorded_by_their_paths_in_it(pipeline, files, here):
    image = here / "inputs" / "a.png"
    image.parent.mkdir()
    image.write_bytes(files["A"].read_bytes())
    edit = ddim.invert(pipeline, image, steps=2)
    for folder, name in ((here, "inputs/a.png"), (here / "out", str(image))):
        edit.save(folder)
        assert json.loads((folder / "record.json").read_text())["images"] == [name]
    assert [edit.save().name for _ in range(2)] == ["invert-1", "invert-2"]


def test_an_edit_replaces_no_file_and_says_so_before_its_work(
    run, pipeline, files, here, monkeypatch, command
):
    (here / "varied-00.png").write_bytes(b"mine")
    edit = ddim.vary(pipeline, files["A"], 0.6, [2], steps=2)
    with pytest.raises(UserError, match="not a new or empty folder"):
        edit.save(here)
    monkeypatch.setattr(ddim.sampling.edits, "generate", None)
    assert "not a new or empty folder" in command("vary", run, files["A"], "--out", here, code=2).err
    assert [path.read_bytes() for path in here.iterdir()] == [b"mine"]
