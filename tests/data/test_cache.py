"""Images are decoded once, and again when their files change or the cache is damaged; clearing the cache."""

import errno
import json
import os
import threading

import numpy as np
import pytest

from archives import as_folder, as_zip
from bad_images import encoded, picture
from damage import damage_file, flip_bit
from ddim.data import cache as cache_module, open_images
from ddim.data.cache import open_decoded, read_headers
from ddim.data.cache_contents import CACHE_PARTS, inspect_cache
from ddim.data.images import gather_batch, to_unit
from ddim.data.values import Reading, Values
from ddim.errors import NoSpace, UserError
from ddim.evaluation.image_summary import summarise_images
from deep_files import noise16, png16, tiff
from race import race


def noise(seed):
    """Return a PNG of noise; all have the same size in bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return encoded(pixels, "PNG", compress_level=0)


@pytest.fixture
def folder(tmp_path):
    files = {f"{kind}/{n}.png": noise([len(kind), n]) for kind in ("rose", "aster") for n in range(3)}
    return as_folder(tmp_path / "photos", files)


@pytest.fixture
def opened(folder, tmp_path, monkeypatch):
    """Open the folder, and say in `opened.decoded` how many files were decoded."""
    monkeypatch.setattr("ddim.data.sources._CLOCK_TICK", -3600.0)
    decode, lock = cache_module.decode_image, threading.Lock()

    def count(*args, **options):
        with lock:
            opener.decoded += 1
        return decode(*args, **options)

    def opener(size=(8, 8), **options):
        opener.decoded = 0
        return open_images(str(folder), size, cache=tmp_path / "cache", **options)

    monkeypatch.setattr(cache_module, "decode_image", count)
    opener.decoded = 0
    return opener


def test_images_are_decoded_once(opened):
    seen = []
    first = opened(progress=lambda *done: seen.append(done))
    assert seen == [("reading images", n, 6) for n in range(1, 7)]
    assert opened.decoded == 6
    again = opened()
    assert opened.decoded == 0
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert (again.names, again.fingerprint, again.classes) == (first.names, first.fingerprint, first.classes)
    assert again.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert opened((10, 8)).pixels.shape == (6, 10, 8, 3)
    assert opened.decoded == 6


def test_files_written_a_moment_ago_are_read_again_and_a_damaged_note_is_not_believed(
    opened, tmp_path, monkeypatch
):
    first = opened()
    (note,) = (tmp_path / "cache" / "stamps").glob("*/note.json")
    damage_file(note, lambda data: data.replace(first.folder.name[:8].encode(), b"00000000"))
    assert opened().fingerprint == first.fingerprint
    monkeypatch.setattr("ddim.data.sources._CLOCK_TICK", 3600.0)
    assert opened().fingerprint == first.fingerprint
    assert opened.decoded == 6


@pytest.mark.parametrize("change", ["content", "name", "removed", "added", "class"])
def test_any_change_of_the_files_changes_the_fingerprint(change, opened, folder):
    first, path = opened(), folder / "rose" / "0.png"
    if change == "content":
        path.write_bytes(noise(99))
    elif change == "removed":
        path.unlink()
    elif change == "added":
        path.with_name("7.png").write_bytes(noise(98))
    else:
        path.rename(folder / ("aster" if change == "class" else "rose") / "8.png")
    again = opened()
    assert opened.decoded == len(again)
    assert again.fingerprint != first.fingerprint


def test_images_are_used_after_their_files_are_gone_and_under_other_paths(
    opened, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    (folder / "bad.png").write_bytes(b"\x89PNG")
    first = opened()
    folder.rename(tmp_path / "moved")
    moved = open_images(tmp_path / "moved", (8, 8))
    assert (moved.folder, moved.rejects) == (first.folder, first.rejects)
    again = open_decoded(first.fingerprint)
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert open_decoded("0" * 64) is None


def test_each_source_has_its_own_rejects(opened, folder, tmp_path):
    files = {f"rose/{n}.png": (folder / "rose" / f"{n}.png").read_bytes() for n in range(3)}
    one = open_images(as_zip(tmp_path / "a", files), (8, 8), cache=tmp_path / "cache")
    bad = as_zip(tmp_path / "b", files | {"bad.png": b"", "a.txt": b"x"})
    other = open_images(bad, (8, 8), cache=tmp_path / "cache")
    assert (one.folder, one.rejects, one.skipped) == (other.folder, (), 0)
    assert ([reject.name for reject in other.rejects], other.skipped) == (["bad.png"], 1)


DAMAGE = {
    "truncated pixels": ("pixels", lambda data: data[:-1]),
    "a bit of the pixels": ("pixels", lambda data: flip_bit(data, len(data) - 100)),
    "no pixels": ("pixels", None),
    "half an index": ("index.json", lambda data: data[:40]),
    "another class": ("index.json", lambda data: data.replace(b'"rose"', b'"lily"')),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_built_again(damage, opened):
    first = opened()
    pixels = np.array(first.pixels)
    name, change = DAMAGE[damage]
    damage_file(first.folder / name, change)
    with pytest.warns(UserWarning, match="damaged"):
        again = opened()
    assert opened.decoded == 6
    np.testing.assert_array_equal(again.pixels, pixels)
    assert (again.classes, again.labels.tolist()) == (("aster", "rose"), [0, 0, 0, 1, 1, 1])
    opened()
    assert opened.decoded == 0


def test_an_interrupted_build_leaves_no_cache(opened, tmp_path):
    class Killed(BaseException):
        pass

    def cut(what, done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        opened(progress=cut)
    assert os.listdir(tmp_path / "cache" / "images") == []
    assert len(opened()) == 6


def test_several_builders_decode_once(opened, tmp_path):
    found = []
    race(lambda k: found.append(open_images(str(tmp_path / "photos"), (8, 8), cache=tmp_path / "cache")), 4)
    assert [images.fingerprint for images in found] == [found[0].fingerprint] * 4
    assert opened.decoded == 6


def test_a_full_disk_under_the_cache_has_its_own_exit_code(folder, tmp_path, monkeypatch):
    """A worker of a sweep tries a trial again that met a full disk, and counts any other as failed."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoSpace, match="cache.*DDIM_CACHE") as caught:
        open_images(str(folder), (8, 8), cache=tmp_path / "cache")
    assert caught.value.exit_code == 3


