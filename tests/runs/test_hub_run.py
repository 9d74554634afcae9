"""Runs on a Hub: the bits of the local run, copies without a connection, and hostile repositories."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import ddim
from ddim.errors import UserError
from ddim.files import write_sealed
from ddim.runs import checkpoint
from ddim.runs.averages import StoredAverage, hash_weights, store_average
from ddim.runs.checkpoint import MANIFEST
from ddim.runs.names import FILES, locate_run, pin_place
from ddim.sampling.searched import FILE, SearchedGrid, read_searched, save_grid
from hub_server import TOKEN, hub_in_use, publish
from untrained import recipe, run_of

NAME = "hub:ada/flowers"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose raw weights differ from its EMA weights, and that a search has sampled."""
    folder = tmp_path_factory.mktemp("run") / "flowers"
    run_of(recipe(), folder, others={"ema/default": 1.25})
    write_sealed(folder / FILE, {"grids": [], "guidance": []})
    return folder


@pytest.fixture
def hub(tmp_path):
    with hub_in_use(tmp_path / "home") as hub:
        yield hub


def sampled(run, **options):
    return ddim.sample(run, n=2, steps=2, **options)


def change_json(name, change):
    """A change of one JSON document, for `publish`."""

    def changed(files):
        document = json.loads(files[name])
        change(document)
        files[name] = json.dumps(document).encode()

    return changed


def test_samples_from_the_hub_are_those_of_the_local_run(hub, run):
    publish(hub, "ada/flowers", run)
    assert torch.equal(sampled(NAME), sampled(run))
    assert torch.equal(sampled(Path(NAME)), sampled(run))
    assert not torch.equal(sampled(run), sampled(ddim.load(run, "raw")))


@pytest.mark.parametrize("weights", ["raw", "picked"])
def test_a_published_run_names_the_weights_that_it_has(hub, run, tmp_path, weights):
    folder = shutil.copytree(run, tmp_path / "flowers")
    place = folder / "checkpoints" / "step-000000003"
    average = {name: 2 * value for name, value in checkpoint.read_tensors(place, "ema/default").items()}
    store_average(folder, "picked", average, StoredAverage(None, None, 0.0, 3, hash_weights(place)))
    publish(hub, "ada/flowers", folder, weights)
    for given in ("ema", weights):
        loaded = ddim.load(NAME, given)
        assert loaded.checkpoint.weights == weights
        assert torch.equal(sampled(loaded), sampled(ddim.load(folder, weights)))
    with pytest.raises(UserError, match=f"run flowers was published with its weights {weights} alone"):
        ddim.load(NAME, "0.99")


def test_a_searched_grid_and_guidance_belong_to_the_run(hub, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "flowers")
    for weights, times in (("ema", (0.8, 0.3)), ("raw", (0.9, 0.1))):
        save_grid(folder, ddim.DDIM(), 2, weights, SearchedGrid(times, 0.1, {}))
    publish(hub, "ada/flowers", folder)
    assert [entry["weights"] for entry in read_searched(locate_run(NAME))["grids"]] == ["ema"]
    local, pipeline = ddim.load(folder), ddim.load(NAME)
    assert pipeline.searched_grid(pipeline.recipe.sampler, 2).times == (0.8, 0.3)
    assert torch.equal(sampled(pipeline), sampled(local))
    assert not torch.equal(sampled(local), sampled(run))


