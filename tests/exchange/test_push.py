"""Pushing a run to a Hub: what is uploaded, what stays here, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load

import ddim
from ddim.diffusion.loss import Consistency
from ddim.errors import UserError
from ddim.exchange.card import hide_folders
from ddim.sampling.sampling_setup import Guidance, save_guidance
from hub_server import TOKEN, publish
from untrained import recipe, run_of

# huggingface_hub calls its own HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FILES = {"MANIFEST.json", "README.md", "model.safetensors", "published.json", "recipe.json", "recipe.yaml"}
FILES |= {"state.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret-folder") / "flowers"
    chosen = recipe(data__source=str(folder.parent / "my photos"))
    return run_of(chosen, folder, others={"ema/default": 1.25}, images=200)


@pytest.fixture(autouse=True)
def signed_in(hub, monkeypatch):
    """The user is ada."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def newest(hub, name="ada/flowers"):
    return list(hub.repositories[name].commits.values())[-1]


def test_a_pushed_run_samples_to_the_bits_of_the_local_run(hub, run):
    plan = ddim.push(run, "ada/flowers", dry_run=True)
    assert "Nothing was uploaded" in str(plan)
    assert not hub.requests
    pushed = ddim.push(run, "ada/flowers")
    files = newest(hub)
    assert set(files) - {".gitattributes"} == set(pushed.files) == set(plan.files) == FILES
    assert {name: len(files[name]) for name in FILES} == pushed.files == plan.files
    assert all(b"secret-folder" not in content for content in files.values())
    assert (pushed.name, pushed.private) == ("hub:ada/flowers", True)
    assert pushed.commit == list(hub.repositories["ada/flowers"].commits)[-1]
    assert "only you can see it" in str(pushed)
    there, here = (ddim.sample(name, n=2, steps=2) for name in (f"hub:ada/flowers@{pushed.commit}", run))
    assert torch.equal(there, here)
    weights, wanted = load(files["model.safetensors"]), ddim.load(run).model.state_dict()
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], value) for name, value in wanted.items())


def test_a_second_push_leaves_no_file_of_the_first(hub, run):
    """Vectors are numbers about the images. Files that ddim did not write stay."""
    old = {"vectors.safetensors": b"rows", "searched.json": b"{}", "samples.png": b"png", "mine.txt": b"mine"}
    ddim.push(run, "ada/flowers")
    hub.repositories["ada/flowers"].add(old)
    assert set(old) <= set(newest(hub))
    ddim.push(run, "ada/flowers")
    assert set(newest(hub)) - {".gitattributes"} == FILES | {"mine.txt"}


@pytest.mark.parametrize(
    "source, shown",
    [("blossoms:200", "blossoms:200"), ("pets:C:\\copy", "pets"), ("/home/ada/a.zip", "a.zip")],
)
def test_images_vectors_and_guides_are_named_without_their_folders(source, shown):
    loss = Consistency(guidance=2.0, guide="C:\\Users\\ada\\runs\\small-1\\best@raw", teacher="/runs/1")
    chosen = replace(recipe(data__source=source), objective=loss)
    hidden = hide_folders(replace(chosen, data=replace(chosen.data, vectors="C:\\Users\\ada\\ages.csv")))
    assert (hidden.data.source, hidden.data.vectors) == (shown, "ages.csv")
    assert (hidden.objective.guide, hidden.objective.teacher) == ("small-1/best@raw", None)


def test_the_card_says_how_to_use_the_run_and_keeps_the_licence_of_its_owner(hub, run):
    ddim.push(run, "ada/flowers")
    _, head, text = newest(hub)["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "ddim"
    assert "ddim sample hub:ada/flowers" in text
    chosen = f"---\nlicense: cc0-1.0\nmodel-index: old\n---\n{text}".encode()
    hub.repositories["ada/flowers"].add({"README.md": chosen})
    ddim.push(run, "ada/flowers", weights="raw")
    _, head, text = newest(hub)["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc0-1.0"
    assert "model-index" not in head
    assert "holds its raw weights" in text
    assert ddim.load("hub:ada/flowers").checkpoint.weights == "raw"


def test_guidance_by_another_checkpoint_is_left_out(hub, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "flowers")
    for steps, found in ((2, Guidance(2.0)), (3, Guidance(1.5, guide="@guide"))):
        save_guidance(folder, ddim.DDIM(), steps, "ema", found, labelled=False)
    ddim.push(folder, "ada/flowers")
    assert [entry["steps"] for entry in json.loads(newest(hub)["searched.json"])["guidance"]] == [2]


@pytest.mark.parametrize(
    "token, to, said",
    [
        (None, "ada/flowers", "Token is required"),
        (TOKEN, "eve/flowers", "You don't have the rights"),
        (TOKEN, "ada/bert", "holds another model"),
    ],
)
def test_each_refusal_is_one_sentence_and_nothing_is_uploaded(hub, run, monkeypatch, token, to, said):
    hub.repository("ada/bert", {"model.safetensors": b"of another library"})
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=said) as error:
        ddim.push(run, to)
    assert "\n" not in str(error.value)
    assert not any("/commit/" in path or method == "PUT" for method, path in hub.requests)


@pytest.mark.parametrize("use", [ddim.evaluate, ddim.distill, lambda name: ddim.train(source=name)])
def test_no_images_are_opened_by_a_name_that_a_stranger_chose(hub, use, here):
    fields = {"schedule": "cosine", "conditioning": "log_snr", "grid": "uniform", "data__size": "32"}
    chosen = recipe(data__source="hub:mallory/pictures", optim__batch=4, **fields)
    publish(hub, "ada/flowers", run_of(chosen, here / "flowers", images=9))
    with pytest.raises(UserError, match="was published without its training images"):
        use("hub:ada/flowers")
    assert not [request for request in hub.requests if "mallory" in str(request)]


def test_a_fault_of_the_card_is_not_told_as_one_of_the_hub(run, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("ddim.exchange.hub.write_card", fail)
    with pytest.raises(ZeroDivisionError):
        ddim.push(run, "ada/flowers", dry_run=True)
