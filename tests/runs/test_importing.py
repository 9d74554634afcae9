"""Checkpoints of other programs become runs that give the outputs of the other program's network."""

import json
import warnings
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file

from canary import watched
from cases import mark_slow
from ddim.diffusion.conditioning import Timestep
from ddim.diffusion.noise import Noise
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.nn.linear_attention_unet import LinearAttentionUNetSpec
from ddim.runs.beta_tables import make_table
from ddim.runs.generate import generate
from ddim.runs.importing import import_model
from ddim.runs.lucidrains_checkpoint import make_recipe
from ddim.runs.pipeline import load
from ddim.runs.sampling_setup import SamplingSetup
from hostile_checkpoints import HOSTILE, NETS, changes_network, own, theirs
from oracles import normal
from small_nets import LINEARS
from unet_model import UNetModel

T = torch.tensor([0, 400, 999])


def x(channels=3):
    return normal(3, channels, 16, 16, dtype=torch.float32)


# improved-diffusion and guided-diffusion


@pytest.mark.parametrize(
    "options, fields",
    [
        ({}, {}),
        (
            {"updown": True, "shift": False, "attend": (0, 1), "blocks": 2, "mults": (1, 2, 2)},
            {"net.heads": 4},
        ),
        ({"attend": (), "mults": (1, 1), "channels": 1, "outputs": 2, "heads": 2}, {"net.head": 16}),
        ({"classes": 5, "mults": (2,), "attend": (0,)}, {}),
    ],
)  # fmt: skip
def test_a_state_dict_of_improved_diffusion_gives_the_same_outputs(options, fields, tmp_path):
    net = own(UNetModel, **options)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    imported = import_model(tmp_path / "model.safetensors", tmp_path / "run", size=16, fields=fields)
    run = load(imported.run)
    channels, label = options.get("channels", 3), torch.tensor([0, 1, 4]) if "classes" in options else None
    with torch.no_grad():
        wanted = net(x(channels), T, label)[:, :channels]
        found = run.model.net(x(channels), T.float(), label)
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=1e-5, atol=2e-5)
    assert ("4 were assumed" in str(imported)) == (not fields)
    assert ("variance was left out" in str(imported)) == ("outputs" in options)
    assert json.loads((imported.run / "import.json").read_text())["file"].endswith("model.safetensors")


def test_a_pickled_state_dict_becomes_a_run_by_the_command(tmp_path, capsys, monkeypatch):
    from ddim.cli import main

    net = own(UNetModel)
    torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, tmp_path / "m.pt")
    monkeypatch.chdir(tmp_path)
    with watched():
        assert main(["import", "m.pt", "--size", "16", "--schedule.entries", "4000", "--out", "run"]) == 0
    said = capsys.readouterr()
    assert said.out == "run: run\n"
    assert "4 were assumed" in said.err
    recipe = load("run").recipe
    assert (recipe.conditioning.entries, recipe.conditioning.scale) == (4000, 0.25)
    assert (recipe.grid.entries, recipe.schedule.first, recipe.schedule.last) == (4000, 2.5e-5, 0.005)
    assert generate(SamplingSetup(load("run"), 2), [0])[0].shape == (1, 3, 16, 16)


# denoising-diffusion-pytorch


def checkpoint(spec, table="signal_sigmoid", predicts="velocity"):
    """A checkpoint as its Trainer writes it, and the network with the averaged weights."""
    net, weights = theirs(spec)
    powers = make_table(table, 100).powers
    betas = 1 - powers / torch.cat([torch.ones(1), powers[:-1]])
    snr = powers / (1 - powers)
    weight = {"velocity": powers, "noise": torch.ones(100), "image": snr.clamp(max=5.0)}[predicts]
    whole = {f"model.{name}": value for name, value in weights.items()}
    whole |= {"betas": betas.float(), "loss_weight": weight.float()}
    averaged = {f"ema_model.{name}": value for name, value in whole.items()}
    raw = {name: value * 0.5 for name, value in whole.items()}
    return net, {"step": 7, "model": raw, "ema": {"initted": torch.tensor(True), **averaged}, "opt": {}}


@pytest.mark.parametrize("name", mark_slow(LINEARS, lambda name: "stem" in name))
def test_a_checkpoint_of_lucidrains_gives_the_outputs_of_its_averaged_weights(name, tmp_path):
    net, content = checkpoint(LINEARS[name])
    torch.save(content, tmp_path / "model-1.pt")
    imported = import_model(tmp_path / "model-1.pt", tmp_path / "run", size=16)
    run = load(imported.run)
    with torch.no_grad():
        assert torch.allclose(run.model.net(x(), T.float()), net(x(), T.float()), rtol=0, atol=1e-5)
    assert run.recipe.net == LINEARS[name]
    assert run.recipe.schedule == make_table("signal_sigmoid", 100)
    assert "averaged ones" in str(imported)
    assert generate(SamplingSetup(run, 2), [0])[0].isfinite().all()


