"""Folders and archives: their images, in which order and with which labels."""

import io
import os
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from archives import as_folder, as_tar, as_zip
from bad_images import encoded, picture
from ddim.data import open_images
from ddim.data.cache import read_rejects
from ddim.data.open import find_source
from ddim.data.sources import find_classes
from ddim.data.survey import survey_source
from ddim.errors import UserError
from ddim.files import cache_folder


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
    assert images.classes == ("aster", "rose")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.labels.dtype == np.int64
    assert images.pixels[:, 0, 0, 0].tolist() == [50, 51, 52, 40, 41, 42]
    assert images.pixels.shape == (6, 8, 8, 3)
    assert not images.pixels[:].flags.writeable
    assert len(images) == 6


def test_the_fingerprint_depends_on_the_content_only(tmp_path):
    found = {opened(make(tmp_path / kind, FLOWERS), tmp_path).fingerprint for kind, make in KINDS.items()}
    assert len(found) == 1
    assert len(found.pop()) == 64


@pytest.mark.parametrize(
    ("names", "classes", "labels"),
    [
        (["a.png", "b.png"], (), None),
        (["one/a.png", "one/b.png"], (), None),
        (["rose/a.png", "aster/b.png"], ("aster", "rose"), [1, 0]),
        (["set/rose/a.png", "set/aster/b.png"], ("aster", "rose"), [1, 0]),
        (["train/rose/a.png", "train/aster/b.png", "test/rose/c.png"], ("aster", "rose"), [1, 0, 1]),
        (["train/rose/images/a.png", "train/aster/images/b.png"], ("aster", "rose"), [1, 0]),
        (["rose/a.png", "rose/more/b.png", "aster/c.png"], ("aster", "rose"), [1, 1, 0]),
        (["rose/a.png", "aster/b.png", "cover.png"], (), None),
        (["2023/a.png", "b.png"], (), None),
        ([], (), None),
    ],
)
def test_classes_come_from_the_folders(names, classes, labels):
    assert find_classes(names) == (classes, labels)


def test_files_that_are_not_images_are_counted_not_listed(tmp_path):
    others = {"read me.txt": b"x", "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "a/.b/c.png": colour(1)}
    path = as_zip(tmp_path / "data", {"a/x.png": colour(1), **others})
    images = opened(path, tmp_path)
    assert images.names == ("a/x.png",)
    assert read_rejects(images) == []
    assert survey_source(find_source(str(path)), cache_folder(tmp_path / "cache")).others == 4


@pytest.mark.parametrize(
    ("counts", "channels"), [((3, 2, 1), 1), ((1, 3, 2), 3), ((1, 2, 3), 4), ((2, 2, 2), 3)]
)
def test_channels_follow_the_majority(counts, channels, tmp_path):
    files = {
        f"{kind}-{n}.png": colour(n, kind)
        for kind, count in zip((1, 3, 4), counts, strict=True)
        for n in range(count)
    }
    images = opened(as_folder(tmp_path / "data", files), tmp_path)
    assert images.pixels.shape == (6, 8, 8, channels)


def test_channels_can_be_named(tmp_path):
    path = as_folder(tmp_path / "data", FLOWERS)
    fingerprints = set()
    for channels in (1, 3, 4):
        images = opened(path, tmp_path, channels=channels)
        assert images.pixels.shape[-1] == channels
        fingerprints.add(images.fingerprint)
    assert len(fingerprints) == 3


def hostile_tar(path):
    """Write good images, and every kind of member that could lead out of an archive."""
    with tarfile.open(path, "w") as archive:

        def put(name, kind=tarfile.REGTYPE, target=""):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(colour(1)) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(colour(1)) if info.size else None)

        put("good.png")
        put("../above.png")
        put("/tmp/absolute.png")
        put("in/../../above.png")
        put("soft.png", tarfile.SYMTYPE, "/etc/passwd")
        put("hard.png", tarfile.LNKTYPE, "good.png")
        put("device.png", tarfile.CHRTYPE)
        put("pipe.png", tarfile.FIFOTYPE)
    return path


