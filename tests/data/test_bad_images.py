"""A folder with every kind of bad image can be used; each bad image is listed with its reason."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from bad_images import encoded, fill, picture
from cases import mark_slow
from ddim.data import open_images
from ddim.errors import UserError, escape
from image_classes import CLASSES, run_classes


def test_good_images_are_used_and_bad_ones_are_listed_with_reasons(tmp_path, command, monkeypatch):
    (folder := tmp_path / "photos").mkdir()
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "cache"))
    used, reasons = fill(folder)
    images = open_images(str(folder), (16, 16), 3)
    assert set(images.names) == used
    listed = {reject.name: reject.reason for reject in images.rejects}
    assert listed.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, listed[name]), name
    lines = command("data", folder, "--size 16 --channels 3 --out", tmp_path / "g.png").out.splitlines()
    assert all(line.isprintable() for line in lines)
    for name in reasons:
        assert any(line.startswith(f"rejected: {escape(name)}: ") for line in lines), name
    assert "skipped: 3" in lines


@pytest.mark.parametrize("files", [{}, {"empty.png": b""}])
def test_a_folder_without_usable_images_is_refused_with_a_reason(files, tmp_path):
    (folder := tmp_path / "photos").mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match="contains no image that can be used.*empty" if files else "no image"):
        open_images(str(folder), (16, 16), cache=tmp_path / "cache")
    assert os.listdir(tmp_path / "cache" / "images") == []


@pytest.fixture
def public_folder():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


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
    finally:
        if root:
            os.seteuid(0)
        (photos / "closed").chmod(0o700)
    assert images.names == ("good.png",)
    assert [reject.name for reject in images.rejects] == ["closed", "locked.png"]
    assert all("Permission denied" in reject.reason for reject in images.rejects)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("each", "fuzzed"), mark_slow([(1, 200), (20, 1000)], lambda case: case[0] == 1))
def test_every_file_of_every_class_is_used_or_listed(each, fuzzed, tmp_path):
    report = run_classes(tmp_path, each, fuzzed)
    assert report["faults"] == []
    assert report["fuzzed"] == fuzzed
    assert report["used"] >= 8 * each
    assert len(CLASSES) >= 26
