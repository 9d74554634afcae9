"""`ddim push`, and names on the Hub where commands take a run or images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddim.files import read_json
from hub_server import TOKEN, hub_in_use, publish
from stubs import stub
from untrained import recipe, run_of

# huggingface_hub calls its own HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "hub:ada/flowers"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    chosen = recipe(data__source="blossoms:40", data__size="32", optim__batch=4)
    return run_of(chosen, tmp_path_factory.mktemp("run") / "flowers", images=36)


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


def test_a_run_of_the_hub_is_evaluated_into_the_current_folder(hub, run):
    publish(hub, "ada/flowers", run)
    found = ddim.evaluate(NAME, "blossoms:40", n=20, steps=2, features=stub())
    assert found.value("kid") is not None
    assert found.folder.parent == Path("evaluations")
    assert found.record["generated"]["source"] == NAME


def test_no_images_are_opened_by_a_name_that_a_stranger_chose(hub, run, refused, tmp_path):
    mine = run_of(recipe(data__source=str(tmp_path / "photos"), data__size="32"), tmp_path / "mine", images=9)
    (tmp_path / "photos").mkdir()
    publish(hub, "ada/flowers", mine)
    hub.requests.clear()
    assert "was published without its training images ('photos'): name images with --data" in refused(
        "evaluate", NAME, "-n", 20
    )


@pytest.mark.parametrize("words", [["distill", NAME], ["train", "--from", NAME]], ids=["distill", "train"])
def test_no_training_opens_images_by_a_name_that_a_stranger_chose(hub, words, refused, tmp_path):
    fields = {"schedule": "cosine", "conditioning": "log_snr", "grid": "uniform", "data__size": "32"}
    chosen = recipe(data__source="hub:mallory/pictures", optim__batch=4, **fields)
    publish(hub, "ada/flowers", run_of(chosen, tmp_path / "flowers", images=9))
    hub.requests.clear()
    assert "was published without its training images" in refused(*words, "--images", 8)
    assert not [request for request in hub.requests if "mallory" in str(request)]


def test_results_that_belong_to_a_run_folder_need_a_folder(hub, run, refused):
    publish(hub, "ada/flowers", run)
    for name in ("diagnose", "search", "memorisation"):
        assert refused(name, NAME).endswith("results are added to a run: give the run folder, or --out DIR")
    assert "has no snapshots" in refused("ema", NAME)


def test_a_guide_can_be_a_run_of_the_hub(hub, run, command):
    publish(hub, "ada/flowers", run)
    command("sample", run, "-n", 1, "--steps", 2, "--guidance", 1.5, "--guide-with", NAME, "--out", "guided")
    assert read_json(Path("guided/record.json"))["guidance"]


@pytest.mark.slow
def test_a_training_takes_its_images_and_its_weights_from_the_hub(hub, run, command):
    commit = publish(hub, "ada/flowers", run).find("main")
    grays = {k: Image.fromarray(np.full((32, 32, 3), 10 * k, np.uint8)) for k in range(1, 9)}
    Path("pictures").mkdir()
    for k, gray in grays.items():
        gray.save(f"pictures/{k}.png")
    files = {path.name: path.read_bytes() for path in Path("pictures").iterdir()}
    hub.repository("datasets/ada/grays", files)
    assert "8 images" in command("data", "hub:ada/grays").out
    options = ("--images", 8, "--data.validation", 0, "--report.checkpoint", 0, "--report.guide", 0)
    command("train", "hub:ada/grays", "--from", NAME, *options, "--quiet")
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("grays-")
    facts = read_json(folder / "run.json")
    assert facts["source"] == f"{NAME}@{commit}"
    assert (facts["data"]["source"], facts["data"]["path"]) == ("hub:ada/grays", "hub:ada/grays")


@pytest.mark.parametrize(
    "words, said",
    [
        (("sample", "hub:flowers"), "a repository is named hub:OWNER/NAME or"),
        (("push", "nothing", "ada/flowers"), "run nothing is not a folder"),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_2(hub, run, refused, words, said):
    assert refused(*(run if word == "RUN" else word for word in words)).startswith(said)
