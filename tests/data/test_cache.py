"""The cache is built once, and again when the source changes or the cache is damaged."""

import errno
import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bad_images import encoded, picture
from damage import damage_file, flip_bit
from ddim.data import cache as cache_module
from ddim.data import open_images, survey
from ddim.data.cache import read_headers
from ddim.errors import NoSpace, UserError
from ddim.files import read_sealed, write_sealed
from race import race


def noise(seed):
    """Return a PNG of noise; all have the same size in bytes."""
    return encoded(
        np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8), "PNG", compress_level=0
    )


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    for kind in ("rose", "aster"):
        (path / kind).mkdir(parents=True)
        for n in range(3):
            (path / kind / f"{n}.png").write_bytes(noise([len(kind), n]))
    return path


@pytest.fixture
def opened(folder, tmp_path):
    """Return a function that opens the folder and notes what was decoded."""
    decoded = []

    def again(size=(8, 8)):
        decoded.clear()
        return open_images(
            str(folder), size, cache=tmp_path / "cache", progress=lambda *done: decoded.append(done)
        )

    again.decoded = decoded
    return again


def test_a_source_is_decoded_once(opened):
    first = opened()
    assert opened.decoded == [(n, 6) for n in range(1, 7)]
    again = opened()
    assert opened.decoded == []
    assert again.fingerprint == first.fingerprint
    assert again.names == first.names
    np.testing.assert_array_equal(again.pixels, first.pixels)


def test_every_size_has_its_own_cache(opened):
    small, large = opened(), opened((12, 12))
    assert small.fingerprint != large.fingerprint
    assert small.folder != large.folder
    assert large.pixels.shape == (6, 12, 12, 3)


def test_nothing_is_written_beside_the_images(opened, folder):
    before = sorted(folder.rglob("*"))
    opened()
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_noticed(opened, folder, keep_times):
    first = opened()
    path = folder / "rose" / "1.png"
    before = path.stat()
    path.write_bytes(noise(99))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second = opened()
    assert second.fingerprint != first.fingerprint
    assert (second.pixels[4] != first.pixels[4]).any()
    np.testing.assert_array_equal(second.pixels[5], first.pixels[5])


def test_added_and_removed_files_are_noticed(opened, folder):
    assert len(opened()) == 6
    (folder / "aster" / "3.png").write_bytes(noise(1))
    assert len(opened()) == 7
    (folder / "rose" / "0.png").unlink()
    assert len(opened()) == 6


def test_unchanged_old_files_are_not_read_again(opened, folder, monkeypatch):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    first = opened()
    monkeypatch.setattr(survey.Contents, "add", lambda *_: pytest.fail("read again"))
    assert opened().fingerprint == first.fingerprint
    (folder / "rose" / "0.png").write_bytes(noise(2) + b" ")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        opened()


def test_a_damaged_note_about_old_files_is_not_believed(opened, monkeypatch, tmp_path):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    first = opened()
    (note,) = (tmp_path / "cache" / "surveys").iterdir()
    content = json.loads(note.read_text())["content"]
    damage_file(note, lambda data: data.replace(content.encode(), b"0" * 64))
    assert opened().fingerprint == first.fingerprint


