from pathlib import Path

import pytest

from ddim.errors import UserError
from ddim.runs.folder import (
    check_outside,
    list_numbered_folders,
    make_numbered_folder,
    make_output_folder,
    make_run_folder,
    publish_output,
)


def test_a_run_is_named_after_the_last_part_of_its_data_and_recipe(here):
    for data, recipe, name in (
        ("photos/", "my/recipe.yaml", "photos-recipe-1"),
        ("my photos (2).tar.xz", "fast", "my-photos-2-fast-1"),
        ("hub:someone/cats", "fast", "cats-fast-1"),
        ("/", "fast", "images-fast-1"),
        ("日" * 250, "smoke", "日" * 50 + "-smoke-1"),
    ):
        assert make_run_folder(None, data, recipe).name == name


def test_a_number_is_one_more_than_the_largest(tmp_path):
    for name in ("a-1", "a-2", "a-10", "a-x-77", "ab-99", "33"):
        (tmp_path / name).mkdir()
    assert make_numbered_folder(tmp_path, "a-").name == "a-11"
    assert [path.name for path in list_numbered_folders(tmp_path, "a-")] == ["a-1", "a-2", "a-10", "a-11"]
    (tmp_path / "a-12").write_text("a file has a name too")
    assert make_numbered_folder(tmp_path, "a-").name == "a-13"
    assert make_output_folder(None, str(tmp_path / "new" / "b[1]"), "c") == tmp_path / "new" / "b[1]" / "c-1"


def test_a_filled_folder_gets_the_given_or_the_next_name(tmp_path):
    for out, name in ((None, "results/1"), (None, "results/2"), (tmp_path / "mine", "mine")):
        (tmp_path / "filled").mkdir()
        assert publish_output(tmp_path / "filled", out, tmp_path / "results") == tmp_path / name
        assert (tmp_path / name).is_dir()


def test_a_given_folder_is_used_when_new_or_empty_and_never_overwritten(tmp_path):
    for _ in range(2):
        assert make_run_folder(tmp_path / "a" / "b", "blossoms", "fast") == tmp_path / "a" / "b"
    (tmp_path / "a" / "b" / "mine.txt").write_text("mine")
    for place in (tmp_path / "a" / "b", tmp_path / "a" / "b" / "mine.txt"):
        with pytest.raises(UserError, match="is not a new or empty folder"):
            make_run_folder(place, "blossoms", "fast")


def test_results_do_not_lie_among_the_images(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="be read as images"):
        check_outside(tmp_path / "out", "~")
    check_outside(tmp_path.parent / "out", "~")
    check_outside(Path("out"), "blossoms")
