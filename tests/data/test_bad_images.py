"""A folder with every kind of bad image can be used; each bad image is listed with its reason."""

import argparse
import os
import re
import resource
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bad_images import encoded, fill, picture, refused, usable
from ddim.cli import data as command
from ddim.data import open_images
from ddim.data.cache import read_rejects
from ddim.data.decode import UnusableError, decode_image
from ddim.errors import UserError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    return path


def test_good_images_are_used_and_bad_ones_are_listed_with_their_reason(folder, tmp_path):
    used, reasons = fill(folder)
    images = open_images(str(folder), (16, 16), 3, cache=tmp_path / "cache")
    assert set(images.names) == used
    listed = {reject.name: reject.reason for reject in read_rejects(images)}
    assert listed.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, listed[name]), name


def test_the_command_names_each_bad_image_in_one_printable_line(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    used, reasons = fill(folder)
    args = argparse.Namespace(
        axis=None,
        array=None,
        data=str(folder),
        size="16",
        channels=None,
        clusters=None,
        out=tmp_path / "grid.png",
        overwrite=False,
        zoom=None,
        json=False,
    )
    assert command.run(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    for name, reason in reasons.items():
        shown = f"  {command.escape(name)}: "
        assert any(re.search(reason, line) for line in lines if line.startswith(shown)), name
    assert f"{len(used)} images" in lines[0]
    assert "skipped, not images: 3" in lines


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", sorted(usable()))
def test_every_image_mode_can_be_decoded_to_any_number_of_channels(name, channels):
    _, pixels = decode_image(usable()[name], (16, 24), channels)
    assert pixels.shape == (16, 24, channels)
    assert pixels.dtype == np.uint8


def test_no_bad_image_takes_long_or_much_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, (data, _) in refused().items():
        start = time.perf_counter()
        with suppress(UnusableError):
            decode_image(data, (16, 16), 3)
        assert time.perf_counter() - start < 5, name
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 512 * 1024


def test_a_folder_with_bad_images_only_is_refused_with_a_reason(folder, tmp_path):
    (folder / "empty.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"contains no image that can be used: 1 .*'empty.png'.*an empty file"
    ):
        open_images(str(folder), (16, 16), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*x*"))


def test_an_empty_folder_is_an_error(folder, tmp_path):
    with pytest.raises(UserError, match="contains no image"):
        open_images(str(folder), (16, 16), cache=tmp_path / "cache")


@pytest.fixture
def public_folder():
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def test_a_file_and_a_folder_without_permission_are_listed(public_folder):
    photos, cache = public_folder / "photos", public_folder / "cache"
    (photos / "closed").mkdir(parents=True)
    (photos / "good.png").write_bytes(encoded(picture(), "PNG"))
    (photos / "locked.png").write_bytes(encoded(picture()[::-1].copy(), "PNG"))
    # Everything is imported before the rights to do so are dropped.
    open_images(str(photos), (16, 16), cache=cache)
    shutil.rmtree(cache)
    (photos / "locked.png").chmod(0)
    (photos / "closed").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        images = open_images(str(photos), (16, 16), cache=cache)
        listed = {reject.name: reject.reason for reject in read_rejects(images)}
    finally:
        if root:
            os.seteuid(0)
        (photos / "closed").chmod(0o700)
    assert images.names == ("good.png",)
    assert listed.keys() == {"locked.png", "closed"}
    assert all("Permission denied" in reason for reason in listed.values())
