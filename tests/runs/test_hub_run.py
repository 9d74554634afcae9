"""Runs on a Hub: the bits of the local run, its weights and commits, and hostile repositories."""

import shutil

import pytest
import torch

import ddim
from ddim.errors import UserError
from ddim.runs import checkpoint
from ddim.runs.averages import StoredAverage, hash_weights, store_average
from ddim.runs.checkpoint import MANIFEST
from ddim.runs.names import FILES, pin_place
from hub_server import TOKEN, publish
from untrained import recipe, run_of

NAME = "hub:ada/flowers"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose raw weights differ from its EMA weights."""
    return run_of(recipe(), tmp_path_factory.mktemp("run") / "flowers", others={"ema/default": 1.25})


def sampled(run, **options):
    return ddim.sample(run, n=2, steps=2, **options)


def test_a_published_run_names_the_weights_that_it_has(hub, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "flowers")
    place = folder / "checkpoints" / "step-000000003"
    average = {name: 2 * value for name, value in checkpoint.read_tensors(place, "ema/default").items()}
    store_average(folder, "picked", average, StoredAverage(None, None, 0.0, 3, hash_weights(place)))
    for weights in ("raw", "picked"):
        publish(hub, f"ada/{weights}", folder, weights)
        for given in ("ema", weights):
            loaded = ddim.load(f"hub:ada/{weights}", given)
            assert loaded.checkpoint.weights == weights
            assert torch.equal(sampled(loaded), sampled(ddim.load(folder, weights)))
        with pytest.raises(UserError, match=f"was published with its weights {weights} alone"):
            ddim.load(f"hub:ada/{weights}", "0.99")


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


def test_each_refusal_of_the_hub_is_one_sentence_and_a_token_opens_a_private_run(hub, run, monkeypatch):
    publish(hub, "ada/flowers", run, private=True)
    hub.repository("bob/bert", {"model.safetensors": b"huge", "pytorch_model.bin": b"pickle"})
    for name, word in (
        ("ada/none", "Repository Not Found"),
        ("ada/flowers", "hf auth login"),
        ("bob/bert", "it has no MANIFEST.json"),
    ):
        with pytest.raises(UserError, match=word) as error:
            ddim.load(f"hub:{name}")
        assert "\n" not in str(error.value)
    assert not any(path.endswith(("model.safetensors", "pytorch_model.bin")) for _, path in hub.requests)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(sampled(NAME), sampled(run))


def test_hostile_and_changed_repositories_are_refused_in_one_sentence(hub, run, tmp_path):
    repository = publish(hub, "ada/flowers", run)
    files = dict(list(repository.commits.values())[-1])
    step = {MANIFEST: files[MANIFEST].replace(b'"step": 3', b'"step": 4')}
    for change in (step, {"recipe.json": b"[" * 100_000}, {"model.safetensors": b"\x80\x04."}):
        repository.add({**files, **change})
        with pytest.raises(UserError, match="changed") as error:
            ddim.load(NAME)
        assert "\n" not in str(error.value)
    publish(hub, "ada/flowers", run, change=lambda files: files.update({"payload.py": b"x"}))
    with pytest.raises(UserError, match=r"payload\.py is missing"):
        ddim.load(NAME)
    placed = {path.name for path in (tmp_path / "home").rglob("*") if "snapshots" in path.parts}
    assert {name for name in placed if "." in name} <= {*FILES, ".gitattributes"}
