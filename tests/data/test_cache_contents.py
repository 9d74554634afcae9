"""What the cache holds; clearing it leaves the files of others alone."""

import json

import pytest

from ddim.cli import main
from ddim.data import open_images
from ddim.data.cache import PARTS, clear_cache, list_cache
from ddim.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a part of each kind, in a folder with files of the user."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DDIM_CACHE", str(folder))
    open_images("blossoms:3", (32, 32))
    digest = "0" * 64
    written = [f"stamps/{digest}/note.json", f"features/{digest}.npy", f"features/samples-{digest}/0-8"]
    written += [f"features/{digest}.parts/0-1024"]
    written += ["compiler/aa/code.so", "downloads/flowers-102/102flowers.tgz", "weights/net-01234567.pth"]
    written += ["hub/ada--flowers/0123/flowers/state.json"]
    for name in [*written, "notes.txt", "downloads/mine.zip", "weights/mine.pth", "features/mine.npy"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    return folder


def test_every_part_is_listed_with_its_size(cache):
    found = {part.name: (len(part.entries), part.bytes) for part in list_cache()}
    assert found.pop("images")[0] == 1
    assert found.pop("features") == (3, 3000)
    assert found.pop("stamps")[0] == 2  # with that of the images
    assert found == dict.fromkeys(["compiler", "downloads", "hub", "weights"], (1, 1000))


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_cleared(cache, part):
    before = {found.name: found.bytes for found in list_cache()}
    assert clear_cache([part]) == before[part] > 0
    assert {found.name: found.bytes for found in list_cache()} == before | {part: 0}


def test_clearing_everything_leaves_the_files_of_the_user(cache, capsys):
    assert main(["cache", "--clear", "all"]) == 0
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    assert left == ["downloads/mine.zip", "features/mine.npy", "notes.txt", "weights/mine.pth"]
    assert "MB freed in" in capsys.readouterr().out


def test_the_command_shows_the_parts(cache, capsys):
    assert main(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in shown["parts"]] == list(PARTS)
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.startswith(f"{cache}: ")


def test_an_unknown_part_is_refused(cache, capsys):
    with pytest.raises(UserError, match="got 'image'; perhaps you meant images"):
        clear_cache(["image"])
    assert main(["cache", "--clear", "image"]) == 2


def test_an_empty_cache_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "none"))
    assert [part.bytes for part in list_cache()] == [0] * len(PARTS)
