"""`ddim sample`: files, seeds, records, mistakes."""

import json
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddim
import tiny
from ddim.cli import main
from ddim.files import LOCK, lock_folder
from ddim.plots.pictures import enlarge, make_sheet, save_png, to_uint8
from ddim.runs import checkpoint
from ddim.sampling import samples
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import choose_sampling


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    recipe = tiny.recipe(optim__warmup=0)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


def sample_files(run, out, *words):
    assert main(["sample", str(run), "--out", str(out), *map(str, words)]) == 0
    return read_files(out)


def read_files(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != LOCK}


def test_a_sample_depends_on_its_seed_and_not_on_the_number_of_samples(run, tmp_path):
    twelve = sample_files(run, tmp_path / "a", "-n", 12, "--steps", 3)
    five = sample_files(run, tmp_path / "b", "-n", 5, "--steps", 3)
    names = [f"{k:05d}.png" for k in range(12)]
    assert sorted(twelve) == sorted([*names, "grid.png", "record.json"])
    assert sorted(five) == sorted([*names[:5], "grid.png", "record.json"])
    for name in names[:5]:
        assert five[name] == twelve[name]
    some = sample_files(run, tmp_path / "c", "--seeds", "11,2-3,7", "--steps", 3)
    for k in (11, 2, 3, 7):
        assert some[f"{k:05d}.png"] == twelve[f"{k:05d}.png"]
    assert len({twelve[name] for name in names}) == 12
    with Image.open(tmp_path / "a" / "00000.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_the_record_says_what_the_samples_depend_on(run, tmp_path):
    words = [
        "--seed",
        "3",
        "-n",
        "2",
        "--steps",
        "4",
        "--sampler",
        "ddim",
        "--sampler.eta",
        "0.5",
        "--grid",
        "quadratic",
    ]
    record = json.loads(sample_files(run, tmp_path, "--seed", 3, *words)["record.json"])
    newest = checkpoint.find_newest(run / "checkpoints")
    assert record["checkpoint"] == {"path": str(newest), "sha256": checkpoint.hash_checkpoint(newest)}
    assert record["seeds"] == [3, 4]
    assert record["nfe"] == len(record["times"]) == 4
    assert record["sampler"] == {"kind": "ddim", "eta": 0.5}
    assert record["grid"]["kind"] == "quadratic"
    assert (record["weights"], record["step"], record["bit_equal"]) == ("ema", 10, True)
    assert record["versions"]["python"]
    assert record["seconds"] > 0


def test_a_film_ends_with_the_sheet(run, tmp_path):
    sample_files(run, tmp_path, "-n", 4, "--steps", 3, "--film")
    with Image.open(tmp_path / "film.webp") as film, Image.open(tmp_path / "grid.png") as sheet:
        assert film.n_frames == 4
        first = np.asarray(film.convert("RGB")).astype(int)
        film.seek(film.n_frames - 1)
        final = np.asarray(film.convert("RGB")).astype(int)
        pictures = np.asarray(sheet.convert("RGB")).astype(int)
    assert np.abs(final - pictures).mean() < 8 < np.abs(first - pictures).mean()


def test_a_film_shows_as_many_large_samples_as_fit(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.plots.pictures.LARGEST_FILM", 70)
    monkeypatch.setattr(samples, "LARGEST_FILM", 70)
    words = ("-n", 5, "--steps", 2, "--film", "--zoom", 2)
    files = sample_files(run, tmp_path, *words)
    with Image.open(tmp_path / "film.webp") as film:
        assert film.size == (66, 66)
    assert json.loads(files["record.json"])["film"] == [0, 1, 2, 3]
    assert sample_files(run, tmp_path, *words)["film.webp"] == files["film.webp"]


def test_files_are_those_of_all_samples_at_once(run, tmp_path):
    """The command splits 20 samples into micro-batches; `ddim.sample` returns one tensor."""
    files = sample_files(run, tmp_path / "a", "-n", 20, "--steps", 2, "--seed", 5)
    images = ddim.sample(run, 20, 2, seed=5)
    assert load(run).runtime.micro_batch < 20
    for k, pixels in enumerate(to_uint8(images), 5):
        save_png(tmp_path / "one.png", pixels)
        assert files[f"{k:05d}.png"] == (tmp_path / "one.png").read_bytes()
    save_png(tmp_path / "grid.png", enlarge(make_sheet(images)))
    assert files["grid.png"] == (tmp_path / "grid.png").read_bytes()


def test_samples_are_written_and_freed_before_the_next_batch(run, tmp_path, monkeypatch):
    size, sound = load(run).runtime.micro_batch, samples.generate_together
    out, seen = tmp_path / "a", []

    def noting(trained, seeds, *args, **options):
        there = len(list(out.glob("0*.png")))
        # The first batch is kept for the grid, and the last one is freed when the next one is sampled.
        alive = sum(images() is not None for images, *_ in seen[1:-1])
        images, nfe = sound(trained, seeds, *args, **options)
        seen.append((weakref.ref(images), len(seeds), there, alive))
        return images, nfe

    monkeypatch.setattr(samples, "generate_together", noting)
    monkeypatch.setattr(samples, "SHOWN", 9)
    files = sample_files(run, out, "-n", 4 * size + 1, "--steps", 2, "--film")
    assert [count for _, count, *_ in seen] == [size] * 4 + [1]
    assert [there for *_, there, _ in seen] == [size * k for k in range(5)]
    assert not any(alive for *_, alive in seen)
    assert len(files) == 4 * size + 1 + 3


def test_a_stopped_command_is_finished_by_the_same_command(run, tmp_path, monkeypatch, command, refused):
    size, sound = load(run).runtime.micro_batch, samples.generate_together
    words = ["-n", size + 2, "--steps", 2]

    made = []

    def stopping(trained, seeds, *args, **options):
        made.extend(seeds)
        if seeds[0] and len(made) == size + 2:
            raise KeyboardInterrupt
        return sound(trained, seeds, *args, **options)

    monkeypatch.setattr(samples, "generate_together", stopping)
    command("sample", run, "--out", tmp_path / "a", *words, code=130)
    assert len(list((tmp_path / "a").glob("0*.png"))) == size
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert (record["seeds"], record["nfe"]) == ([], 2)
    said = refused("sample", run, "--steps", 3, "--out", tmp_path / "a")
    assert said.endswith("holds samples with another times; give a new folder")
    finished = sample_files(run, tmp_path / "a", *words)
    assert made == [*range(size + 2), size, size + 1]
    whole = sample_files(run, tmp_path / "b", *words)
    for name in whole.keys() - {"record.json"}:
        assert finished[name] == whole[name]
    assert finished.keys() == whole.keys()
    assert json.loads(finished["record.json"])["seeds"] == list(range(size + 2))


def test_the_record_has_the_evaluations_of_a_sampler_whose_number_depends_on_the_images(run, tmp_path):
    @dataclass(frozen=True)
    class Corrected(ddim.DDIM):
        def walk(self, denoise, x, times, noise):
            if denoise(x, times[0]).x0.abs().max() > 0.01:
                denoise(x, times[0])
            return (yield from super().walk(denoise, x, times, noise))

    setup = choose_sampling(load(run), 3, None, sampler=Corrected())
    written = samples.write_samples(setup, [0, 1], tmp_path / "a")
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert (written.nfe, record["nfe"], setup.count_evaluations()) == (5, 5, 4)
    again = samples.write_samples(setup, [0, 1], tmp_path / "a")
    assert (again.nfe, again.made) == (5, 0)


def test_samples_that_are_not_numbers_are_refused_and_not_written(run, tmp_path, monkeypatch, command):
    sound = samples.generate_together

    def broken(*args, **options):
        images, nfe = sound(*args, **options)
        return torch.where(torch.arange(len(images))[:, None, None, None] == 1, torch.nan, images), nfe

    monkeypatch.setattr(samples, "generate_together", broken)
    words = ["-n", 3, "--steps", 1, "--out", tmp_path / "a"]
    assert "got NaN in 1 of 3, first of seed 1" in command("sample", run, *words, code=2).err
    assert not list((tmp_path / "a").glob("*.png"))


def test_only_missing_samples_are_made(run, tmp_path, monkeypatch, command):
    words = ["-n", 6, "--steps", 2, "--film"]
    whole, sound, made = sample_files(run, tmp_path / "a", *words), samples.generate_together, []

    def noting(trained, seeds, *args, **options):
        made.extend(seeds)
        return sound(trained, seeds, *args, **options)

    monkeypatch.setattr(samples, "generate_together", noting)
    said = command("sample", run, "--out", tmp_path / "a", *words).out
    assert said.startswith("6 images, of which 6 were there before, 2 network evaluations each: ")
    assert made == []
    (tmp_path / "a" / "00004.png").unlink()
    (tmp_path / "a" / "00001.png").unlink()
    # Samples are those of a checkpoint, wherever its run lies.
    moved = shutil.copytree(run, tmp_path / "moved")
    command("sample", moved, "--out", tmp_path / "a", *words)
    assert made == [1, 4]
    # A film needs the states of all its samples.
    command("sample", run, "--out", tmp_path / "a", "-n", 3, "--steps", 2, "--film")
    assert made == [1, 4, 0, 1, 2]
    sample_files(run, tmp_path / "a", *words)
    again = read_files(tmp_path / "a")
    for name in whole.keys() - {"record.json"}:
        assert again[name] == whole[name], name


def test_a_folder_is_continued_with_other_threads_of_torch(run, tmp_path):
    """Samples depend on the threads of the run, which the record has."""
    threads, first = torch.get_num_threads(), sample_files(run, tmp_path, "-n", 1, "--steps", 2)
    torch.set_num_threads(threads + 1)
    try:
        more = sample_files(run, tmp_path, "-n", 2, "--steps", 2)
    finally:
        torch.set_num_threads(threads)
    assert more["00000.png"] == first["00000.png"]
    record = json.loads(more["record.json"])
    assert record["versions"]["threads"] == record["runtime"]["threads"]


def test_weights_can_be_any_average_of_the_run(tmp_path, refused):
    recipe = tiny.recipe(optim__warmup=0, images="40", ema="exponential", ema__more="0.1,0")
    run = tiny.train(recipe, tmp_path / "run")
    pictures = {}
    for weights in ("ema", "raw", "0.1", "0"):
        files = sample_files(run, tmp_path / weights, "-n", 1, "--steps", 2, "--weights", weights)
        assert json.loads(files["record.json"])["weights"] == weights
        pictures[weights] = files["00000.png"]
    assert pictures["0"] == pictures["raw"]
    assert len(set(pictures.values())) == 3
    assert "weights must be one of ema, raw, 0.1, 0" in refused("sample", run, "--weights", "0.9")


def test_samples_go_into_a_new_folder_each_time(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    newest = checkpoint.find_newest(run / "checkpoints")
    alone = Path(shutil.copytree(newest, tmp_path / "alone"))
    named = [(run, "one-1"), (run, "one-2"), (run / "best", "one-3"), (newest, "one-4"), (alone, "alone-1")]
    for of, name in named:
        said = command("sample", of, "-n", 1, "--steps", 1).out
        assert f"1 network evaluation each: samples/{name}/grid.png" in said
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {name for _, name in named}


def test_two_commands_do_not_write_into_one_folder(run, tmp_path, command):
    """Both would find its samples missing, and each would record its own."""
    first = sample_files(run, tmp_path, "-n", 2, "--steps", 2)
    with lock_folder(tmp_path):
        said = command("sample", run, "-n", 3, "--steps", 2, "--out", tmp_path, code=4).err
    assert said.startswith(f"ddim: another process is writing into {tmp_path}: wait until it ends")
    assert read_files(tmp_path) == first
    assert len(sample_files(run, tmp_path, "-n", 3, "--steps", 2)) == len(first) + 1


def test_a_folder_holds_samples_of_one_run_and_one_way_of_sampling(run, tmp_path, refused):
    """More seeds are added to it; anything else is refused and changes nothing."""
    words = ["--steps", 2, "--out", tmp_path / "a"]
    first = sample_files(run, tmp_path / "a", "-n", 3, "--steps", 2)
    both = sample_files(run, tmp_path / "a", "--seeds", "1,7", "--steps", 2)
    assert sorted(both) == sorted([*first, "00007.png"])
    assert all(both[f"{k:05d}.png"] == first[f"{k:05d}.png"] for k in range(3))
    assert json.loads(both["record.json"])["seeds"] == [0, 1, 2, 7]
    for other, why in (
        (["--sampler.eta", 1], "sampler"),
        (["--weights", "raw"], "weights"),
        (["--grid", "quadratic"], "times"),
        (["--steps", 3], "times"),
    ):
        said = refused("sample", run, *words, *other)
        assert said == f"folder {tmp_path / 'a'} holds samples with another {why}; give a new folder"
    assert read_files(tmp_path / "a") == both
    (tmp_path / "mine.txt").write_text("mine")
    assert "cannot be" in refused("sample", run, "--out", tmp_path / "mine.txt" / "b")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "0"], "-n must be at least 1 and at most 1,000,000, got 0"),
        (["--seed", "-1"], "seed must lie in [0, 2^32), got -1"),
        (["--seeds", "1", "-n", "3"], "--seeds lists the seeds; leave out -n and --seed"),
        (["--stepz", "3"], "--stepz is not an option; perhaps you meant --steps"),
        (["--sampler.etta", "1"], "sampler.etta is not a field of a recipe; perhaps you meant sampler.eta"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, said, run, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert refused("sample", run, *words).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_exist_gets_a_suggestion(run, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/photos-fast-1").symlink_to(run)
    for wrong in ("photos-fast-1", "runs/foto-fast-1"):
        said = f"run {wrong} does not exist; perhaps you meant runs/photos-fast-1"
        assert refused("sample", wrong) == said
