"""Train variants of `fast` for equal minutes, repeat them, and evaluate them by two kinds of features.

    python benchmarks/race.py DATA OUT [--minutes 40] [--seeds 3] [--variants "NAME;..."] [-n 784]
        [--options "--size 32 --threads 1"] [--jobs 2]

Each variant is a set of options for `ddim train`. The folder OUT keeps the runs and all results. If the
benchmark was stopped, the same command continues it and repeats no run.

First, `ddim plan` tells how many images each variant sees in --minutes. This is the median of three plans,
which take turns with those of the other variants. Variants that differ only in their loss share their plans.
The machine must be idle meanwhile. All trainings of a variant then see this number of images, so they may
share the machine with other programs.

The benchmark prints two Markdown tables. The first has the mean of each variant over the seeds. The second
has the differences from the first variant within the seeds. Each value has the half width of its 95 %
confidence interval (Student's t). A seed sets the initial weights, the held-out images and the noise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

FIRST_VERSION = {
    "net.widths": "32,64,128,256",
    "optim.method": "adamw",
    "optim.lr": "3e-3",
    "optim.batch": "16",
    "objective.finish": "0",
    "objective.guidance": "1",
}
"""The fields of the recipe `fast` that had other values in its first version, with these values."""

ADAMW = {"optim.method": "adamw", "optim.lr": "3e-3", "optim.batch": "16"}
MUON = {"optim.method": "muon", "optim.lr": "4e-3", "optim.batch": "32"}
FINISH = {"objective.finish": "0.3", "objective.finish_after": "0", "objective.guidance": "1"}
VARIANTS = {
    "fast": {},
    "fast with the squared error": FINISH,
    "fast without guidance": {"objective.guidance": "1"},
    "fast without the squared error": {"objective.finish": "0", "objective.guidance": "1"},
    "fast with AdamW": {**ADAMW, **FINISH},
    "fast with the first channels": {"net.widths": "32,64,128,256", **FINISH},
    "first version": FIRST_VERSION,
    "first version with Muon": {**FIRST_VERSION, **MUON},
    "first version with the squared error": {**FIRST_VERSION, **FINISH},
    "first version with the channels of fast": {**FIRST_VERSION, "net.widths": "24,48,96,192"},
    "batch 16": {"optim.batch": "16", "optim.lr": "3e-3"},
    "narrower": {"net.widths": "16,32,64,128"},
    "clusters": {"data.labels": "clusters:16", **FINISH},
    "flow": {"recipe": "flow"},
    "dit": {"recipe": "dit"},
    "128 pixels": {"size": "128"},
}
"""Options of `ddim train` and their values, keyed by the name of the variant."""

SAMPLED = {
    "20 NFE": "--steps 20",
    "20 NFE, without noise": "--steps 20 --sampler.eta 0",
    "guided 1.5, 20 NFE": "--steps 10 --guidance 1.5 --guide-with @guide",
    "guided 2, 20 NFE": "--steps 10 --guidance 2 --guide-with @guide",
    "guided 2 at -2,5, about 20 NFE": "--steps 13 --guidance 2 --guide-with @guide --guidance-interval -2,5",
    "guided 2 at -2,5 with eta 0.5, about 20 NFE": "--steps 13 --guidance 2 --guide-with @guide "
    "--guidance-interval -2,5 --sampler.eta 0.5",
}
"""Options of `ddim evaluate`, keyed by a name for this way of sampling."""

FEATURES = "efficientnet-lite0", "scattering"
COLUMNS = "kid", "precision", "recall"
PLANS = 3


def main() -> None:
    """Do the trainings and evaluations that are missing, and print the tables after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", default="40")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--variants",
        default=";".join(VARIANTS),
        help="names, separated by semicolons (default: all; see VARIANTS)",
    )
    parser.add_argument(
        "--sampled",
        default="20 NFE",
        help="ways of sampling, separated by semicolons (default: 20 NFE; see SAMPLED)",
    )
    parser.add_argument("-n", default="784", help="samples of each run")
    parser.add_argument("--options", default="", help="options of ddim train for all variants, as one text")
    parser.add_argument("--jobs", type=int, default=1, help="runs that are trained or evaluated at once")
    args = parser.parse_args()
    variants, sampled = args.variants.split(";"), args.sampled.split(";")
    for name in [*variants, *sampled]:
        if name not in {**VARIANTS, **SAMPLED}:
            parser.error(f"{name!r} is not a variant or a way of sampling")
    images = plan_images(args, variants)

    def run(name: str, seed: int) -> None:
        train(args, name, seed, images[name])
        for options in sampled:
            judge(args, name, seed, options)

    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(run, name, seed) for seed in range(args.seeds) for name in variants]
        try:
            for one in as_completed(runs):
                one.result()
                print_tables(args, variants, sampled, images)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def plan_images(args: argparse.Namespace, variants: list[str]) -> dict[str, int]:
    """Return the number of images that each variant sees in the minutes; a file in OUT keeps them."""
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "images.json"
    known = read(file) if file.exists() else {}
    costs = {name: tuple(list_options(args, name, loss=False)) for name in variants if name not in known}
    plans: dict[tuple[str, ...], list[int]] = {options: [] for options in costs.values()}
    for _ in range(PLANS):
        for options, planned in plans.items():
            words = ["plan", args.data, *options, "--minutes", args.minutes, "--json"]
            planned.append(json.loads(call(words, args.out / "plans.log"))["rows"][0]["images"])
    known |= {name: int(statistics.median(plans[options])) for name, options in costs.items()}
    file.write_text(json.dumps(known))
    return known


