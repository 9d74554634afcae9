"""`ddim export`, `ddim import` and `ddim push`, and what commands do with an imported run."""

import json
from pathlib import Path

import pytest

from ddim.exchange.diffusers import export_to_diffusers
from ddim.exchange.import_model import import_model
from ddim.sampling.pipeline import load
from hub_server import TOKEN, hub_in_use
from untrained import recipe, run_of

# huggingface_hub calls its own HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return run_of(recipe(), tmp_path / "run")


def test_a_run_is_exported_imported_and_sampled(run, command):
    assert command("export", run, "--quiet").out == "exports/run-diffusers\n"
    found = json.loads(command("import", "exports/run-diffusers", "--json").out)
    assert found == {"folder": "runs/run-diffusers-ddpm-1"}
    command("sample", found["folder"], "-n", 2, "--steps", 2, "--out", "samples")
    assert Path("samples/00001.png").is_file()


def test_a_run_is_pushed_and_sampled(run, command, tmp_path, monkeypatch):
    with hub_in_use(tmp_path / "home") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert "model.safetensors" in command("push", run, "ada/flowers", "--dry-run").out
        assert not hub.requests
        found = json.loads(command("push", run, "ada/flowers", "--json").out)
        assert found["commit"] == list(hub.repositories["ada/flowers"].commits)[-1]
        assert found["private"] is True
        for source, out in (("hub:ada/flowers", "there"), (run, "here")):
            command("sample", source, "-n", 1, "--steps", 2, "--out", out)
    assert Path("there/00000.png").read_bytes() == Path("here/00000.png").read_bytes()


@pytest.mark.parametrize("name", ["diagnose", "memorisation", "likelihood", "evaluate"])
def test_an_imported_run_has_no_images(run, name, refused):
    export_to_diffusers(load(run), Path("out"))
    imported = import_model("out").folder
    assert "was imported and has no training images" in refused(name, imported)