def test_another_table_of_a_bare_network_is_one_of_its_package(tmp_path):
    """Ho et al. 2020 for 1000 entries; their package multiplies betas by 1000 / T for T entries."""
    _, weights = theirs(LinearAttentionUNetSpec(8, (1,), (True,), 1, 4))
    torch.save(weights, tmp_path / "m.pt")
    for entries, scale in ((1000, 1), (500, 2)):
        fields = {"schedule": "linear", "schedule.entries": str(entries)}
        imported = import_model(tmp_path / "m.pt", tmp_path / str(entries), size=16, fields=fields)
        recipe = load(imported.run).recipe
        assert recipe.schedule == make_table("linear", entries, 1e-4 * scale, 0.02 * scale)
        assert recipe.conditioning == Timestep(entries)
        assert (recipe.grid.entries, recipe.objective.times.entries) == (entries, entries)
        assert "were assumed, the velocity; --predicts changes this" in str(imported)
    fields = {"schedule": "beta_table", "predicts": "noise"}
    imported = import_model(tmp_path / "m.pt", tmp_path / "table", size=16, fields=fields)
    assert "were assumed, 1000 entries; --schedule.entries changes this" in str(imported)


def test_entries_are_called_assumed_only_if_the_schedule_is_a_table(tmp_path):
    _, weights = theirs(LinearAttentionUNetSpec(8, (1,), (True,), 1, 4))
    torch.save(weights, tmp_path / "m.pt")
    fields = {"schedule": "cosine"}
    imported = import_model(tmp_path / "m.pt", tmp_path / "cosine", size=16, fields=fields)
    assert isinstance(load(imported.run).recipe.schedule, Cosine)
    assert "were assumed, the velocity; --predicts changes this" in str(imported)
    with pytest.raises(UserError, match=r"schedule\.entries"):
        import_model(tmp_path / "m.pt", size=16, fields={**fields, "schedule.entries": "1000"})


@pytest.mark.parametrize("table", ["linear", "cosine", "signal_sigmoid"])
@pytest.mark.parametrize("predicts", ["noise", "image", "velocity"])
def test_schedule_and_output_follow_from_the_tables_of_a_checkpoint(table, predicts):
    _, content = checkpoint(LinearAttentionUNetSpec(8, (1,), (True,), 1, 4), table, predicts)
    tables = {name: content["ema"][f"ema_model.{name}"] for name in ("betas", "loss_weight")}
    recipe = make_recipe(LinearAttentionUNetSpec(), tables)
    assert recipe.schedule == make_table(table, 100)
    assert predicts in type(recipe.predicts).__name__.lower()


@pytest.fixture(scope="module")
def lucidrains():
    """The package, if it is installed: pip install denoising-diffusion-pytorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("denoising_diffusion_pytorch", exc_type=ImportError)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 16, "dim_mults": (1, 2)},
        {"dim": 8, "dim_mults": (2, 1), "init_dim": 12, "attn_heads": 2, "full_attn": (True, False)},
    ],
)
def test_their_own_package_gives_the_same_outputs_and_samples(lucidrains, options, tmp_path):
    net = own(lucidrains.Unet, **options)
    whole = lucidrains.GaussianDiffusion(net, image_size=16, timesteps=20, sampling_timesteps=10)
    torch.save({"model": whole.state_dict()}, tmp_path / "model.pt")
    run = load(import_model(tmp_path / "model.pt", tmp_path / "run", size=16).run)
    with torch.no_grad():
        wanted = net(x(), T)
        assert wanted.std() > 0.1
        assert torch.allclose(run.model.net(x(), T.float()), wanted, rtol=0, atol=1e-5)
        start = Noise([3, 4]).like(torch.zeros(2, 3, 16, 16))
        with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
            patch.setattr(torch, "randn", lambda *a, **o: start)
            theirs_ = whole.ddim_sample((2, 3, 16, 16))
    assert torch.allclose(generate(SamplingSetup(run, 10), [3, 4])[0], theirs_, rtol=0, atol=1e-3)


# What cannot be imported


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoints_are_refused_in_one_sentence(kind, name, tmp_path):
    if not changes_network(kind, name):
        pytest.skip("this changes nothing of this network")
    state = HOSTILE[name](NETS[kind]())
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "m.safetensors")
    with watched(), pytest.raises(UserError) as error:
        import_model(tmp_path / "m.safetensors", tmp_path / "run", size=16)
    text = str(error.value)
    assert text.isprintable()
    assert len(text) < 500
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "does not contain the size of its images: give --size"),
        ({"size": 10**6}, "must lie between"),
        ({"size": 16, "fields": {"data.size": "16"}}, "the size is given twice, with --size"),
        ({"size": 16, "fields": {"net": "dit"}}, "net must be ddpm_unet"),
        ({"size": 16, "fields": {"net.heads": "7"}}, "net.heads must divide"),
        ({"size": 16, "fields": {"schedule.entries": "many"}}, "entries"),
        ({"size": 16, "fields": {"net.width": "64"}}, "does not fit|must"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(options, said, tmp_path):
    save_file(NETS["openai"](), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=said) as error:
        import_model(tmp_path / "m.safetensors", tmp_path / "run", **options)
    assert "\n" not in str(error.value)
    with suppress(FileNotFoundError):
        assert not any((tmp_path / "run").iterdir())


def test_a_pipeline_takes_no_size(tmp_path):
    with pytest.raises(UserError, match="a diffusers pipeline contains its image size"):
        import_model(tmp_path, size=16)
