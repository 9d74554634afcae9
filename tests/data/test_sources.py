"""Folders and archives: which images they hold, in which order, and what happens to damaged ones."""

import os
import sys
import tarfile

import numpy as np
import pytest

from archives import as_folder, as_tar, as_zip
from bad_images import encoded
from damage import damage_file, flip_bit
from ddim.data import open_images
from ddim.errors import UserError


def colour(number, channels=3):
    """Return a PNG of one colour, different for each number."""
    shape = (8, 8) if channels == 1 else (8, 8, channels)
    return encoded(np.full(shape, 40 + number, np.uint8), "PNG")


FLOWERS = {
    f"set/{kind}/{n}.png": colour(10 * k + n) for k, kind in enumerate(("rose", "aster")) for n in range(3)
}
KINDS = {"folder": as_folder, "zip": as_zip} | {
    f"tar-{mode or 'plain'}": as_tar(mode) for mode in ("", "gz", "xz", "bz2")
}


def opened(path, tmp_path, size=(8, 8), channels=None):
    return open_images(str(path), size, channels, cache=tmp_path / "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_gives_the_same_images_in_the_order_of_their_names(kind, tmp_path):
    images = opened(KINDS[kind](tmp_path / "data", FLOWERS), tmp_path)
    assert images.names == tuple(sorted(FLOWERS))
    assert (images.classes, images.labels.tolist()) == (("aster", "rose"), [0, 0, 0, 1, 1, 1])
    assert images.labels.dtype == np.int64
    assert images.pixels[:, 0, 0, 0].tolist() == [50, 51, 52, 40, 41, 42]
    assert not images.pixels.flags.writeable
    assert images.fingerprint == opened(as_folder(tmp_path / "other", FLOWERS), tmp_path).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_not_images_are_counted_not_read(kind, tmp_path):
    others = {"read me.txt": b"x", "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "a/.b/c.png": colour(1)}
    images = opened(KINDS[kind](tmp_path / "data", {"a/x.png": colour(1), **others}), tmp_path)
    assert (images.names, images.rejects, images.skipped) == (("a/x.png",), (), 4)


@pytest.mark.parametrize(
    ("gray", "rgb", "rgba", "channels"), [(3, 2, 1, 1), (1, 2, 3, 4), (2, 2, 2, 3), (17, 30, 5, 3)]
)
def test_channels_follow_the_majority(gray, rgb, rgba, channels, tmp_path):
    """In the last case, the first images do not have the channels of most images."""
    counts = {1: gray, 3: rgb, 4: rgba}
    files = {f"{kind}-{n}.png": colour(n, kind) for kind, count in counts.items() for n in range(count)}
    path = as_folder(tmp_path / "data", files)
    images = opened(path, tmp_path)
    assert images.pixels.shape == (len(files), 8, 8, channels)
    named = opened(path, tmp_path, channels=channels)
    assert named.fingerprint == images.fingerprint
    assert opened(path, tmp_path, channels=1 if channels > 1 else 3).fingerprint != images.fingerprint


@pytest.mark.parametrize("name", ["../above.png", "/tmp/absolute.png", "in/../../above.png", "a/./b.png"])
def test_nothing_of_an_archive_is_extracted(name, tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    written = []
    sys.addaudithook(lambda event, args: written.append(str(args[0])) if event == "open" else None)
    for make in (as_zip, as_tar("")):
        assert opened(make(tmp_path / "data", {name: colour(1)}), tmp_path).names == (name,)
    assert not [path for path in written if "above" in path or "absolute" in path]
    assert os.listdir(tmp_path / "inside") == []


def test_links_and_pipes_of_a_tar_are_listed(tmp_path):
    path = as_tar("")(tmp_path / "data", {"good.png": colour(1)})
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    images = opened(path, tmp_path)
    assert (images.names, len(images.rejects)) == (("good.png",), 3)


@pytest.mark.parametrize("mode", ["", "gz"])
def test_a_truncated_tar_keeps_the_images_before_the_damage(mode, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 40, 3), np.uint8)
    files = {f"{n:02d}.png": encoded(noise[n], "PNG") for n in range(30)}
    path = as_tar(mode)(tmp_path / "data", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    images = opened(path, tmp_path)
    assert images.names == tuple(files)[: len(images)]
    assert 13 <= len(images) <= 16
    assert "damaged" in images.rejects[-1].reason


def test_damage_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path):
    path = as_tar("")(tmp_path / "data", {f"{k}.png": colour(k) for k in range(4)})
    damage_file(path, lambda data: data.replace(b"2.png", b"3.png", 1))
    images = opened(path, tmp_path)
    assert images.names == ("0.png", "1.png")
    assert "damaged" in images.rejects[0].reason


def test_a_damaged_member_of_a_zip_is_listed(tmp_path):
    path = as_zip(tmp_path / "data", {"a.png": colour(1), "b.png": colour(2)})
    damage_file(path, lambda data: flip_bit(data, 60))  # in the first image, which begins at byte 35
    images = opened(path, tmp_path)
    assert images.names == ("b.png",)
    assert [reject.name for reject in images.rejects] == ["a.png"]


@pytest.mark.parametrize("data", [b"PK\x05\x06" + bytes(10), b"\x1f\x8b\x08junk", b""])
def test_a_file_that_only_looks_like_an_archive_is_an_error(data, tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"data\.zip"):
        opened(path, tmp_path)


def test_links_to_files_and_folders_outside_are_followed_once(tmp_path):
    elsewhere = as_folder(tmp_path / "elsewhere", {"more/a.png": colour(1), "b.png": colour(2)})
    folder = as_folder(tmp_path / "data", {"c.png": colour(3), "in/e.png": colour(4)})
    (folder / "linked").symlink_to(elsewhere / "more")
    (folder / "d.png").symlink_to(elsewhere / "b.png")
    (folder / "in" / "up").symlink_to(folder)
    (folder / "twice").symlink_to(folder / "in")
    images = opened(folder, tmp_path)
    assert images.names == ("c.png", "d.png", "in/e.png", "linked/a.png")
    assert [reject.name for reject in images.rejects] == ["in/up", "twice"]
