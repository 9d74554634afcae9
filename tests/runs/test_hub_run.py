"""Runs on a Hub: the bits of the local run, copies without a connection, and hostile repositories."""

import json
import os
import shutil
import socket
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import ddim
from ddim.data.remote import parse_repository
from ddim.errors import UserError
from ddim.files.documents import write_json
from ddim.runs import checkpoint
from ddim.runs.averages import StoredAverage, hash_weights, store_average
from ddim.runs.hub_run import locate_run, pin_run
from ddim.runs.manifest import MANIFEST
from hub_server import TOKEN, hub_in_use, publish
from untrained import recipe, run_of

NAME = "hub:ada/flowers"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose raw weights differ from its EMA weights, and that a search has sampled."""
    folder = tmp_path_factory.mktemp("run") / "flowers"
    run_of(recipe(), folder, others={"ema/default": 1.25})
    write_json(folder / "grids.json", {})
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
    key = "steps=2 weights=ema kind=ddim eta=0.0"
    write_json(
        folder / "grids.json", {key: {"times": [0.8, 0.3]}, "steps=2 weights=raw": {"times": [0.9, 0.1]}}
    )
    publish(hub, "ada/flowers", folder)
    grids = json.loads((locate_run(NAME) / "grids.json").read_text())
    assert list(grids) == [key]
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
    assert {method for method, _ in hub.requests} == {"HEAD"}
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.rmtree(os.environ["DDIM_CACHE"])
    with warnings.catch_warnings(action="error"):
        assert torch.equal(sampled(NAME), first)
    assert not hub.requests


def test_a_hub_that_does_not_answer_is_replaced_by_the_copy_with_a_warning(hub, run):
    commit = publish(hub, "ada/flowers", run).find("main")
    first = sampled(NAME)
    hub.status = 503
    with pytest.warns(UserWarning, match=f"503; the local copy of commit {commit[:12]} is used"):
        assert torch.equal(sampled(NAME), first)
    with pytest.raises(UserError, match="the Hub answered with an error for ada/other: status 503"):
        sampled("hub:ada/other")


def test_a_commit_stays_while_the_branch_moves(hub, run, tmp_path):
    old = publish(hub, "ada/flowers", run).find("main")
    first = sampled(NAME)
    assert pin_run(Path(NAME)) == f"{NAME}@{old}"
    other = run_of(recipe(), tmp_path / "other", others={"ema/default": 0.5})
    files = publish(hub, "ada/new", other).commits
    hub.repositories["ada/flowers"].add(list(files.values())[-1])
    assert torch.equal(sampled(NAME), sampled(other))
    hub.requests.clear()
    assert torch.equal(sampled(f"{NAME}@{old}"), first)
    assert not hub.requests


def test_a_damaged_copy_is_downloaded_again(hub, run, monkeypatch):
    publish(hub, "ada/flowers", run)
    first = sampled(NAME)
    file = locate_run(NAME) / "model.safetensors"
    file.write_bytes(b"damage")
    assert torch.equal(sampled(NAME), first)
    file.write_bytes(b"damage")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hub:ada/flowers is damaged: model.safetensors"):
        sampled(NAME)


@pytest.mark.parametrize(
    "token, private, gated, name, said",
    [
        (
            None,
            False,
            False,
            "ada/none",
            "the Hub has no public model ada/none; if it is private, log in with",
        ),
        (TOKEN, False, False, "ada/none", "the Hub has no model ada/none that your token can read"),
        (None, True, False, "ada/flowers", "no public model ada/flowers"),
        (
            None,
            False,
            True,
            "ada/flowers",
            "ada/flowers is gated: accept its conditions at https://huggingface.co/",
        ),
        (
            "hf_wrong",
            False,
            False,
            "ada/flowers",
            "the Hub does not know your token: log in with `hf auth login`",
        ),
        (None, False, False, "ada/flowers@v9", "ada/flowers has no branch, tag or commit v9"),
        (
            None,
            False,
            False,
            "bob/bert",
            "bob/bert is not a run of ddim: it has no MANIFEST.json; `ddim push`",
        ),
    ],
)
def test_each_refusal_of_the_hub_is_one_sentence(hub, run, monkeypatch, token, private, gated, name, said):
    publish(hub, "ada/flowers", run, private=private, gated=gated)
    hub.repository("bob/bert", {"pytorch_model.bin": b"pickle"})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as error:
        ddim.load(f"hub:{name}")
    assert str(error.value).startswith(said) or said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_private_run_is_read_with_a_token(hub, run, monkeypatch):
    publish(hub, "ada/flowers", run, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(sampled(NAME), sampled(run))


def test_no_connection_and_no_copy_is_one_sentence(hub, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(hub.address, f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(UserError, match="^the Hub cannot be reached for ada/flowers: .*refused$"):
        ddim.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="^HF_HUB_OFFLINE is set, so .* cannot be looked up on the Hub"):
        ddim.load(NAME)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'^hub:ada/flowers needs huggingface_hub: pip install "ddim\[hub\]"'):
        ddim.load(NAME)


@pytest.mark.parametrize("name", [
    "hub:", "hub:flowers", "hub:ada/flowers/best", "hub:ada/../evil", "hub:../../etc", "hub:/ada/flowers",
    "hub:ada/flowers@", "hub:ada/flowers@../../evil", "hub:ada/flowers@/etc", "hub:ada/a--b", "hub:.ada/x",
    "hub:ada/fl owers", "hub:ada/x@-f", "hub:ada/flowers\n", "hub:https://evil.example/a",
])  # fmt: skip
def test_a_name_of_another_form_is_refused_before_any_request(hub, name):
    with pytest.raises(UserError, match="a repository on the Hub is named hub:OWNER/NAME or"):
        locate_run(name)
    assert not hub.requests


def test_a_name_is_read_in_all_its_forms():
    assert str(parse_repository("ada/flowers")) == NAME
    found = parse_repository(Path("hub:ada/flowers.64@refs/pr/1"))
    assert (found.owner, found.name, found.revision, found.id) == (
        "ada",
        "flowers.64",
        "refs/pr/1",
        "ada/flowers.64",
    )


def hide(files):
    files["../../evil"] = b"x"


def add(name, content=b"x"):
    return lambda files: files.update({name: content})


def drop(name):
    return lambda files: files.pop(name)


HOSTILE = {
    "another file": (add("payload.py"), "is refused: 'payload.py' does not belong to a published run"),
    "a pickle": (add("model.pkl"), "is refused: 'model.pkl' does not belong"),
    "a part in a folder": (
        add("ema/default.safetensors"),
        "is refused: 'ema/default.safetensors' does not belong",
    ),
    "no weights": (
        drop("model.safetensors"),
        "is not a published run: its MANIFEST.json does not list model",
    ),
    "no mark": (drop("published.json"), "is not a published run: its MANIFEST.json does not list published"),
    "weights that are no safetensors": (add("model.safetensors", b"\x80\x04."), "is not a safetensors file"),
    "nested JSON": (add("recipe.json", b"[" * 100_000), "recipe.json is not JSON"),
    "another recipe": (add("recipe.json", b"[1]"), "must be a table of fields"),
    "a state of another kind": (add("state.json", b"{}"), "state.json is not the state of a run"),
    "a mark of another kind": (add("published.json", b"[]"), "published.json does not name the weights"),
    "weights with a path": (add("published.json", b'{"weights": "../x"}'), "does not name the weights"),
    "a million blocks": (
        change_json("recipe.json", lambda tree: tree["net"].update(blocks=1_000_000)),
        "describes a network that is far larger than its weights",
    ),
    "a wide network": (
        change_json("recipe.json", lambda tree: tree["net"].update(width=1_000_000 // 8 * 8)),
        "model.safetensors does not fit its recipe",
    ),
    "a long table": (
        change_json("recipe.json", lambda tree: tree["schedule"].update(entries=10**12)),
        "is refused: whole numbers in its recipe must be from -1,000,000 to 1,000,000, got ",
    ),
    "many steps": (
        change_json("recipe.json", lambda tree: tree.update(steps=10**9)),
        "whole numbers in its",
    ),
    "a folder": (
        change_json("recipe.json", lambda tree: tree["data"].update(source="/home/ada/photos")),
        "is refused: its recipe names a folder of this machine, '/home/ada/photos'",
    ),
    "the current folder": (
        change_json("recipe.json", lambda tree: tree["data"].update(source="..")),
        "is refused: its recipe names a folder of this machine, '..'",
    ),
    "many channels": (change_json("state.json", lambda tree: tree.update(channels=10**9)), "does not fit"),
}


@pytest.mark.parametrize("change, said", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_repository_is_refused_in_one_sentence(hub, run, tmp_path, change, said):
    publish(hub, "ada/flowers", run, change=change)
    with pytest.raises(UserError) as error:
        ddim.load(NAME)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert only_known_files_are_in(tmp_path / "home")
    assert not any(path.endswith((".py", ".pkl")) for _, path in hub.requests)


def only_known_files_are_in(home):
    known = {
        "model.safetensors",
        "state.json",
        "recipe.json",
        "published.json",
        MANIFEST,
        "main",
        "agents.json",
    }
    known |= {"CACHEDIR.TAG"}
    found = [path for path in home.rglob("*") if path.is_file() or path.is_symlink()]
    return all(path.name in known or path.parent.name == "blobs" or path.suffix == ".lock" for path in found)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", "manifest.JSON", "C:\\evil"])
def test_a_manifest_that_leads_outside_is_refused(hub, run, tmp_path, name):
    repository = publish(hub, "ada/flowers", run)
    files = list(repository.commits.values())[-1]
    # The seal is right, so that only the name can be at fault.
    from ddim.runs.manifest import _seal

    document = json.loads(files[MANIFEST])
    del document["sha256"]
    document["files"][name] = {"size": 1, "sha256": "0" * 64}
    repository.add({MANIFEST: _seal(document), name: b"x"})
    with pytest.raises(UserError, match="lists the invalid file name"):
        ddim.load(NAME)
    assert only_known_files_are_in(tmp_path / "home")
    assert not list(tmp_path.rglob("*evil*"))


def test_a_wrong_seal_and_changed_bytes_are_refused(hub, run):
    repository = publish(hub, "ada/flowers", run)
    files = dict(list(repository.commits.values())[-1])
    repository.add({MANIFEST: files[MANIFEST].replace(b'"step": 3', b'"step": 4')})
    with pytest.raises(UserError, match="hub:ada/flowers is damaged: MANIFEST.json has changed"):
        ddim.load(NAME)
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    repository.add({**files, "model.safetensors": bytes(content)})
    with pytest.raises(
        UserError, match="hub:ada/flowers is damaged: model.safetensors: its bytes have changed"
    ):
        ddim.load(NAME)
    assert not list((Path(os.environ["DDIM_CACHE"])).rglob("model.safetensors"))


@pytest.mark.parametrize("file", [MANIFEST, "model.safetensors"])
def test_a_file_that_is_too_large_is_refused_before_it_is_downloaded(hub, run, file):
    publish(hub, "ada/flowers", run)
    hub.sizes[file] = 2**50
    with pytest.raises(
        UserError, match=f"{file} of hub:ada/flowers is refused: it has 1,125,899,906,842,624"
    ):
        ddim.load(NAME)
    assert ("GET", f"/ada/flowers/resolve/main/{file}") not in hub.requests
    assert not any(method == "GET" and path.endswith(file) for method, path in hub.requests)


def test_a_size_in_the_manifest_above_the_limit_is_refused(hub, run):
    from ddim.runs.manifest import _seal

    repository = publish(hub, "ada/flowers", run)
    document = json.loads(list(repository.commits.values())[-1][MANIFEST])
    del document["sha256"]
    document["files"]["state.json"]["size"] = 2**40
    repository.add({MANIFEST: _seal(document)})
    with pytest.raises(UserError, match="state.json must have at most 67,108,864 bytes, got 1099511627776"):
        ddim.load(NAME)
