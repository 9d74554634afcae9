"""From a run to images: every image its own seed's, and nobody else's."""

import itertools
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ddim
import tiny
from cases import mark_slow
from ddim.diffusion.grids import Grid, Karras, Listed
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, DDPM, EDM, DPMSolver, Multistep, UniPC
from ddim.errors import UserError
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.sampling.generate import SamplesNotFinite, generate, sample, sample_states, sample_uint8
from ddim.sampling.pipeline import load, open_pipeline, read_run_recipe
from ddim.sampling.sampling_setup import SamplingSetup, choose_sampling

SIZE = 4
"""Images in a micro-batch of these tests, so that few images fill several."""


@pytest.fixture(scope="module", params=["layer norm", "batch norm"])
def trained(request, tmp_path_factory):
    """A model with weights that are not those at the start, whose averages differ from them."""
    run = tiny.training(tiny.recipe(request.param, optim__warmup=0, optim__decay="constant"), updates=12)
    folder = tmp_path_factory.mktemp("run")
    documents = run.documents()
    documents["state"]["runtime"] |= {"micro_batch": SIZE}
    checkpoint.save(folder / "checkpoints", run.step, run.tensors(), documents)
    return load(folder)


def made(pipeline, seeds, steps=3, watch=None):
    return generate(SamplingSetup(pipeline, steps), seeds, watch=watch)[0]


def test_the_recipe_says_how_many_steps_there_are_by_default(trained):
    pipeline = trained.with_recipe(steps=3)
    assert torch.equal(sample(pipeline, n=2), sample(pipeline, n=2, steps=3))
    assert choose_sampling(pipeline, None, None) == SamplingSetup(pipeline, 3)


def test_a_pipeline_refuses_another_recipe_of_training(trained):
    own = trained.recipe
    assert trained.with_recipe(schedule=own.schedule, predicts=own.predicts, net=own.net) == trained
    said = "^predicts, schedule cannot be changed after training; only .* sampled_on is the noise schedule"
    with pytest.raises(UserError, match=said):
        trained.with_recipe(predicts="image", schedule=ddim.LinearPath(), clip=True)
    with pytest.raises(UserError, match="^seed cannot be changed after training"):
        trained.with_recipe(seed=own.seed + 1)


def test_grids_with_arrays_can_be_changed_again(trained):
    @dataclass(frozen=True)
    class Table:
        levels: np.ndarray

        def __call__(self, steps, schedule):
            return torch.tensor(self.levels[:steps])

    first = trained.with_recipe(grid=Table(np.array([1.0, 0.6])))
    again = first.with_recipe(grid=Table(np.array([0.9, 0.5])))
    assert again.recipe.grid(2, None).tolist() == [0.9, 0.5]


SAMPLERS = [
    DDIM(),
    DDIM(0.5),
    DDIM(1.0),
    DDPM(),
    EDM(),
    EDM(s_churn=4.0),
    Multistep(),
    DPMSolver(2),
    DPMSolver(3, eta=1.0),
    UniPC(3),
]


PAIRS = itertools.product(["layer norm", "batch norm"], SAMPLERS)
QUICK = (DDIM(), DDPM(), UniPC(3))


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
    counts = [list(range(n)) for n in (1, 2, 3, 4, 5, 8, 11)]
    places = [[7], [3, 11], [0, 7], [1, 2, 7], [1, 2, 3, 7], list(range(5, 12))]
    for seeds in [*counts, *places, list(range(11, -1, -1)), shuffled]:
        assert torch.equal(made(pipeline, seeds, 5), twelve[seeds])
    different = [torch.equal(a, b) for a, b in itertools.combinations(twelve, 2)]
    assert not any(different)


def test_images_lie_between_0_and_1_and_have_the_models_shape(trained):
    images, _ = generate(SamplingSetup(trained, 2), range(3))
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_nfe_equals_the_number_of_steps(trained, steps):
    asked = []
    hook = trained.model.net.register_forward_pre_hook(lambda _, args: asked.append(len(args[0])))
    _, nfe = generate(SamplingSetup(trained, steps), range(6))
    hook.remove()
    assert nfe == steps
    assert asked == [SIZE] * steps * 2


NARROW = {"sampled_on": "cosine", "sampled_on__min_signal": "0.1", "sampled_on__max_signal": "0.9"}


