"""`ddim push`, and names on the Hub where commands take a run."""

import json

import pytest

from hub_server import TOKEN, hub_in_use, publish
from untrained import recipe, run_of

# huggingface_hub calls its own HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "hub:ada/flowers"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_in_use(tmp_path / "home") as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield hub


def test_a_run_is_pushed_and_sampled(hub, command, tmp_path):
    run = run_of(recipe(), tmp_path / "flowers")
    assert "model.safetensors" in command("push", run, "ada/flowers", "--dry-run").out
    assert not hub.requests
    found = json.loads(command("push", run, "ada/flowers", "--json").out)
    assert found["private"] is True
    assert found["commit"] == list(hub.repositories["ada/flowers"].commits)[-1]
    command("sample", NAME, "-n 1 --steps 2 --guidance 1.5 --out guided --guide-with", NAME)


@pytest.mark.parametrize(
    "words", [["evaluate", NAME, "-n", 20], ["distill", NAME], ["train", "--from", NAME]], ids=lambda w: w[0]
)
def test_no_images_are_opened_by_a_name_that_a_stranger_chose(hub, words, refused, tmp_path):
    fields = {"schedule": "cosine", "conditioning": "log_snr", "grid": "uniform", "data__size": "32"}
    chosen = recipe(data__source="hub:mallory/pictures", optim__batch=4, **fields)
    publish(hub, "ada/flowers", run_of(chosen, tmp_path / "flowers", images=9))
    hub.requests.clear()
    assert "was published without its training images" in refused(*words)
    assert not [request for request in hub.requests if "mallory" in str(request)]
