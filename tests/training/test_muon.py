"""Muon changes matrices by updates with equal singular values, and leaves the rest to AdamW."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import tiny
from ddim.recipe.recipe import Optim
from ddim.training.optim import Muon, divide_parameters, orthogonalise

MUON = Optim(method="muon", lr=1e-2, weight_decay=0.1, betas=(0.9, 0.99))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (3, 16, 16)])
def test_the_singular_vectors_stay_and_the_singular_values_become_about_one(shape):
    matrix = draw(*shape)
    u, before, vh = torch.linalg.svd(matrix, full_matrices=False)
    core = u.mT @ orthogonalise(matrix) @ vh.mT
    after = core.diagonal(dim1=-2, dim2=-1)
    assert (core - torch.diag_embed(after)).abs().max() < 1e-3
    wide = before > 0.01 * before.amax(-1, keepdim=True)
    assert after[wide].min() > 0.65
    assert after.max() < 1.25


def test_the_updates_of_matrices_are_those_of_the_optimiser_of_torch():
    """torch has Muon for matrices of two dimensions, with products in bf16, which round by 0.4 %."""
    shapes = [(16, 24), (24, 16), (16, 24)]
    ours, theirs = ([nn.Parameter(draw(*shape, seed=k)) for k, shape in enumerate(shapes)] for _ in range(2))
    first = Muon([nn.Parameter(torch.zeros(3))], ours, torch.bfloat16, Optim(lr=0.02, weight_decay=0.1))
    second = torch.optim.Muon(
        theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(5):
        for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            one.grad = draw(*one.shape, seed=100 * step + k)
            other.grad = one.grad.clone()
        first.step()
        second.step()
    for k, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        moved = (other - draw(*other.shape, seed=k)).norm()
        assert (one - other).norm() < 0.03 * moved


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_counts_as_the_matrix_of_its_outputs_by_the_rest(kind):
    with torch.random.fork_rng(devices=[]):
        conv = kind(16, 16, 3).to(memory_format=torch.channels_last)
    linear = nn.Parameter(conv.weight.detach().reshape(16, -1).clone())
    optimisers = [
        Muon([p], [q], torch.float32, Optim(lr=0.02, weight_decay=0.0))
        for p, q in [(conv.bias, conv.weight), (nn.Parameter(torch.zeros(1)), linear)]
    ]
    for step in range(3):
        linear.grad = draw(16, 144, seed=step)
        conv.weight.grad = linear.grad.reshape(conv.weight.shape).to(memory_format=torch.channels_last)
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(conv.weight.reshape(16, -1), linear)


def test_gains_and_the_ends_of_a_network_are_trained_as_without_muon():
    """Biases, gains and the convolutions that read or make an image get AdamW's updates, to the bit."""
    recipe = tiny.recipe("layer norm")
    runs = [tiny.training(replace(recipe, optim=o)) for o in (MUON, replace(MUON, method="adamw"))]
    for run in runs:
        for k, parameter in enumerate(run.model.parameters()):
            parameter.grad = draw(*parameter.shape, seed=k)
        run.optimizer.step()
    one, other = (dict(run.model.named_parameters()) for run in runs)
    same = {name for name in one if torch.equal(one[name], other[name])}
    assert same == set(divide_parameters(runs[0].model, MUON)[0])
    assert same != set(one)


def test_a_step_that_is_not_finite_changes_nothing():
    run = tiny.training(replace(tiny.recipe("layer norm"), optim=MUON), updates=1)
    before = tiny.bits(run)
    for parameter in run.parameters.values():
        parameter.grad = torch.full_like(parameter, math.nan)
    run.optimizer.found_inf = torch.tensor(1.0)
    run.optimizer.step()
    assert tiny.different(before, tiny.bits(run)) == []
