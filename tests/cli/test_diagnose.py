import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import tiny
from ddim.data import SplitImages
from ddim.data.order import select_indices
from ddim.diffusion.loss import Hybrid
from ddim.diffusion.schedules import LinearBeta
from ddim.diffusion.times import LossAware
from ddim.evaluation import diagnose, gradient_noise
from ddim.evaluation.likelihood import bits_per_dim
from ddim.evaluation.memorisation import check_memorisation
from ddim.exchange.hub import write_published
from ddim.files import read_sealed
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.sampling.pipeline import load
from oracles import shaken
from shown_events import read_events
from stubs import stub


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on the torch/luz repository's schedule, whose clip leaves plateaus."""
    recipe = tiny.recipe(schedule="linear", schedule__clip="powers", optim__warmup=0)
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.mark.usefixtures("blank_figures")
def test_a_diagnosis_is_a_table_a_figure_and_a_record_and_leaves_the_log(run, command):
    log = (run / "metrics.jsonl").read_bytes()
    said = command("diagnose", run, "--images", "4", "--levels", "5").out
    folder = run / "diagnostics" / "1"
    record = read_sealed(folder / "record.json")
    assert f"{folder}/figure.png" in said
    assert sorted(path.name for path in folder.iterdir()) == ["figure.png", "record.json"]
    assert "diagnostics" in read_events(run / "events" / "diagnostics")[1]
    assert "38 % of uniform times lie on one noise level, log-SNR -3.89" in said
    assert "gap to training" in said
    assert re.match(r"4 of \d+ held-out images; gap to 4 of \d+ training images\n", said)
    assert "gradient noise scale" in said
    assert record["schema"] == 1
    assert record["gradient_noise_scale"]["batches"] == 16
    assert record["held_out"]["images"] == record["train"]["images"] == 4
    assert [round(p["share"], 2) for p in record["plateaus"]] == [0.38, 0.07]
    assert (run / "metrics.jsonl").read_bytes() == log


def test_a_run_without_held_out_images_is_diagnosed_on_training_images(tmp_path):
    run = tiny.train(tiny.recipe(data__validation="0", images=8), tmp_path / "run")
    found = diagnose.diagnose(load(run), 3, 3, progress=False)
    assert "memorisation cannot be measured" in repr(found)
    assert found.held_out is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "1"], "images must be at least 2 and at most 1,000,000, got 1"),
        (["--weights", "best"], "weights must be one of"),
    ],
)
def test_a_mistake_is_one_sentence(run, words, said, refused):
    assert said in refused("diagnose", run, *words)


def test_a_checkpoint_and_other_images_are_refused(run, tmp_path, monkeypatch, refused):
    assert "is a checkpoint" in refused("diagnose", str(next((run / "checkpoints").glob("step-*"))))
    other = SimpleNamespace(fingerprint="other images")
    monkeypatch.setattr("ddim.sampling.images.open_source", lambda *_: other)
    assert f"has changed since {run} was trained on it: put its images back" in refused("diagnose", run)


def test_commands_that_need_the_images_of_a_run_report_missing_ones(tmp_path, monkeypatch, refused):
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *a: stub())
    tiny.write_grays(tmp_path / "flower", range(0, 256, 16))
    # The schedule is clean enough to distinguish 8-bit values, which a likelihood needs.
    recipe = tiny.recipe(images=8, schedule__max_signal=0.9999)
    run = tiny.train(recipe, tmp_path / "run", data=str(tmp_path / "flower"))
    (tmp_path / "flower").rename(tmp_path / "moved")
    # Without decoded copies of the images.
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path / "empty"))
    for name, more in [
        ("diagnose", ""),
        ("memorisation", ""),
        ("likelihood", ", or name images with --data, or with `reference` in Python"),
        ("evaluate", ", or name images with --data, or with `reference` in Python"),
    ]:
        said = f"the images of run {run}, {str(tmp_path / 'flower')!r}, do not exist, seen from {Path.cwd()}"
        advice = f"put them back, or give their new path with `ddim train DATA --resume --out {run}`{more}"
        assert refused(name, run) == f"{said}: {advice}"


def test_the_gradients_of_a_diagnosis_are_those_of_the_objective_whatever_the_micro_batch(run):
    from ddim.sampling.images import open_run_images

    trained = load(run)
    own = open_run_images(trained)
    whole = gradient_noise.collect_gradients(trained, own, trained.recipe.objective)
    fewer = replace(trained, runtime=replace(trained.runtime, micro_batch=3))
    parts = gradient_noise.collect_gradients(fewer, own, fewer.recipe.objective)
    assert whole.shape == (16, sum(p.numel() for p in trained.model.parameters()))
    assert (whole - parts).norm() < 1e-4 * whole.norm()
    assert not any(p.requires_grad for p in trained.model.parameters())


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_left_as_it_was(tmp_path):
    """Batch norm in train mode uses the statistics of the batch, and changes the averages that it keeps."""
    run = tiny.train(replace(tiny.recipe("batch norm", images=8), schedule=LinearBeta()), tmp_path / "run")
    wanted, given = load(run), load(run)
    given.model.train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    for measure in (
        lambda trained: diagnose.diagnose(trained, 2, 2, progress=False),
        lambda trained: bits_per_dim(trained, n=3, steps=3, progress=False).bits.tolist(),
        lambda trained: check_memorisation(trained, 4, 2, progress=False).gap,
    ):
        assert repr(measure(given)) == repr(measure(wanted))
        assert all(layer.training for layer in given.model.modules())
        assert all(p.requires_grad for p in given.model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.state_dict().items())