@pytest.mark.parametrize(
    "changes",
    [pytest.param({}, marks=pytest.mark.slow), {"clip": "yes", **NARROW}],
    ids=["plain", "clipped and narrower"],
)
def test_the_steps_on_the_page_about_sampling_give_the_images_of_sample(tmp_path, monkeypatch, changes):
    """`sample` gives the bits of its steps, whatever the recipe samples with."""
    chosen = tiny.recipe(sampler="dpm_solver", grid="uniform_log_snr", grid__end="1", steps=20, **changes)
    run = tiny.training(chosen, updates=5)
    documents = run.documents()
    documents["state"]["runtime"] |= {"precision": "bf16", "micro_batch": 16}
    checkpoint.save(tmp_path / "checkpoints", run.step, run.tensors(), documents)
    page = Path(__file__).parents[2] / "docs" / "howto" / "sampling.md"
    names: dict = {}
    for block in re.findall("```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(block.replace("runs/photos-fast-1", str(tmp_path)), names)
    assert torch.equal(names["images"], names["by_hand"])
    assert names["images"].shape == (16, 3, 32, 32)
    assert names["few"].shape == (2, 3, 32, 32)
    assert not torch.equal(names["images"], sample(tmp_path, 16, 20, sampler=DDIM()))


def test_seed_and_seeds_exclude_each_other(trained):
    with pytest.raises(UserError, match="give seed or seeds, not both, got seed 5"):
        ddim.sample(trained, seed=5, seeds=[1, 2])
    one, other = (ddim.sample(trained, steps=1, seeds=[1, 2], **more) for more in ({}, {"seed": None}))
    assert torch.equal(one, other)


def test_watch_gets_each_state_with_its_seeds(trained):
    seen = []
    images = made(trained, [5, 6, 7, 8, 9], 3, watch=lambda seeds, state: seen.append((seeds, state)))
    assert [seeds for seeds, _ in seen] == [[5, 6, 7, 8]] * 4 + [[9]] * 4
    assert [round(state.t, 6) for _, state in seen[:4]] == [1.0, 0.666667, 0.333333, 0.0]
    assert all(len(state.x) == len(state.x0) == len(seeds) for seeds, state in seen)
    ends = [trained.pixels.leave(state.x) for _, state in seen if state.t == 0]
    assert torch.equal(torch.cat(ends), images)


def test_the_sampler_uses_the_given_grid(trained):
    times = []
    walked = trained.with_recipe(grid=Listed((0.9, 0.2)))
    made(walked, [0], 2, watch=lambda _, state: times.append(state.t))
    assert times == [0.9, 0.2, 0.0]


def test_ema_and_raw_weights_give_different_images(trained):
    run = trained.checkpoint.path.parents[1]
    raw = load(run, "raw")
    files = {
        name: checkpoint.read_tensors(trained.checkpoint.path, name) for name in ("model", "ema/default")
    }
    for name, value in raw.model.state_dict().items():
        assert torch.equal(value, files["model"][name])
    for name, value in files["ema/default"].items():
        assert torch.equal(trained.model.state_dict()[name], value)
    assert not torch.equal(made(trained, [0]), made(raw, [0]))
    assert (trained.checkpoint.weights, raw.checkpoint.weights) == ("ema", "raw")


def test_every_average_of_a_run_can_be_loaded_by_its_name(tmp_path):
    run = tiny.training(
        tiny.recipe("batch norm", ema="exponential", ema__decay="0.9", ema__more="0.1,0"), updates=4
    )
    checkpoint.save(tmp_path / "checkpoints", run.step, run.tensors(), run.documents())
    for weights, profile in (("ema", "default"), ("0.1", "0.1"), ("0", "0")):
        trained = load(tmp_path, weights)
        state = trained.model.state_dict()
        assert trained.checkpoint.weights == weights
        assert tiny.different({name: state[name] for name in run.average}, run.averages[profile]) == []
    raw = load(tmp_path, "raw").model.state_dict()
    # The decay 0 forgets all but the newest.
    assert tiny.different({name: raw[name] for name in run.average}, run.averages["0"]) == []
    assert torch.equal(sample(load(tmp_path, "0"), 2, 2), sample(load(tmp_path, "raw"), 2, 2))
    for wrong in ("0.10", "default", "0.9", "../model"):
        with pytest.raises(UserError) as caught:
            load(tmp_path, wrong)
        assert str(caught.value) == f"weights must be ema, raw, 0.1 or 0, got {wrong!r}"


def test_a_run_and_its_checkpoint_are_the_same_to_load(trained):
    again = load(trained.checkpoint.path)
    assert torch.equal(made(trained, [3]), made(again, [3]))
    assert (
        again.checkpoint.sha256
        == trained.checkpoint.sha256
        == checkpoint.hash_checkpoint(trained.checkpoint.path)
    )
    assert (
        read_run_recipe(trained.checkpoint.path)
        == read_run_recipe(trained.checkpoint.path.parents[1])
        == trained.recipe
    )


def test_a_loaded_model_is_in_eval_mode_without_gradients(trained):
    assert not any(module.training for module in trained.model.modules())
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())


