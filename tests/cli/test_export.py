"""`ddim export` and `ddim import`, from a run to a pipeline of diffusers and back."""

import json
from pathlib import Path

import pytest

from untrained import recipe, run_of


@pytest.fixture
def imported(tmp_path, monkeypatch, command):
    """The folder of a run that was exported and imported."""
    monkeypatch.chdir(tmp_path)
    run = run_of(recipe(), tmp_path / "run")
    assert command("export", run, "--quiet").out == "exports/run-diffusers\n"
    return json.loads(command("import", "exports/run-diffusers", "--json").out)["folder"]


def test_a_run_is_exported_imported_and_sampled(imported, command):
    assert imported == "runs/run-diffusers-ddpm-1"
    command("sample", imported, "-n", 2, "--steps", 2, "--out", "samples")
    assert Path("samples/00001.png").is_file()


def test_commands_that_need_images_say_that_an_imported_run_has_none(imported, refused):
    for name in ("diagnose", "memorisation", "likelihood", "evaluate"):
        assert "was imported and has no training images" in refused(name, imported)
    assert refused("train", "--from", imported).endswith("was imported and has no training images")