def test_the_original_sizes_and_formats_are_stored(opened, folder):
    (folder / "rose" / "0.png").write_bytes(encoded(picture(30, 50), "JPEG"))
    images = opened((20, 20))
    found = [(header.height, header.width, header.format) for header in read_headers(images)]
    assert found == [(12, 12, "PNG")] * 3 + [(30, 50, "JPEG")] + [(12, 12, "PNG")] * 2
    assert summarise_images("photos", images)["enlarged"] == 5


# Values of more than 8 bits

EIGHT = encoded(picture(8, 8)[..., 0].copy(), "PNG")


def test_a_folder_keeps_16_bits_through_cache_and_batch(tmp_path):
    pixels = noise16(6, 8, 8, 3)
    folder = as_folder(tmp_path / "deep", {f"{k}.png": png16(each) for k, each in enumerate(pixels)})
    images = open_images(folder, (8, 8), cache=tmp_path / "cache")
    assert np.array_equal(images.pixels, pixels)
    which, flips = np.array([4, 0, 3]), np.array([True, False, True])
    back = images.values.from_unit(to_unit(gather_batch(images, which, flips)))
    wanted = pixels[which]
    wanted[flips] = wanted[flips, :, ::-1]
    assert np.array_equal(back, wanted)
    rounded = open_images(folder, (8, 8), reading=Reading("uint8"), cache=tmp_path / "cache")
    assert rounded.pixels.dtype == np.uint8
    assert rounded.fingerprint != images.fingerprint