def test_a_run_of_a_missing_accelerator_uses_the_runtime_of_this_machine(trained, tmp_path):
    """Its micro-batch, threads and precision are those of a machine that is not here."""
    run = tiny.training(tiny.recipe())
    documents = run.documents()
    documents["state"]["runtime"] |= {"device": "xpu:3", "micro_batch": 64, "threads": 96}
    checkpoint.save(tmp_path / "checkpoints", 1, run.tensors(), documents)
    here = load(tmp_path, device="cpu").runtime
    assert (here.device, here.micro_batch) == ("cpu", 16)
    assert here.threads < 96
    assert load(trained.checkpoint.path).runtime.micro_batch == SIZE


def test_only_the_name_of_a_device_is_taken(trained):
    for device in (0, ""):
        with pytest.raises(UserError, match=f"device must be one of auto, cpu.*, got {device!r}"):
            load(trained.checkpoint.path, device=device)


def test_a_run_without_steps_is_refused(trained):
    with pytest.raises(UserError, match="steps must be at least 1"):
        made(trained, [0], 0)
    with pytest.raises(UserError, match="at least one time"):
        list(sample_states(trained.model, trained.model.blank(1), [0], torch.ones(0), DDIM()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**32 - 1, "n": 2}, "seed must lie in"),
        ({"label": 1}, "trained without labels"),
        ({"n": 2.5}, "n must be a whole number, got 2.5"),
        ({"n": None, "seeds": 5}, r"seeds must be a list of whole numbers, such as \[3, 7\] or .*, got 5"),
        ({"n": None, "seeds": ["a"]}, "seed must be a whole number, got 'a'"),
        ({"n": np.array([2, 3])}, "n must be a whole number, got array"),
        ({"seed": np.array([3, 7])}, r"seed must be a whole number, got array.*; a list of seeds is given"),
        ({"seed": torch.tensor(3.0)}, "seed must be a whole number, got tensor"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"n": None, "seeds": torch.tensor([3.0, 4.0])}, "seed must be a whole number, got tensor"),
        ({"steps": np.array([2, 3])}, "steps must be a whole number, got array"),
        ({"steps": "20"}, "steps must be a whole number, got '20'"),
        ({"guidance": "2"}, "guidance must be a number, got '2'"),
        ({"label": True}, 'label must be a class name, a class index, "all" or None, got True'),
        ({"sampler": "unipcs"}, "sampler must be one of ddim, .*; perhaps you meant unipc"),
        ({"grid": [0.5, 1]}, "grid.times must decrease"),
        ({"sampler": DDIM}, r"sampler must be an instance, such as DDIM\(\), got the class DDIM"),
    ],
)
def test_impossible_samples_are_refused_in_one_sentence(trained, given, said):
    with pytest.raises(UserError, match=said):
        sample(trained, **{"n": 1, "steps": 1, **given})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampelr": "ddim"}, "sampelr is not a field of a recipe; perhaps you meant sampler"),
        ({"grid": None}, "grid must be one of uniform, .*, got None"),
        ({"clip": "x_0"}, "clip must be true, false or x0, got 'x_0'"),
    ],
)
def test_a_change_of_the_recipe_that_is_impossible_is_refused(trained, fields, said):
    with pytest.raises(UserError, match=said):
        trained.with_recipe(**fields)


def test_an_unknown_option_of_guidance_is_refused_with_a_hint(trained):
    with pytest.raises(UserError, match="sampling has no option gudance; perhaps you meant guidance"):
        choose_sampling(trained, 3, None, gudance=2)


def test_a_sampler_and_a_grid_can_be_named(trained):
    named = sample(trained, 2, 3, sampler="edm", grid="karras")
    assert torch.equal(named, sample(trained, 2, 3, sampler=EDM(), grid=Karras()))
    # As on the command line, the name of the present sampler keeps its fields.
    noisy = trained.with_recipe(sampler=DDIM(0.5))
    assert torch.equal(sample(noisy, 2, 3, sampler="ddim"), sample(trained, 2, 3, sampler=DDIM(0.5)))


