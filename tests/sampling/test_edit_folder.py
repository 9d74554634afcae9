"""The folder of an edit: `write_edit` writes in a notebook what the commands write."""

import json

import numpy as np
import pytest
from PIL import Image

import tiny
from ddim.cli import main
from ddim.errors import UserError
from ddim.sampling.edit_folder import EditOutput, write_edit
from ddim.sampling.file_edits import Inpainting, Interpolation, Latents, Variations


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, two images and a mask."""
    folder = tmp_path_factory.mktemp("edits")
    tiny.train(tiny.recipe(images=16), folder / "run", progress=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    for name, each in zip("ab", pixels, strict=True):
        Image.fromarray(each).save(folder / f"{name}.png")
    Image.fromarray(np.arange(40, dtype=np.uint8).repeat(40).reshape(40, 40) * 6).save(folder / "mask.png")
    return folder


EDITS = {
    "vary": (lambda a, b, mask: Variations(a, 0.6, [2, 3]), "vary RUN A --strength 0.6 -n 2 --seed 2"),
    "inpaint": (
        lambda a, b, mask: Inpainting(a, mask, [1], 2),
        "inpaint RUN A --mask MASK -n 1 --seed 1 --resample 2",
    ),
    "between images": (lambda a, b, mask: Interpolation([a, b], frames=3), "interpolate RUN A B --frames 3"),
    "between seeds": (
        lambda a, b, mask: Interpolation(seeds=[3, 8], frames=3),
        "interpolate RUN --seeds 3,8 --frames 3",
    ),
    "invert": (lambda a, b, mask: Latents([a, b]), "invert RUN A B"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_notebook_writes_the_folder_of_the_command(name, place, tmp_path, capsys):
    edit, words = EDITS[name]
    files = {"RUN": place / "run", "A": place / "a.png", "B": place / "b.png", "MASK": place / "mask.png"}
    command = [str(files.get(word, word)) for word in words.split()]
    assert main([*command, "--steps", "3", "--out", str(tmp_path / "command")]) == 0
    notes = []
    output = EditOutput(tmp_path / "notebook", on_note=notes.append)
    made = write_edit(place / "run", edit(*(files[key] for key in ("A", "B", "MASK"))), 3, output=output)
    assert made.folder == tmp_path / "notebook"
    own, other = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("notebook", "command"))
    records = [json.loads(each.pop("record.json")) for each in (own, other)]
    assert own == other
    one, two = ({**each, "time": 0, "seal": 0} for each in records)
    assert one == two
    assert {path.name for paths in made.files.values() for path in paths} <= own.keys()
    assert list(made.files) == list(made.edit.rows)
    said = capsys.readouterr().err
    assert all(note in said for note in notes)
    assert bool(notes) == (name != "between seeds")


def test_files_in_the_folder_are_recorded_by_their_paths_in_it(place, tmp_path):
    (tmp_path / "inputs").mkdir()
    image = tmp_path / "inputs" / "a.png"
    image.write_bytes((place / "a.png").read_bytes())
    for folder, name in ((tmp_path, "inputs/a.png"), (tmp_path / "out", str(image))):
        write_edit(place / "run", Variations(image, seeds=[0]), 2, output=EditOutput(folder))
        assert json.loads((folder / "record.json").read_text())["image"] == name


def test_a_refused_edit_writes_nothing(place, tmp_path):
    for edit, said in (
        (Variations(tmp_path / "none.png"), "none.png"),
        (Variations(place / "a.png", 2), "1]"),
    ):
        with pytest.raises(UserError, match=said):
            write_edit(place / "run", edit, 2, output=EditOutput(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    for given in ({}, {"images": ["a.png"]}, {"images": ["a.png", "b.png"], "seeds": [1, 2]}):
        with pytest.raises(UserError, match="give two images, or --seeds"):
            Interpolation(**given)


def test_results_are_not_overwritten(place, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(UserError, match="holds results already"):
        write_edit(place / "run", Variations(place / "a.png"), 2, output=EditOutput(tmp_path))
