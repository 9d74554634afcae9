"""Train three other programs for equal minutes on the images that `ddim train` sees, and compare samples.

    python benchmarks/peers.py FOLDER --images flowers64.zip [--peers lucidrains,diffusers,keras]
        [--minutes 40] [-n 784] [--sampling-minutes 20] [--run RUN]

The programs are denoising-diffusion-pytorch, diffusers and the DDIM tutorial of Keras, each with the settings
of its own README or page: see lucidrains_readme.py, diffusers_example.py and keras_tutorial.py. Keras runs on
TensorFlow if it is installed, because it then trains faster on a processor than on torch; KERAS_BACKEND
chooses a backend.

All train on the training images of `ddim train --seed 0`, at 64 pixels. All are compared with its held-out
images. Each peer draws -n samples with 20 network evaluations, and -n with its own default number of steps,
or as many as fit into --sampling-minutes, or none if they would be too few to compare. The default of the
Keras tutorial is 20. The EMA of the tutorial is slow, so the last weights are sampled too.

Each stage runs in a process of its own, and is kept in FOLDER. The same command, with the same or with other
peers, does what is missing, and prints the table of all that is there. The machine must be idle meanwhile.
The extra `peers` installs the programs, but not TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import ddim
from ddim.data import open_images, split_images
from ddim.evaluation.record import Metrics, format_estimate, read_evaluation
from ddim.metrics.catalogue import LEAST
from ddim.recipe.recipe import Data

PEERS = {
    "lucidrains": ("lucidrains_readme", "denoising-diffusion-pytorch", ["ema-20", "ema-250"]),
    "diffusers": ("diffusers_example", "diffusers", ["ema-20", "ema-1000"]),
    "keras": ("keras_tutorial", "keras", ["ema-20", "raw-20"]),
}
"""The module of a peer, its package, and its ways of sampling as weights and steps, first the one of 20."""

FEATURES = "efficientnet-lite0", "scattering"
METRICS = "kid", "precision", "recall"
TRAINED = "program", "precision", "minutes", "images seen", "parameters"
SAMPLED = "weights", "NFE", "samples", "seconds a sample"
BATCH = 16
"""Samples that are drawn at once."""


def train(name: str, folder: Path, source: str, minutes: float) -> dict[str, Any]:
    """Train a peer, and return the facts of its training."""
    import torch

    torch.manual_seed(0)
    module, package, _ = PEERS[name]
    data = Data(source)
    split = split_images(open_images(source, data.size, 3), data.validation, seed=0)
    trained = importlib.import_module(module).train(split.images.pixels[split.train], folder, minutes)
    programs = {each: version(each) for each in (package, "torch")}
    return {**trained, "program": f"{package} {programs[package]}", "of": len(split.train), **programs}


def sample(name: str, folder: Path, steps: int, weights: str, count: int, minutes: float) -> dict[str, Any]:
    """Sample a peer, write images.npy and a sheet into a folder, and return the facts of sampling.

    At most `count` samples are drawn, or as many as fit into `minutes` at the speed of the first batch.
    """
    import torch

    torch.manual_seed(0)
    draw = importlib.import_module(PEERS[name][0]).Sampler(folder.parent, steps, weights)
    begin = time.perf_counter()
    parts = [draw(min(BATCH, count))]
    count = min(count, max(LEAST, int(60 * minutes * BATCH / (time.perf_counter() - begin))))
    parts += [draw(min(BATCH, count - done)) for done in range(BATCH, count, BATCH)]
    seconds, drawn = time.perf_counter() - begin, np.concatenate(parts)
    pixels = np.rint(255 * drawn).astype(np.uint8)
    np.save(folder / "images.npy", pixels)
    ddim.sheet(pixels[:36].transpose(0, 3, 1, 2)).save(folder / "sheet.png")
    return {"weights": weights, "nfe": steps, "images": count, "pace": seconds / count}


def keep(file: Path, stage: Callable[..., dict[str, Any]], *values: Any) -> dict[str, Any]:
    """Return the facts in a JSON file; if it does not exist, do the stage in a new process, and write it."""
    if not file.exists():
        print(f"{stage.__name__}: {file.parent}", file=sys.stderr, flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            file.write_text(json.dumps(process.submit(stage, *values).result(), indent=1))
    return json.loads(file.read_text())


def evaluate(folder: Path, *words: str) -> None:
    """Evaluate samples by both kinds of features with `ddim evaluate`, unless this is done."""
    for features in FEATURES:
        if not (out := folder / features).exists():
            command = [sys.executable, "-m", "ddim", "evaluate", *words, "--features", features]
            subprocess.run([*command, "--out", str(out), "--quiet"], check=True, stdout=sys.stderr)


def compare_peer(name: str, args: argparse.Namespace) -> None:
    """Do all stages of a peer that are missing; leave out samples that would be too few to compare."""
    folder, pace = args.folder / name, 0.0
    keep(folder / "training.json", train, name, folder, args.images, args.minutes)
    for way in PEERS[name][2]:
        home, (weights, steps) = folder / way, way.split("-")
        kept, least = home / "sampling.json", min(LEAST, args.n)
        if least * pace * int(steps) > 60 * args.sampling_minutes and not kept.exists():
            print(f"{home}: left out, {least} samples take more than --sampling-minutes", file=sys.stderr)
            continue
        drawn = keep(kept, sample, name, home, int(steps), weights, args.n, args.sampling_minutes)
        pace = drawn["pace"] / drawn["nfe"]
        if drawn["images"] >= LEAST:
            evaluate(home, str(home / "images.npy"), "--reference", args.images, "--part", "valid")


def compare_run(path: Path, args: argparse.Namespace) -> None:
    """Evaluate a run of ours with samples as it draws them by default."""
    folder, run = args.folder / path.resolve().name / "ema", ddim.load(path)
    evaluate(folder, str(path), "-n", str(args.n))
    found = read_evaluation(folder / FEATURES[0])
    new = found.count - found.record["generated"]["kept"]
    pace = found.record["seconds"]["sampling"] / new if new else None
    drawn = {"weights": "ema", "nfe": found.nfe, "images": found.count, "pace": pace}
    trained = {"program": f"ddim {ddim.__version__}, {path.resolve().name}", "seconds": None}
    trained["images"] = run.checkpoint.state.step * run.recipe.optim.batch
    trained["parameters"] = sum(p.numel() for p in run.model.parameters())
    trained["precision"] = run.checkpoint.state.runtime.precision
    (folder / "sampling.json").write_text(json.dumps(drawn))
    (folder.parent / "training.json").write_text(json.dumps(trained))


def print_table(folder: Path) -> None:
    """Print a row for each way of sampling in a folder, and one for training images in place of samples.

    Raises:
        SystemExit: if the samples were not all compared with the same images.
    """
    measured = [f"{metric}, {features}" for features in FEATURES for metric in METRICS]
    rows: list[list[object]] = []
    real, references = [], set()
    for file in sorted(folder.glob("*/*/sampling.json")):
        trained, drawn = (json.loads(path.read_text()) for path in (file.parents[1] / "training.json", file))
        seconds, pace, cells = trained["seconds"], drawn["pace"], ["too few samples"] * len(measured)
        if all((file.parent / features).exists() for features in FEATURES):
            found = [read_evaluation(file.parent / features) for features in FEATURES]
            cells = list_cells(found)
            real.append([each.yardstick for each in found])
            references.add(found[0].reference.sha256)
        rows.append([trained["program"], trained["precision"], f"{seconds / 60:.1f}" if seconds else ""])
        rows[-1] += [f"{trained['images']:,}", f"{trained['parameters']:,}", drawn["weights"], drawn["nfe"]]
        rows[-1] += [drawn["images"], f"{pace:.2f}" if pace else "", *cells]
    if len(references) > 1:
        raise SystemExit("samples were compared with different images: was the run trained with seed 0?")
    if real:
        most = max(real, key=lambda found: found[0].images)
        rows.append(["training images", *[""] * 6, most[0].images, "", *list_cells(most)])
    head = [*TRAINED, *SAMPLED, *measured]
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(str, row)) + " |")


def list_cells(found: Sequence[Metrics]) -> list[str]:
    """Return the metrics by each kind of features as text."""
    return [format_estimate(each.estimate(metric)) for each in found for metric in METRICS]


def main() -> None:
    """Do the stages that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--images", required=True, help="a folder or an archive")
    parser.add_argument("--peers", default=",".join(PEERS), help="names, separated by commas (default: all)")
    parser.add_argument("--minutes", type=float, default=40, help="of training, a peer (default 40)")
    parser.add_argument("-n", type=int, default=784, help="samples, a row (default 784)")
    parser.add_argument("--sampling-minutes", type=float, default=20, help="of a row (default 20)")
    parser.add_argument("--run", type=Path, help="a run of `ddim train`, trained with seed 0")
    args = parser.parse_args()
    names = [name for name in args.peers.split(",") if name]
    if unknown := set(names) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(unknown)}")
    # Samples that the user's own cache has would be drawn in no time.
    os.environ["DDIM_CACHE"] = str((args.folder / "cache").resolve())
    tensorflow = importlib.util.find_spec("tensorflow") is not None
    os.environ.setdefault("KERAS_BACKEND", "tensorflow" if tensorflow else "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in names:
        compare_peer(name, args)
    if args.run:
        compare_run(args.run, args)
    print_table(args.folder)


if __name__ == "__main__":
    main()