"""Augmentation whose only frequent change is mirroring left to right."""


AWARE = replace(
    tiny.BASE,
    net=DDPMUNetSpec(8, (1,), 1, (False,), groups=4, dropout=0.0, outputs=2),
    objective=Hybrid(times=LossAware(8, 2, 0.01), vlb=1.0),
    schedule=LinearBeta(),
)


def at_the_start(recipe, folder):
    """Return a training with random weights and its run; its loss memory prefers the cleanest times."""
    training = tiny.training(recipe)
    shaken(training.model.net)
    if training.past_losses:
        entries = torch.arange(1, 9, dtype=torch.float64) / 8
        for _ in range(2):
            training.past_losses.update(entries, 4.0 ** -torch.arange(8))
    checkpoint.save(folder / "checkpoints", 0, training.tensors(), training.documents())
    return training, load(folder, "raw")


@pytest.mark.parametrize(
    "recipe",
    [tiny.AUGMENTED, pytest.param(AWARE, marks=pytest.mark.slow), override(AWARE, {"data.dequantise": True})],
    ids=["augmented", "times drawn by their losses", "both"],
)
def test_the_gradients_of_a_diagnosis_are_those_of_updates_of_training(recipe, tmp_path):
    training, trained = at_the_start(recipe, tmp_path)
    own = SplitImages(training.split.images, training.split.train, training.split.validation)
    found = gradient_noise.collect_gradients(
        trained, own, gradient_noise.find_loss(trained), gradient_noise.load_loss_memory(trained)
    )
    for row, step in zip(
        found[:3], gradient_noise.space_steps(len(own.train), recipe.optim.batch), strict=False
    ):
        training.step = step
        gradients, _ = tiny.gradients(training)
        wanted = torch.cat([gradient.flatten() for gradient in gradients.values()])
        assert wanted.norm() > 0
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_a_published_run_is_diagnosed_with_the_loss_of_the_end_of_its_training(tmp_path):
    training = tiny.training(tiny.recipe(objective__finish=0.3, objective__finish_after=0))
    training.step = training.plan.total // training.recipe.optim.batch
    checkpoint.save(tmp_path / "run" / "checkpoints", 0, training.tensors(), training.documents())
    trained = load(tmp_path / "run")
    write_published(trained, tmp_path / "published")
    loss = gradient_noise.find_loss(load(tmp_path / "published"))
    assert loss == gradient_noise.find_loss(trained)
    assert loss.error == "mse"


@pytest.mark.parametrize(("n", "batch"), [(32, 2), (33, 8), (5, 3), (5, 8)])
def test_batches_of_a_diagnosis_are_independent(n, batch):
    """If the gradient of image i is the unit vector e_i, |G|^2 is 1 / n, and batches of one epoch give 0."""
    steps = gradient_noise.space_steps(n, batch)
    assert len(steps) == 16
    spans = [set(range(step * batch // n, ((step + 1) * batch - 1) // n + 1)) for step in steps]
    assert len(set.union(*spans)) == sum(map(len, spans))
    found = []
    for seed in range(300):
        which = torch.from_numpy(np.stack([select_indices(n, seed, step * batch, batch) for step in steps]))
        found.append(gradient_noise.estimate_noise_scale(one_hot(which, n).double().mean(1), batch).signal)
    assert np.mean(found) == pytest.approx(1 / n, rel=0.05)


def test_times_that_are_drawn_by_their_losses_are_shown_as_drawn(tmp_path, monkeypatch):
    training, trained = at_the_start(AWARE, tmp_path)
    images = training.split.images
    monkeypatch.setattr("ddim.sampling.images.open_images", lambda *a, **k: images)
    times = diagnose.diagnose(trained, 2, 2).training_times
    # The squared losses are 1, 1/4, 1/16, ...; a hundredth of the draws is uniform.
    shares = 0.99 * 0.75 * 4.0 ** -torch.arange(8.0) + 0.01 / 8
    level = LinearBeta()(torch.arange(1, 9, dtype=torch.float64) / 8).log_snr
    for low, share in times.items():
        inside = (level >= low) & (level < low + 2)
        assert share == pytest.approx(shares[inside].sum().item(), abs=1e-3)
    assert sum(times.values()) == pytest.approx(1)