def test_it_is_downloaded_once_and_then_needs_no_connection(hub, run, monkeypatch):
    publish(hub, "ada/flowers", run)
    first = sampled(NAME)
    assert sum(method == "GET" and path.endswith(".safetensors") for method, path in hub.requests) == 1
    hub.requests.clear()
    sampled(NAME)
    assert "GET" not in {method for method, path in hub.requests if "resolve" in path}
    hub.status = 500
    assert torch.equal(sampled(NAME), first)
    with pytest.raises(UserError, match="500"):
        sampled("hub:ada/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(sampled(NAME), first)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        sampled("hub:ada/other")


def test_a_commit_stays_while_the_branch_moves(hub, run, tmp_path):
    old = publish(hub, "ada/flowers", run).find("main")
    first = sampled(NAME)
    assert pin_place(NAME) == f"{NAME}@{old}"
    other = run_of(recipe(), tmp_path / "other", others={"ema/default": 0.5})
    files = publish(hub, "ada/new", other).commits
    hub.repositories["ada/flowers"].add(list(files.values())[-1])
    assert torch.equal(sampled(NAME), sampled(other))
    hub.requests.clear()
    assert torch.equal(sampled(f"{NAME}@{old}"), first)
    assert not hub.requests


@pytest.mark.parametrize(
    "token, name, word",
    [
        (None, "ada/none", "Repository Not Found"),
        (TOKEN, "ada/none", "Repository Not Found"),
        (None, "ada/flowers", "hf auth login"),
        ("hf_wrong", "ada/flowers", "401"),
        (TOKEN, "ada/flowers@v9", "Revision Not Found"),
        (None, "bob/bert", "it has no MANIFEST.json"),
        (None, "ada/a--b", "--"),
    ],
)
def test_each_refusal_of_the_hub_is_one_sentence(hub, run, monkeypatch, token, name, word):
    publish(hub, "ada/flowers", run, private=True)
    hub.repository("bob/bert", {"model.safetensors": b"huge", "pytorch_model.bin": b"pickle"})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=word) as error:
        ddim.load(f"hub:{name}")
    assert "\n" not in str(error.value)
    assert not any(path.endswith(("model.safetensors", "pytorch_model.bin")) for _, path in hub.requests)


def test_a_private_run_is_read_with_a_token(hub, run, monkeypatch):
    publish(hub, "ada/flowers", run, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(sampled(NAME), sampled(run))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"ddim\[hub\]"):
        ddim.load(NAME)


def add(name, content=b"x"):
    return lambda files: files.update({name: content})


def drop(name):
    return lambda files: files.pop(name)


HOSTILE = {
    "another file": add("payload.py"),
    "a pickle": add("model.pkl"),
    "no weights": drop("model.safetensors"),
    "weights that are a pickle": add("model.safetensors", b"\x80\x04."),
    "nested JSON": add("recipe.json", b"[" * 100_000),
    "another recipe": add("recipe.json", b"[1]"),
    "a state of another kind": add("state.json", b"{}"),
    "a million blocks": change_json("recipe.json", lambda tree: tree["net"].update(blocks=1_000_000)),
    "a wide network": change_json("recipe.json", lambda tree: tree["net"].update(width=1_000_000 // 8 * 8)),
    "many channels": change_json("state.json", lambda tree: tree.update(channels=10**9)),
    "a module": change_json("recipe.json", lambda tree: tree["net"].update(kind="os:system")),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_repository_is_refused_in_one_sentence(hub, run, tmp_path, change):
    publish(hub, "ada/flowers", run, change=change)
    with pytest.raises(UserError) as error:
        ddim.load(NAME)
    assert "\n" not in str(error.value)
    known = {*FILES, ".gitattributes"}
    placed = {path.name for path in (tmp_path / "home").rglob("*") if "snapshots" in path.parts}
    assert {name for name in placed if "." in name} <= known
    assert not list(tmp_path.rglob("*evil*"))


def test_changed_bytes_are_refused(hub, run):
    repository = publish(hub, "ada/flowers", run)
    files = dict(list(repository.commits.values())[-1])
    repository.add({MANIFEST: files[MANIFEST].replace(b'"step": 3', b'"step": 4')})
    with pytest.raises(UserError, match="has changed"):
        ddim.load(NAME)
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    repository.add({**files, "model.safetensors": bytes(content)})
    with pytest.raises(UserError, match="model.safetensors: its bytes have changed"):
        ddim.load(NAME)
