"""`ddim push`, and the name of a run on the Hub where commands take a run."""

import json

import pytest

from hub_server import TOKEN, hub_in_use
from untrained import recipe, run_of

# huggingface_hub calls its own HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "hub:ada/flowers"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(recipe(data__source="blossoms:40"), tmp_path_factory.mktemp("run") / "flowers")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_in_use(tmp_path / "home") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield hub


def test_a_run_is_pushed_and_sampled(hub, run, command, tmp_path):
    said = command("push", run, "ada/flowers")
    assert said.out.startswith(f"hub:ada/flowers: {hub.address}/ada/flowers (only you can see it")
    assert "model.safetensors" in said.err
    assert "uploading 7 files" in said.err
    found = json.loads(command("push", run, "ada/flowers", "--json").out)
    assert found["private"] is True
    assert found["commit"] == list(hub.repositories["ada/flowers"].commits)[-1]
    for source in (NAME, run):
        command("sample", source, "-n", 2, "--steps", 2)
    first, second = (tmp_path / "samples" / f"flowers-{k}" / "00001.png" for k in (1, 2))
    assert first.read_bytes() == second.read_bytes()