def list_options(args: argparse.Namespace, name: str, *, loss: bool = True) -> list[str]:
    """Return the options of `ddim train` for a variant, if `loss` is False without those of the loss."""
    own = {option: value for option, value in VARIANTS[name].items() if loss or "objective." not in option}
    return [*shlex.split(args.options), *(word for pair in own.items() for word in (f"--{pair[0]}", pair[1]))]


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{name.replace(' ', '-')}-seed{seed}"


def train(args: argparse.Namespace, name: str, seed: int, images: int) -> None:
    """Train a run, or resume it; a finished run is not changed."""
    folder = run_folder(args.out, name, seed)
    words = ["train", "--out", str(folder), "--resume"]
    if not (folder / "run.json").exists():
        words += [args.data, *list_options(args, name), "--images", str(images), "--seed", str(seed)]
    call(words, folder.with_suffix(".log"))


def judge(args: argparse.Namespace, name: str, seed: int, options: str) -> None:
    """Evaluate a run by both kinds of features, and look for copies of training images."""
    folder = run_folder(args.out, name, seed)
    sampling = [str(folder), *shlex.split(SAMPLED[options]), "--json", "--quiet"]
    for features in FEATURES:
        words = ["evaluate", *sampling, "-n", args.n, "--features", features]
        keep(words, result_file(folder, options, features))
    keep(["memorisation", *sampling, "-n", "200"], result_file(folder, options, "copies"))


def result_file(folder: Path, options: str, features: str) -> Path:
    """Return the JSON file of one result of a run."""
    return folder.with_name(f"{folder.name} {options} {features}.json")


def keep(words: list[str], file: Path) -> None:
    """Run a `ddim` command and write its standard output to `file`, unless the file exists."""
    if not file.exists():
        file.write_text(call(words, file.with_suffix(".log")))


def call(words: list[str], log: Path) -> str:
    """Run a `ddim` command, append its standard error to `log`, and return its standard output."""
    with log.open("a") as messages:
        command = [sys.executable, "-m", "ddim", *words]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=messages, text=True, check=True).stdout


def print_tables(
    args: argparse.Namespace, variants: list[str], sampled: list[str], images: dict[str, int]
) -> None:
    """Print the means of all results, and their differences from the first variant within the seeds."""
    columns = [f"{column}, {features}" for features in FEATURES for column in COLUMNS] + ["copies"]
    for compared in ("", f", minus {variants[0]}"):
        print(f"\n| variant{compared} | sampled | seeds | images | {' | '.join(columns)} |")
        print("|" + "---|" * (len(columns) + 4))
        for name in variants[1:] if compared else variants:
            for options in sampled:
                rows = read_rows(args, name, options)
                if compared:
                    first = read_rows(args, variants[0], options)
                    rows = {seed: rows[seed] - first[seed] for seed in rows.keys() & first.keys()}
                if rows:
                    cells = " | ".join(map(summarise, np.array(list(rows.values())).T))
                    print(f"| {name} | {options} | {len(rows)} | {images[name]:,} | {cells} |")
    sys.stdout.flush()


def read_rows(args: argparse.Namespace, name: str, options: str) -> dict[int, np.ndarray]:
    """Return the values of all columns for each seed that has all results, keyed by the seed."""
    rows = {}
    for seed in range(args.seeds):
        folder = run_folder(args.out, name, seed)
        files = [result_file(folder, options, kind) for kind in (*FEATURES, "copies")]
        if all(file.exists() for file in files):
            *metrics, copies = map(read, files)
            found = [one["metrics"][column]["value"] for one in metrics for column in COLUMNS]
            rows[seed] = np.array([*found, copies["copies"]["value"]])
    return rows


def read(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    return json.loads(file.read_text())


def summarise(values: np.ndarray) -> str:
    """Return the mean and the half width of its 95 % confidence interval as text; a single value alone."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()
