"""Train each case in the processes that torchrun started, and write their random draws, losses and tensors.

torchrun --standalone --nproc-per-node N in_processes.py OUT UPDATES [CASE ...]
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import safetensors.torch
import torch

import tiny
from ddim.data import split_images
from ddim.diffusion.denoiser import Model
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.recipe.named import RECIPES
from ddim.runs.state import Plan
from ddim.sampling.labels import count_classes
from ddim.training import batches
from ddim.training.batches import draw_times
from ddim.training.run import label_split, measure_pixels
from ddim.training.student import make_student
from ddim.training.trainer import Trainer
from quick_net import QuickNet
from small_recipes import make_small

DROPOUT = override(tiny.recipe("group norm", optim__accumulate=2), {"net.dropout": 0.3})
LABELS = {"data.labels": True, "data.unlabelled": 0.5}
GUIDED = {"objective.guidance": 3.0, "objective.guide": "@guide"}
CASES = {
    **{name: make_small(name) for name in RECIPES},
    "accumulated": tiny.recipe("batch norm", optim__accumulate=2),
    "labels": override(tiny.BASE, LABELS),
    "clusters": override(tiny.BASE, LABELS | {"data.labels": "clusters:3"}),
    "augmented": tiny.AUGMENTED,
    "dropout": DROPOUT,
    "loss-aware": tiny.recipe(
        objective__times="loss_aware", objective__times__entries=4, objective__times__history=1
    ),
    "muon": tiny.recipe("layer norm", optim__method="muon"),
    # As after `--from` a run with classes, and with `--augment.probability 0`.
    "unused weights": override(tiny.BASE, {"net.classes": 3, "net.augment": 9}),
    "averages": override(tiny.BASE, {"ema": "exponential", "ema.decay": 0.9, "ema.more": (0.5, 0.99)}),
    "recomputed": tiny.recipe("batch norm"),
    "recomputed dropout": DROPOUT,
    # A distillation, which evaluates the network twice in each step, with the same masks.
    "consistency": replace(make_student(DROPOUT), images=80, minutes=None),
    "guided": override(tiny.BASE, {"objective": "consistency", **GUIDED}),
    # With batch norm and dropout.
    "compiled": replace(tiny.BASE, net=QuickNet),
}


def launch(processes, *command, **options):
    """Run a Python command in so many processes of torchrun; returns the finished process."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    words = [str(word) for word in (*words, *command)]
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


def choose_case(name):
    """The recipe of a case, 40 images in memory, in two classes, and their pixels."""
    chosen = CASES[name]
    images = tiny.images()
    images = replace(images, labels=np.arange(40) % 2, classes=("even", "odd"))
    parts = split_images(images, chosen.data.validation, chosen.seed)
    parts = label_split(chosen, parts, None)
    chosen = count_classes(chosen, parts.images)
    return chosen, parts, measure_pixels(chosen, parts)


def open_training(name):
    """The training of a case; if it is compiled, several processes recompute what one process keeps."""
    compiled, several = name.startswith("compiled"), current_processes().count > 1
    runtime = Runtime(compile=compiled, recompute="recomputed" in name or (compiled and several))
    chosen, *data = choose_case(name)
    return tiny.give_teacher(Trainer(chosen, *data, runtime, Plan(chosen.images)))


def digest(tensors):
    """The SHA-256 of the values of some tensors."""
    return hashlib.sha256(b"".join(each.contiguous().numpy().tobytes() for each in tensors)).hexdigest()


def train(name, updates):
    """Train a case; return the training, the losses, and a list of [step, row, digest of its draws]."""
    run, drawn, losses = open_training(name), [], []
    original = batches.Batch.micro_batch

    def part(batch, which, *given):
        denoise, x0, eps = original(batch, which, *given)
        t, _ = draw_times(run.recipe, batch.uniform, run.past_losses)
        # A process has its own rows of the batch: micro-batch k has the rows k + parts * rank, ...
        parts, processes = run.recipe.optim.accumulate, run.processes
        first = which.start + parts * processes.rank
        rows = range(first, len(batch.uniform), parts * processes.count)
        labels = [] if isinstance(denoise, Model) else [denoise.label, denoise.augment]
        values = [x0, t[list(rows)], eps, *(value for value in labels if value is not None)]
        for k, row in enumerate(rows):
            drawn.append([run.step, row, digest(value[k] for value in values)])
        return denoise, x0, eps

    with patch.object(batches.Batch, "micro_batch", part), run.runtime:
        for _ in range(updates):
            losses.append(run.advance()["loss"])
    everything = [line for lines in current_processes().interleave([drawn]) for line in lines]
    return run, losses, sorted(everything)


def main(out, updates, *names):
    """Train the cases; write the losses and draws of each as JSON, and its tensors as safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    with join_processes() as processes:
        for name in names or CASES:
            run, losses, drawn = train(name, updates)
            ends = processes.interleave([digest(tiny.bits(run).values())])
            found = {"losses": losses, "drawn": drawn, "equal": len({*ends}) == 1}
            if processes.leads:
                (out / f"{name}.json").write_text(json.dumps(found))
                tensors = {key: value.contiguous() for key, value in tiny.bits(run).items()}
                safetensors.torch.save_file(tensors, out / f"{name}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