def test_most_files_decide_and_others_are_widened_or_refused(tmp_path):
    gray, floats = noise16(8, 8), np.ones((8, 8), np.float32)
    files = {f"{k}.png": png16(gray[..., None]) for k in range(3)}
    files |= {"eight.png": encoded((gray >> 8).astype(np.uint8), "PNG"), "float.tif": tiff(floats)}
    images = open_images(as_folder(tmp_path / "mixed", files), (8, 8), cache=tmp_path / "cache")
    assert images.names == ("0.png", "1.png", "2.png", "eight.png")
    assert np.array_equal(images.pixels[3][..., 0], (gray >> 8) * 257)


def test_floats_keep_their_range_and_integers_become_floats_from_0_to_1_if_asked(tmp_path):
    gray, floats = noise16(8, 8), np.linspace(-7, 9, 64, dtype=np.float32).reshape(8, 8)
    files = {"0.tif": tiff(floats), "1.tif": tiff(floats[::-1]), "8.png": EIGHT}
    folder = as_folder(tmp_path / "floats", files)
    images = open_images(folder, (8, 8), cache=tmp_path / "cache")
    assert (images.names, images.values) == (("0.tif", "1.tif"), Values("float32", -7, 9))
    wide = Reading(range=(-10, 10))
    assert open_images(folder, (8, 8), reading=wide, cache=tmp_path / "cache").values.low == -10
    with pytest.raises(UserError, match="-7 to 9"):
        open_images(folder, (8, 8), reading=Reading(range=(0, 10)), cache=tmp_path / "cache")
    deep = as_folder(tmp_path / "deep", {"0.png": png16(gray[..., None]), "1.png": EIGHT})
    unit = open_images(deep, (8, 8), reading=Reading("float32"), cache=tmp_path / "cache")
    assert unit.values == Values("float32", 0, 1)
    np.testing.assert_allclose(unit.pixels[0, ..., 0], gray / 65535, rtol=1e-6)
    np.testing.assert_allclose(unit.pixels[1, ..., 0], picture(8, 8)[..., 0] / 255, rtol=1e-6)


def test_every_16_bit_value_survives_the_way_to_the_unit_interval_and_back():
    import torch

    every = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256, 1)
    for values in (Values("uint16", 0, 65535), Values("uint16", 0, 65536), Values("uint16", -5, 70000)):
        unit = torch.from_numpy(values.to_unit(every)).permute(0, 3, 1, 2)
        assert np.array_equal(values.from_unit(unit), every)


# The parts of the cache


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A cache with a part of each kind, in a folder with files of the user."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DDIM_CACHE", str(folder))
    open_images("blossoms:3", (32, 32))
    digest = "0" * 64
    written = [f"stamps/{digest}/note.json", f"features/{digest}.npy", f"features/samples-{digest}/0-8"]
    written += [f"features/{digest}.parts/0-1024"]
    written += ["compiler/aa/code.so", "downloads/flowers-102/102flowers.tgz", "weights/net-01234567.pth"]
    written += ["hub/ada--flowers/0123/flowers/state.json"]
    written += ["notes.txt", "downloads/mine.zip", "weights/mine.pth", "features/mine.npy"]
    return as_folder(folder, dict.fromkeys(written, bytes(1000)))


@pytest.mark.parametrize("part", CACHE_PARTS)
def test_one_part_is_cleared(filled, part):
    before = inspect_cache().parts
    assert before["features"] == 3000
    assert inspect_cache(clear=[part]).freed == before[part] > 0
    assert inspect_cache().parts == before | {part: 0}


def test_clearing_everything_leaves_the_files_of_the_user(filled, command):
    command("cache --clear image", code=2)
    with pytest.raises(UserError):
        inspect_cache(clear="small")
    cleared = json.loads(command("cache --clear stamps,all --json").out)
    left = sorted(str(path.relative_to(filled)) for path in filled.rglob("*") if path.is_file())
    left.remove("images/.lock")
    assert left == ["downloads/mine.zip", "features/mine.npy", "notes.txt", "weights/mine.pth"]
    assert set(cleared["parts"].values()) == {0}