def test_files_that_are_read_before_decoding_are_reported(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    shutil.make_archive(str(tmp_path / "photos"), "tar", folder)
    seen = []
    for source, total in ((folder, 6), (tmp_path / "photos.tar", 1)):
        for _ in range(2):  # the second time, nothing is read
            open_images(source, (8, 8), cache=tmp_path / "cache", checking=lambda *done: seen.append(done))
        assert seen == [(n, max(n, total)) for n in range(1, 7)]
        seen.clear()


def test_files_written_a_moment_ago_are_read_again(opened, monkeypatch):
    opened()
    read, inner = [], survey.Contents.add
    monkeypatch.setattr(
        survey.Contents, "add", lambda contents, item: read.append(item) or inner(contents, item)
    )
    opened()
    assert len(read) == 6


def test_a_file_that_could_not_be_read_once_is_tried_again(opened, monkeypatch):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    failing(monkeypatch, lambda opening: True)
    assert len(opened()) == 5
    monkeypatch.undo()
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    assert len(opened()) == 6


def test_a_file_that_can_be_read_only_once_is_named_and_nothing_is_kept(opened, monkeypatch, tmp_path):
    failing(monkeypatch, lambda opening: opening == 2)
    with pytest.raises(UserError, match="while it was decoded, 'rose/0.png' cannot be read: Inp"):
        opened()
    assert not list((tmp_path / "cache").glob("*x*"))
    monkeypatch.undo()
    assert len(opened()) == 6


def test_a_folder_that_could_not_be_listed_once_is_tried_again(opened, monkeypatch, tmp_path):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    scan, refused = os.scandir, []
    for failing_time in range(1, 6):
        count = itertools.count(1)

        def scan_or_fail(path, count=count, failing_time=failing_time):
            if str(path).endswith("rose") and next(count) == failing_time:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return scan(path)

        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        monkeypatch.setattr(os, "scandir", scan_or_fail)
        try:
            opened()
        except (OSError, UserError) as error:
            refused.append(str(error))
        assert len(opened()) == 6
    assert any("changed or could not be read while it was decoded" in text for text in refused)


def test_a_link_that_leads_nowhere_does_not_make_the_survey_be_repeated(opened, folder, monkeypatch):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    (folder / "rose" / "lost.png").symlink_to("nowhere.png")
    assert len(opened()) == 6
    monkeypatch.setattr(survey.Contents, "add", lambda *_: pytest.fail("read again"))
    assert len(opened()) == 6


def test_the_cache_may_lie_among_the_images(folder):
    assert len(open_images(str(folder), (8, 8), cache=folder / "cache")) == 6


def test_a_survey_that_is_wrong_is_made_again(opened, monkeypatch, tmp_path):
    monkeypatch.setattr("ddim.data.folder._CLOCK_TICK", -3600.0)
    opened()
    (note,) = (tmp_path / "cache" / "surveys").iterdir()
    write_sealed(note, {**read_sealed(note), "content": "0" * 64})
    with pytest.raises(UserError, match="try again"):
        opened()
    assert len(opened()) == 6


def test_files_that_change_while_they_are_read_are_refused(opened, folder, monkeypatch):
    decode = cache_module._decode_all

    def change(*args):
        (folder / "rose" / "0.png").write_bytes(noise(5))
        return decode(*args)

    monkeypatch.setattr(cache_module, "_decode_all", change)
    with pytest.raises(UserError, match="changed or could not be read while it was decoded: try again"):
        opened()


def failing(monkeypatch, when):
    """Let a file fail with an input/output error whenever `when(how often it has been opened)`."""
    opening, count = Path.open, itertools.count(1)

    def open_or_fail(path, *args, **options):
        if path.parts[-2:] == ("rose", "0.png") and when(next(count)):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opening(path, *args, **options)

    monkeypatch.setattr(Path, "open", open_or_fail)


DAMAGE = {
    "truncated pixels": ("images.u8", lambda data: data[:-1]),
    "no pixels": ("images.u8", None),
    "no index": ("index.json", None),
    "no rejects": ("rejects.json", None),
    "half an index": ("index.json", lambda data: data[:40]),
    "another index": ("index.json", lambda data: b"[1, 2]"),
    "labels too few": ("index.json", lambda data: json.dumps(json.loads(data) | {"labels": [0]}).encode()),
    "labels in another order": (
        "index.json",
        lambda data: json.dumps(json.loads(data) | {"labels": [1, 1, 1, 0, 0, 0]}).encode(),
    ),
    "another seal": ("seal.json", lambda data: b'{"rows": 1, "chunks": [], "pages": []}'),
    "an index that is not UTF-8": ("index.json", lambda data: b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_built_again(damage, opened):
    first = opened()
    pixels = np.array(first.pixels)
    name, change = DAMAGE[damage]
    damage_file(first.folder / name, change)
    with pytest.warns(UserWarning, match="is damaged, so the images are decoded again"):
        again = opened()
    assert len(opened.decoded) == 6
    np.testing.assert_array_equal(again.pixels, pixels)
    assert again.labels.tolist() == [0, 0, 0, 1, 1, 1]
    opened()
    assert opened.decoded == []


READS = {
    "one image": lambda pixels: pixels[4],
    "the last image": lambda pixels: pixels[-1],
    "a slice": lambda pixels: pixels[3:],
    "indices": lambda pixels: pixels[np.array([1, 4])],
    "a mask": lambda pixels: pixels[np.arange(6) > 2],
    "a channel": lambda pixels: pixels[:, :, :, 0],
    "each image": list,
    "all": np.asarray,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_damaged_pixels_are_refused_when_they_are_first_read(read, opened, monkeypatch):
    monkeypatch.setattr("ddim.data.checked_pixels._CHUNK", 2 * 8 * 8 * 3)  # two images
    first = opened()
    kept = np.array(first.pixels)
    damage_file(first.folder / "images.u8", lambda data: data[: len(data) // 2] + bytes(len(data) // 2))
    images = opened()
    np.testing.assert_array_equal(images.pixels[[0, 1]], kept[:2])
    with pytest.raises(UserError, match="damaged on the disk.*repeat the command"):
        read(images.pixels)
    again = opened()
    assert len(opened.decoded) == 6
    np.testing.assert_array_equal(again.pixels, kept)


def test_every_byte_of_the_cache_is_sealed(opened, monkeypatch):
    monkeypatch.setattr("ddim.data.checked_pixels._CHUNK", 5 * 8 * 8 * 3)  # the last chunk is shorter
    folder = opened().folder
    for place in range(0, 6 * 8 * 8 * 3, 191):
        damage_file(folder / "images.u8", lambda data, place=place: flip_bit(data, place))
        with pytest.raises(UserError):
            np.asarray(opened().pixels)
        assert opened().folder == folder


def test_an_interrupted_build_leaves_no_cache(opened, folder, tmp_path):
    class Killed(BaseException):
        pass

    def cut(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        open_images(str(folder), (8, 8), cache=tmp_path / "cache", progress=cut)
    assert not list((tmp_path / "cache").glob("*8x8*"))
    assert len(opened()) == 6


def test_several_threads_can_build_one_cache_at_once(folder, tmp_path):
    found = []
    race(lambda k: found.append(open_images(str(folder), (8, 8), cache=tmp_path / "cache")), 4)
    assert len(found) == 4
    for images in found:
        np.testing.assert_array_equal(images.pixels, found[0].pixels)
    assert not list((tmp_path / "cache").glob(".*"))


def test_the_cache_of_a_faster_builder_stays_in_place(folder, tmp_path):
    cache, found = tmp_path / "cache", []

    def overtaken(done, total):
        if done == 3 and not found:
            images = open_images(str(folder), (8, 8), cache=cache)
            found.append((images.folder, images.folder.stat().st_ino))

    images = open_images(str(folder), (8, 8), cache=cache, progress=overtaken)
    assert [(images.folder, images.folder.stat().st_ino)] == found
    assert not list(cache.glob(".*"))


def test_files_of_a_killed_builder_are_removed_by_the_next_one(opened, tmp_path):
    (tmp_path / "cache" / f".tmp-{0:032x}-images").mkdir(parents=True)
    opened()
    assert not [*(tmp_path / "cache").glob(".tmp-*")]


def test_the_environment_variable_sets_the_cache_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "mine"))
    assert open_images(str(folder), (8, 8)).folder.parent == tmp_path / "mine"


def test_the_error_for_an_unwritable_cache_names_the_environment_variable(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="DDIM_CACHE"):
        open_images(str(folder), (8, 8), cache=tmp_path / "file" / "cache")


def test_a_full_disk_under_the_cache_has_its_own_exit_code(folder, tmp_path, monkeypatch):
    """A worker of a sweep tries a trial again that met a full disk, and counts any other as failed."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoSpace, match=r"cache.* cannot be written \(No space left on device\)") as caught:
        open_images(str(folder), (8, 8), cache=tmp_path / "cache")
    assert caught.value.exit_code == 3
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def leave(monkeypatch, free):
    """Let every disk have this number of free bytes."""
    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - free, free))


def test_too_little_space_for_the_images_is_said_before_they_are_decoded(opened, monkeypatch, tmp_path):
    leave(monkeypatch, 6 * 8 * 8 * 3 - 1)
    with pytest.raises(NoSpace, match="images need 0.0 MB, and .*: choose a smaller --size") as caught:
        opened()
    assert f"the cache folder {str(tmp_path / 'cache')!r} has 0.0 MB free" in str(caught.value)
    assert opened.decoded == []
    assert not list((tmp_path / "cache").glob("*x*"))
    leave(monkeypatch, 6 * 8 * 8 * 3)
    assert len(opened()) == 6


def test_an_unsorted_archive_needs_space_for_a_second_copy(folder, tmp_path, monkeypatch):
    done = []

    def read(names, cache):
        path = tmp_path / "photos.tar"
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.add(folder / name, name)
        return open_images(path, (8, 8), cache=tmp_path / cache, progress=lambda *now: done.append(now))

    names = [f"rose/{k}.png" for k in range(3)] + [f"aster/{k}.png" for k in range(3)]
    leave(monkeypatch, 6 * 8 * 8 * 3)
    assert len(read(sorted(names), "sorted")) == 6
    done.clear()
    with pytest.raises(NoSpace, match="ddim cache --clear images"):
        read(names, "unsorted")
    assert len(done) == 3  # the fourth image is the first that is not in order
    leave(monkeypatch, (12 - 4) * 8 * 8 * 3)
    assert read(names, "unsorted").names == tuple(sorted(names))


def test_the_original_sizes_and_formats_are_stored(opened, folder):
    (folder / "rose" / "0.png").write_bytes(encoded(picture(30, 50), "JPEG"))
    found = [(header.height, header.width, header.format) for header in read_headers(opened())]
    assert found == [(12, 12, "PNG")] * 3 + [(30, 50, "JPEG")] + [(12, 12, "PNG")] * 2
