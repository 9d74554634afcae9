"""From a run to samples: each depends on its seed alone."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ddim
import tiny
from cases import mark_slow
from ddim.diffusion.grids import Karras, Listed
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM, EDM, AdamsBashforth, DPMSolver, Multistep, UniPC
from ddim.errors import UserError
from ddim.runs import checkpoint
from ddim.sampling.generate import generate, sample, sample_uint8
from ddim.sampling.pipeline import load, open_pipeline
from ddim.sampling.sampling_setup import SamplingSetup

SIZE = 4
"""Images in a micro-batch of these tests, so that few images fill several."""


def save(run, folder, **runtime):
    """Write the checkpoint of a training, with other values in its runtime."""
    documents = run.documents()
    documents["state"]["runtime"] |= runtime
    checkpoint.save(folder / "checkpoints", run.step, run.tensors(), documents)
    return folder


@pytest.fixture(scope="module", params=["layer norm", "batch norm"])
def trained(request, tmp_path_factory):
    """A model with weights that are not those at the start, whose averages differ from them."""
    run = tiny.training(tiny.recipe(request.param, optim__warmup=0, optim__decay="constant"), updates=12)
    return load(save(run, tmp_path_factory.mktemp("run"), micro_batch=SIZE))


def made(pipeline, seeds, steps=3, watch=None):
    return generate(SamplingSetup(pipeline, steps), seeds, watch=watch)[0]


# --- a sample depends on its seed alone ---------------------------------------------------------------------

OTHERS = [DDIM(0.5), DDIM(1.0), EDM(), EDM(s_churn=4.0), Multistep(), AdamsBashforth(3), DPMSolver(2)]
QUICK = [DDIM(), DDPM(), DPMSolver(3, eta=1.0), UniPC(3)]
PAIRS = itertools.product(["layer norm", "batch norm"], [*QUICK, *OTHERS])


@pytest.mark.parametrize(
    "trained, sampler",
    mark_slow(PAIRS, lambda pair: pair[1] in QUICK),
    indirect=["trained"],
    ids=str,
)
def test_an_image_depends_on_its_own_seed_only(trained, sampler):
    """Not on how many there are, which come before it, nor where in a micro-batch it stands."""
    pipeline = trained.with_recipe(sampler=sampler)
    # Five levels, so that a method of order 3 reaches it.
    twelve = made(pipeline, range(12), 5)
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    counts = [list(range(n)) for n in (1, 3, 4, 5, 11)]
    for seeds in [*counts, [7], [3, 11], [1, 2, 3, 7], list(range(11, -1, -1)), shuffled]:
        assert torch.equal(made(pipeline, seeds, 5), twelve[seeds])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(twelve, 2))


def test_images_lie_between_0_and_1_and_each_step_evaluates_a_micro_batch_of_one_size(trained):
    asked = []
    hook = trained.model.net.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    images, nfe = generate(SamplingSetup(trained, 7), range(6))
    hook.remove()
    assert (nfe, asked) == (7, [SIZE] * 7 * 2)
    assert (images.shape, images.dtype) == ((6, 3, 32, 32), torch.float32)
    assert 0 <= images.min() < images.max() <= 1


def test_samples_that_are_not_finite_are_refused():
    def net(x, noise_level):
        wrong = (x.flatten(1).mean(1) == x.flatten(1).mean(1).max()).reshape(-1, 1, 1, 1)
        return torch.where(wrong, torch.nan, 0 * x)

    model = ddim.Model(net, "cosine", shape=(3, 8, 8))
    with pytest.raises(UserError, match="got NaN in 1 of 3"):
        sample(model, 3, 1)
    # Metrics would take NaN for black.
    setup = SamplingSetup(open_pipeline(model), 1)
    with pytest.raises(UserError, match="got NaN in 1 of 3"):
        list(sample_uint8(setup, range(3)))
    ((pixels, _),) = sample_uint8(setup, range(3), finite=False)
    assert pixels.flatten(1).amax(1).tolist().count(0) == 1


# --- the choices of a user ----------------------------------------------------------------------------------

NARROW = {"sampled_on": "cosine", "sampled_on__min_signal": "0.1", "sampled_on__max_signal": "0.9"}


@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.slow), {"clip": "yes", **NARROW}],
    ids=["plain", "clipped and narrower"],
)
def test_the_steps_on_the_page_about_sampling_give_the_images_of_sample(tmp_path, changes):
    """`sample` gives the bits of its steps, whatever the recipe samples with."""
    chosen = tiny.recipe(sampler="dpm_solver", grid="uniform_log_snr", grid__end="1", steps=20, **changes)
    save(tiny.training(chosen, updates=5), tmp_path, precision="bf16", micro_batch=16)
    page = Path(__file__).parents[2] / "docs" / "howto" / "sampling.md"
    names: dict = {}
    for block in re.findall("```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(block.replace("runs/photos-fast-1", str(tmp_path)), names)
    assert torch.equal(names["images"], names["by_hand"])
    assert names["few"].shape == (2, 3, 32, 32)
    assert not torch.equal(names["images"], sample(tmp_path, 16, 20, sampler=DDIM()))


def test_a_pipeline_refuses_another_recipe_of_training(trained):
    own = trained.recipe
    assert trained.with_recipe(schedule=own.schedule, predicts=own.predicts, net=own.net) == trained
    for changed in ({"predicts": "image"}, {"schedule": ddim.schedules.LinearPath()}, {"seed": own.seed + 1}):
        with pytest.raises(UserError, match="cannot be changed after training"):
            trained.with_recipe(**changed)


def test_a_sampler_and_a_grid_can_be_named(trained):
    named = sample(trained, 2, 3, sampler="edm", grid="karras")
    assert torch.equal(named, sample(trained, 2, 3, sampler=EDM(), grid=Karras()))
    # As on the command line, the name of the present sampler keeps its fields.
    noisy = trained.with_recipe(sampler=DDIM(0.5))
    assert torch.equal(sample(noisy, 2, 3, sampler="ddim"), sample(trained, 2, 3, sampler=DDIM(0.5)))
    times, walked = [], trained.with_recipe(grid=Listed((0.9, 0.2)))
    made(walked, [0], 2, watch=lambda _, state: times.append(state.t))
    assert times == [0.9, 0.2, 0.0]
    assert torch.equal(sample(walked, 1), sample(trained, 1, grid=[0.9, 0.2]))


def test_with_consistent_x0_and_eps_add_up_to_x_t(trained):
    """An inversion takes the noise for what is left of x_t, which clip x0 keeps as it was predicted."""
    # Of pixels with so little room the network goes far out of bounds.
    narrow = replace(trained, pixels=Pixels.fixed(0.5, 2.0)).with_recipe(clip="x0")
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor(0.9)
    at = narrow.model.schedule(t).over(x)
    for whole in (True, False):
        p = narrow.denoiser(narrow.model, consistent=whole)(x, t)
        assert torch.allclose(at.alpha * p.x0 + at.sigma * p.eps, x, atol=1e-5) == whole


# --- loading ------------------------------------------------------------------------------------------------


def test_every_average_of_a_run_can_be_loaded_by_its_name(tmp_path):
    recipe = tiny.recipe("batch norm", ema="exponential", ema__decay="0.9", ema__more="0.1,0")
    run = tiny.training(recipe, updates=4)
    save(run, tmp_path)
    for weights, profile in (("ema", "default"), ("0.1", "0.1"), ("0", "0")):
        trained = load(tmp_path, weights)
        state = trained.model.state_dict()
        assert trained.checkpoint.weights == weights
        assert tiny.different({name: state[name] for name in run.average}, run.averages[profile]) == []
    raw = load(tmp_path, "raw").model.state_dict()
    # The decay 0 forgets all but the newest.
    assert tiny.different({name: raw[name] for name in run.average}, run.averages["0"]) == []
    for wrong in ("0.10", "default", "0.9", "../model"):
        with pytest.raises(UserError, match="weights must be one of ema, raw, 0.1"):
            load(tmp_path, wrong)


def test_the_model_of_a_run_alone_gives_the_images_of_the_run(trained):
    recipe = trained.recipe
    alone = sample(trained.model, 2, 3, sampler=recipe.sampler, grid=recipe.grid)
    assert torch.allclose(alone, sample(trained, 2, 3), atol=1e-4)


def test_a_run_is_sampled_in_the_precision_that_is_asked_for(trained):
    coarse = load(trained.checkpoint.path, precision="bf16")
    assert (trained.runtime.precision, coarse.runtime.precision) == ("fp32", "bf16")
    images, exact = sample(coarse, 2, 3), sample(trained, 2, 3)
    assert not torch.equal(images, exact)
    assert torch.allclose(images, exact, atol=0.1)
    assert torch.equal(sample(load(coarse.checkpoint.path, precision="fp32"), 2, 3), exact)
    with pytest.raises(UserError, match="precision must be"):
        load(trained.checkpoint.path, precision="fp16")


def test_a_run_and_its_checkpoint_are_the_same_to_load(trained):
    path = trained.checkpoint.path
    again = load(path)
    assert torch.equal(made(trained, [3]), made(again, [3]))
    assert again.checkpoint.sha256 == trained.checkpoint.sha256
    assert load(path).recipe == load(path.parents[1]).recipe == trained.recipe
    assert not any(module.training for module in trained.model.modules())
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())


def test_a_run_of_a_missing_accelerator_uses_the_runtime_of_this_machine(trained, tmp_path):
    """Its micro-batch, threads and precision are those of a machine that is not here."""
    save(tiny.training(tiny.recipe()), tmp_path, device="xpu:3", micro_batch=64, threads=96)
    here = load(tmp_path, device="cpu").runtime
    assert (here.device, here.micro_batch) == ("cpu", 16)
    assert here.threads < 96
    assert load(trained.checkpoint.path).runtime.micro_batch == SIZE


def test_another_default_device_of_the_caller_changes_nothing(trained):
    expected = sample(trained, n=2, sampler=DPMSolver(2, eta=0.5))
    with torch.device("meta"):
        assert torch.equal(sample(trained, n=2, sampler=DPMSolver(2, eta=0.5)), expected)
