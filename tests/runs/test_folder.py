import subprocess
import sys
from pathlib import Path

import pytest

from ddim.errors import UserError
from ddim.runs.folder import make_numbered_folder, make_output_folder, make_run_folder

# Folders


def test_runs_are_numbered_upwards_from_the_highest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_run_folder(None, "blossoms", "fast") for _ in range(3)]
    assert [run.as_posix() for run in runs] == [f"runs/blossoms-fast-{n}" for n in (1, 2, 3)]
    runs[0].rmdir()
    runs[1].rmdir()
    (tmp_path / "runs" / "blossoms-fast-old-9").mkdir()
    assert make_run_folder(None, "blossoms", "fast").name == "blossoms-fast-4"
    assert make_run_folder(None, "blossoms", "luz").name == "blossoms-luz-1"


@pytest.mark.parametrize(
    ("data", "recipe", "name"),
    [
        ("../shared/data/flowers64.zip", "fast", "flowers64-fast-1"),
        ("photos/", "my/recipe.yaml", "photos-recipe-1"),
        ("my photos (2).tar.xz", "fast", "my-photos-2-fast-1"),
        ("hub:someone/cats", "fast", "cats-fast-1"),
        ("/", "fast", "images-fast-1"),
        ("v1.2", "fast", "v1.2-fast-1"),
    ],
)
def test_a_run_is_named_after_the_last_part_of_its_data_and_recipe(data, recipe, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_run_folder(None, data, recipe).name == name


def test_a_run_on_the_working_directory_is_named_after_it(tmp_path, monkeypatch):
    (tmp_path / "holiday").mkdir()
    monkeypatch.chdir(tmp_path / "holiday")
    assert make_run_folder(None, ".", "fast").name == "holiday-fast-1"


def test_a_number_is_one_more_than_the_largest_or_the_least_that_is_free(tmp_path):
    for name in ("a-1", "a-2", "a-10", "a-x-77", "ab-99", "33"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-3").write_text("a file has a name too")
    assert make_numbered_folder(tmp_path, "a-").name == "a-11"
    assert make_numbered_folder(tmp_path, "a-", least=True).name == "a-4"
    assert make_numbered_folder(tmp_path).name == "34"
    assert make_numbered_folder(tmp_path / "new" / "one", "b[1]-").name == "b[1]-1"
    assert make_numbered_folder(tmp_path / "new" / "one", "b[1]-").name == "b[1]-2"


RACING = """
import pathlib, sys, time
from ddim.runs.folder import make_numbered_folder
parent, go = pathlib.Path("there"), pathlib.Path("go")
print("ready", flush=True)
while not go.exists():
    time.sleep(1e-4)
for k in range(25):
    made = None
    if sys.argv[2] == "made":
        made = pathlib.Path(f"{sys.argv[3]}-{k}")
        made.mkdir()
        (made / "mine").write_text(f"{sys.argv[3]} {k}")
    print(make_numbered_folder(parent, "a-", made, least=sys.argv[1] == "least"))
"""


@pytest.mark.parametrize("what", ["empty", "made"])
@pytest.mark.parametrize("which", ["least", "next"])
def test_racing_processes_get_different_folders(which, what, tmp_path):
    command = [sys.executable, "-c", RACING, which, what]
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([*command, str(k)], **options) for k in range(3)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 3
    (tmp_path / "go").touch()
    folders = [racer.communicate()[0].split() for racer in racers]
    assert all(len(mine) == 25 for mine in folders)
    assert sorted(sum(folders, [])) == sorted(f"there/a-{n}" for n in range(1, 76))
    if what == "made":
        for k, mine in enumerate(folders):
            said = [(tmp_path / folder / "mine").read_text() for folder in mine]
            assert said == [f"{k} {n}" for n in range(25)]


def test_a_name_taken_at_the_last_moment_is_left_to_the_other_process(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def late(self, *args, **options):
        if self.name == "1":
            mkdir(self)
        return mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    assert [make_numbered_folder(tmp_path, least=least).name for least in (True, False)] == ["2", "3"]


def test_a_folder_that_cannot_be_created_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    reason = r"cannot be created(: \S*mine is a file| \(File exists\))$"
    for make in (make_output_folder, make_run_folder):
        with pytest.raises(UserError, match=reason):
            make(Path("mine/a"), "edits", "vary")
    with pytest.raises(UserError, match=reason):
        make_output_folder(None, "mine", "vary")
    assert make_output_folder(Path("new/one"), "edits", "vary").is_dir()
    assert [make_output_folder(None, "edits", "vary").as_posix() for _ in "ab"] == [
        "edits/vary-1",
        "edits/vary-2",
    ]


def test_a_given_folder_is_used_when_new_or_empty_and_never_overwritten(tmp_path):
    assert make_run_folder(tmp_path / "a" / "b", "blossoms", "fast") == tmp_path / "a" / "b"
    assert make_run_folder(tmp_path / "a" / "b", "blossoms", "fast").is_dir()
    (tmp_path / "a" / "b" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        make_run_folder(tmp_path / "a" / "b", "blossoms", "fast")
    with pytest.raises(UserError, match="is a file"):
        make_run_folder(tmp_path / "a" / "b" / "mine.txt", "blossoms", "fast")
    assert (tmp_path / "a" / "b" / "mine.txt").read_text() == "mine"


def test_a_long_name_of_images_is_cut_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for letter in ("x", "日"):
        assert make_run_folder(None, letter * 250, "smoke").name == f"{letter * 50}-smoke-1"
