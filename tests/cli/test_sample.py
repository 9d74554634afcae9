"""`ddim sample`: files, seeds, labels, guidance, records, interruptions."""

import json
import shutil

import pytest

import ddim
import tiny
from ddim.files import LOCK, lock_folder, read_sealed
from ddim.plots.pictures import enlarge, make_sheet, save_png, to_uint8
from ddim.sampling import samples
from ddim.sampling.pipeline import load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with the 12 classes of blossoms and early weights as a guide."""
    recipe = tiny.recipe(optim__warmup=0, data__labels=True, report__guide=0.3)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.fixture
def sample(run, command):
    """A function that samples the run in 2 steps into a folder; returns the content of its files."""

    def call(out, *words, steps=2):
        command("sample", run, "--out", out, "--steps", steps, *words)
        return read_files(out)

    return call


@pytest.fixture
def noted(monkeypatch):
    """The seeds of the samples that are generated."""
    sound, made = samples.generate_together, []

    def note(trained, seeds, *args, **options):
        made.extend(seeds)
        return sound(trained, seeds, *args, **options)

    monkeypatch.setattr(samples, "generate_together", note)
    return made


def read_files(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != LOCK}


def read_record(out):
    return json.loads((out / "record.json").read_text())


def test_a_sample_depends_on_its_seed_and_not_on_the_number_of_samples(run, sample, tmp_path):
    twelve, five = sample(tmp_path / "a", "-n", 12), sample(tmp_path / "b", "-n", 5)
    names = [f"{k:05d}.png" for k in range(12)]
    assert sorted(twelve) == sorted([*names, "grid.png", "record.json"])
    assert sorted(five) == sorted([*names[:5], "grid.png", "record.json"])
    some = sample(tmp_path / "c", "--seeds", "11,2-3,7")
    assert all(files[name] == twelve[name] for files in (five, some) for name in {*files} & {*names})
    assert len({twelve[name] for name in names}) == 12
    # The files are the images of `ddim.sample`, which returns one tensor.
    images = ddim.sample(run, 12, 2)
    for name, pixels in zip(names, to_uint8(images), strict=True):
        save_png(tmp_path / "one.png", pixels)
        assert twelve[name] == (tmp_path / "one.png").read_bytes()
    save_png(tmp_path / "grid.png", enlarge(make_sheet(images)))
    assert twelve["grid.png"] == (tmp_path / "grid.png").read_bytes()


def test_the_result_is_the_record_of_what_the_samples_depend_on(run, tmp_path, command):
    words = "--seed 3 -n 2 --steps 4 --sampler ddim --sampler.eta 0.5 --grid quadratic --json --quiet"
    record = json.loads(command("sample", run, "--out", tmp_path, words).out)
    assert record == {"folder": str(tmp_path), **read_sealed(tmp_path / "record.json")}
    assert (record["seeds"], record["nfe"], record["grid"]["kind"]) == ([3, 4], 4, "quadratic")
    assert (record["sampler"], record["seconds"] > 0) == ({"kind": "ddim", "eta": 0.5}, True)


def test_a_stopped_command_is_finished_by_the_same_command(run, sample, tmp_path, monkeypatch, command):
    size, sound = load(run).runtime.micro_batch, samples.generate_together

    def stopping(trained, seeds, *args, **options):
        if seeds[0]:
            raise KeyboardInterrupt
        return sound(trained, seeds, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "generate_together", stopping)
        command("sample", run, "--out", tmp_path / "a", "-n", size + 2, "--steps", 2, code=130)
    assert len(list((tmp_path / "a").glob("0*.png"))) == size
    assert read_record(tmp_path / "a")["seeds"] == []
    finished, whole = (sample(tmp_path / name, "-n", size + 2) for name in "ab")
    assert finished.keys() == whole.keys()
    assert all(finished[name] == whole[name] for name in whole.keys() - {"record.json"})
    assert read_record(tmp_path / "a")["seeds"] == [*range(size + 2)]


def test_only_missing_samples_are_made_and_the_sheet_shows_all(run, sample, tmp_path, noted, command):
    words = ["-n", 6, "--film"]
    whole = sample(tmp_path / "a", *words)
    noted.clear()
    said = command("sample", run, "--out", tmp_path / "a", "--steps", 2, *words).out
    assert said.startswith("6 images, of which 6 were there before, 2 network evaluations each: ")
    assert f"film: {tmp_path / 'a' / 'film.webp'}" in said
    assert noted == []
    (tmp_path / "a" / "00004.png").unlink()
    # Samples are those of a checkpoint, wherever its run lies.
    moved = shutil.copytree(run, tmp_path / "moved")
    command("sample", moved, "--out", tmp_path / "a", "--steps", 2, *words)
    assert noted == [4]
    fewer = sample(tmp_path / "a", "-n", 3)
    assert {name for name in whole if fewer[name] != whole[name]} <= {"record.json"}
    # A film needs the states of all its samples.
    sample(tmp_path / "a", "-n", 3, "--film")
    assert noted == [4, 0, 1, 2]


def test_two_commands_do_not_write_into_one_folder(run, sample, tmp_path, command):
    """Both would find its samples missing, and each would record its own."""
    first = sample(tmp_path, "-n", 2)
    with lock_folder(tmp_path):
        said = command("sample", run, "-n", 3, "--steps", 2, "--out", tmp_path, code=4).err
    assert said.startswith(f"ddim: another process is writing into {tmp_path}: wait until it ends")
    assert read_files(tmp_path) == first


def test_a_folder_holds_samples_of_one_way_of_sampling(run, sample, tmp_path, refused):
    first = sample(tmp_path / "a", "-n", 1)
    for words, why in (("--sampler.eta 0", "sampler"), ("--label all", "label")):
        said = refused("sample", run, "--steps", 2, "--out", tmp_path / "a", words)
        assert said == f"folder {tmp_path / 'a'} holds samples with other {why}; give a new folder"
    assert read_files(tmp_path / "a") == first