def hostile_zip(path):
    """Do the same for zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good.png", "../above.png", "/tmp/absolute.png", "in/../../above.png"):
            archive.writestr(name, colour(1))
        link = zipfile.ZipInfo("soft.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return path


@pytest.mark.parametrize("make", [hostile_tar, hostile_zip])
def test_nothing_leads_out_of_an_archive_and_nothing_is_extracted(make, tmp_path, monkeypatch):
    path = make(tmp_path / "data.archive")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    opened_files = []
    sys.addaudithook(lambda event, args: opened_files.append(str(args[0])) if event == "open" else None)
    images = opened(path, tmp_path)
    assert images.names == ("good.png",)
    reasons = {reject.name: reject.reason for reject in read_rejects(images)}
    for name in ("../above.png", "/tmp/absolute.png", "in/../../above.png"):
        assert "leads out" in reasons[name]
    assert "link" in reasons["soft.png"]
    assert not [name for name in opened_files if "passwd" in name or "above" in name or "absolute" in name]
    assert sorted(os.listdir(tmp_path)) == ["cache", "data.archive", "inside"]
    assert os.listdir(tmp_path / "inside") == []


def test_a_zip_bomb_is_refused_by_its_unpacked_size(tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.data.folder.MAX_BYTES", 10_000)
    for make in (as_zip, as_tar("gz")):
        path = make(tmp_path / "data", {"good.png": colour(1), "bomb.png": colour(2) + bytes(10**7)})
        images = opened(path, tmp_path)
        assert images.names == ("good.png",)
        assert [(reject.name, reject.reason[:11]) for reject in read_rejects(images)] == [
            ("bomb.png", "larger than")
        ]


def test_a_truncated_tar_keeps_the_images_before_the_damage(tmp_path):
    path = as_tar("")(tmp_path / "data", {f"{n}.png": colour(n) + bytes(2000) for n in range(8)})
    path.write_bytes(path.read_bytes()[: 4 * 3072 + 700])
    images = opened(path, tmp_path)
    assert images.names == ("0.png", "1.png", "2.png", "3.png")
    assert read_rejects(images)


def test_a_damaged_member_of_a_zip_is_listed(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", colour(1))
        archive.writestr("b.png", colour(2))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    path.write_bytes(data)
    images = opened(path, tmp_path)
    assert images.names == ("b.png",)
    assert [reject.name for reject in read_rejects(images)] == ["a.png"]


@pytest.mark.parametrize("data", [b"PK\x05\x06" + bytes(10), b"\x1f\x8b\x08junk", b""])
def test_a_file_that_only_looks_like_an_archive_is_an_error(data, tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"data\.zip"):
        opened(path, tmp_path)


def test_a_single_image_is_refused_with_the_name_of_its_folder(tmp_path):
    (tmp_path / "one.png").write_bytes(colour(1))
    with pytest.raises(
        UserError, match=f"one.png' is one image: give a folder of images, such as '{tmp_path}'"
    ):
        opened(tmp_path / "one.png", tmp_path)


def test_links_to_files_and_folders_outside_are_followed(tmp_path):
    elsewhere = as_folder(tmp_path / "elsewhere", {"more/a.png": colour(1), "b.png": colour(2)})
    folder = as_folder(tmp_path / "data", {"c.png": colour(3)})
    (folder / "linked").symlink_to(elsewhere / "more")
    (folder / "d.png").symlink_to(elsewhere / "b.png")
    assert opened(folder, tmp_path).names == ("c.png", "d.png", "linked/a.png")


def test_a_small_image_is_enlarged_not_refused(tmp_path):
    folder = as_folder(tmp_path / "data", {"a.png": encoded(picture(5, 5), "PNG")})
    assert opened(folder, tmp_path, size=(32, 48)).pixels.shape == (1, 32, 48, 3)