@dataclass(frozen=True)
class Given(Grid):
    """A grid that returns what it holds."""

    times: object

    def __call__(self, steps, schedule):
        return self.times


def test_the_times_of_a_grid_of_your_own_are_checked(trained):
    assert len(sample(trained, 1, 2, grid=Given(torch.tensor([1.0, 0.5])))) == 1
    for times in ([0.5, 1.0], [0.5, 0.5], [1.0], [1.0, 0.0], [1.5, 0.5], [1.0, torch.nan]):
        with pytest.raises(
            UserError, match=r"grid Given must return a tensor of 2 decreasing times in \(0, 1"
        ):
            sample(trained, 1, 2, grid=Given(torch.tensor(times)))
    with pytest.raises(UserError, match=r"2 decreasing times in \(0, 1\], got \[1, 0.5\]"):
        sample(trained, 1, 2, grid=Given([1, 0.5]))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (torch.nn.Identity(), r"got the network Identity: give ddim.Model\(network, ddim.Cosine\(\), ...\)"),
        (None, "must be a run folder, a Pipeline or a Model, got None"),
        (torch.zeros(2, 3), r"got a tensor \(2, 3\)"),
    ],
)
def test_other_values_than_models_are_not_sampled(model, said):
    with pytest.raises(UserError, match=said):
        sample(model, 1, 1)


def test_samples_that_are_not_finite_are_refused_with_possible_causes():
    def net(x, noise_level):
        wrong = (x.flatten(1).mean(1) == x.flatten(1).mean(1).max()).reshape(-1, 1, 1, 1)
        return torch.where(wrong, torch.nan, 0 * x)

    model = ddim.Model(net, "cosine", shape=(3, 8, 8))
    with pytest.raises(UserError, match=r"got NaN in 1 of 3, .*: check the sampler DDIM.*Cosine.* weights"):
        sample(model, 3, 1)
    # Metrics would take NaN for black.
    with pytest.raises(SamplesNotFinite, match="got NaN in 1 of 3"):
        list(sample_uint8(SamplingSetup(open_pipeline(model), 1), range(3)))
    ((pixels, _),) = sample_uint8(SamplingSetup(open_pipeline(model), 1), range(3), finite=False)
    assert pixels.flatten(1).amax(1).tolist().count(0) == 1


def test_runs_that_cannot_be_loaded_are_refused_in_one_sentence(trained, tmp_path):
    with pytest.raises(UserError, match="ema or raw"):
        load(trained.checkpoint.path, "averaged")
    with pytest.raises(UserError, match="is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a run"):
        load(tmp_path)
    with pytest.raises(UserError, match="device must be"):
        load(trained.checkpoint.path, device="abacus")


def test_weights_of_another_network_are_named(trained, tmp_path):
    other = override(trained.recipe, {"predicts": "noise"})
    run = tiny.training(tiny.recipe("keras"))
    documents = {**run.documents(), "recipe": json.loads(json.dumps(ddim.recipe.codec.dump(other)))}
    checkpoint.save(tmp_path / "checkpoints", 1, run.tensors(), documents)
    with pytest.raises(UserError, match=r"does not fit its recipe: \S+ is missing or of another shape"):
        load(tmp_path)


def test_clipping_keeps_predicted_images_within_the_pixel_range(trained):
    """Of a network that is far out of bounds: what the sampler is told of is not."""
    wild = replace(trained, pixels=Pixels.fixed(0.5, 2.0))
    told = {}
    for clip in (False, True, "x0"):
        chosen, seen = wild.with_recipe(clip=clip), []
        images, nfe = generate(
            SamplingSetup(chosen, 4), range(2), watch=lambda seeds, state, seen=seen: seen.append(state.x0)
        )
        assert nfe == 4
        told[clip] = torch.stack(seen[1:]).abs().max()
    assert max(told[True], told["x0"]) <= 0.25 < told[False]


def test_with_consistent_x0_and_eps_add_up_to_x_t(trained):
    """An inversion takes the noise for what is left of x_t, which clip x0 keeps as it was predicted."""
    # Of pixels with so little room the network goes far out of bounds.
    narrow = replace(trained, pixels=Pixels.fixed(0.5, 2.0)).with_recipe(clip="x0")
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor(0.9)
    at = narrow.model.schedule(t).over(x)
    for whole in (True, False):
        p = narrow.denoiser(narrow.model, consistent=whole)(x, t)
        assert torch.allclose(at.alpha * p.x0 + at.sigma * p.eps, x, atol=1e-5) == whole
