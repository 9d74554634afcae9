"""Train variants of `fast` for equal minutes, repeat them, and evaluate them by two kinds of features.

    python benchmarks/race.py DATA OUT [--minutes 40] [--seeds 3] [--variants NAME,...] [-n 784]

Each variant is a set of options for `ddim train`. The folder OUT keeps the runs and all results. If the
benchmark was stopped, the same command continues it and repeats nothing. It prints a Markdown table of means
over the seeds, each with the half width of its 95 % confidence interval (Student's t). A seed sets the
initial weights, the held-out images and the noise.

The first seed of each variant is trained for --minutes, so the machine must be idle until these runs have
ended. The other seeds of a variant see as many images as its first, and may share the machine with other
programs. The first run knows its number of images only after it has measured the speed, so its learning rate
begins to fall a little later.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy.stats import t

from ddim.experiments.recorded_runs import FIRST_VERSION

VARIANTS = {
    "fast": "",
    "adamw": "--optim.method adamw",
    "no finish": "--objective.finish 0",
    "batch 16": "--optim.batch 16 --optim.lr 3e-3",
    "narrower": "--net.widths 16,32,64,128",
    "wider": "--net.widths 32,64,128,256",
    "first version": " ".join(f"--{name} {value}" for name, value in FIRST_VERSION.items()),
    "clusters": "--data.labels clusters:16",
    "flow": "--recipe flow",
    "dit": "--recipe dit",
    "128 pixels": "--size 128",
}
"""Options of `ddim train`, keyed by the name of the variant."""

SAMPLED = {
    "20 NFE": "--steps 20",
    "guided 1.5, 20 NFE": "--steps 10 --guidance 1.5 --guide-with @guide",
    "guided 2, 20 NFE": "--steps 10 --guidance 2 --guide-with @guide",
    "guided 2 at -2,5, about 20 NFE": "--steps 13 --guidance 2 --guide-with @guide --guidance-interval -2,5",
    "guided 2 at -2,5 with eta 0.5, about 20 NFE": "--steps 13 --guidance 2 --guide-with @guide "
    "--guidance-interval -2,5 --sampler.eta 0.5",
}
"""Options of `ddim evaluate`, keyed by a name for this way of sampling."""

FEATURES = "efficientnet-lite0", "scattering"
COLUMNS = "kid", "precision", "recall"


def main() -> None:
    """Do the trainings and evaluations that are missing, and print the table after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", default="40")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--variants",
        default=",".join(VARIANTS),
        help="names of variants, separated by commas (default: all; see VARIANTS)",
    )
    parser.add_argument(
        "--sampled",
        default="20 NFE",
        help="ways of sampling, separated by semicolons (default: 20 NFE; see SAMPLED)",
    )
    parser.add_argument("-n", default="784", help="samples of each run")
    args = parser.parse_args()
    variants = [name for name in VARIANTS if name in args.variants.split(",")]
    sampled = [name for name in SAMPLED if name in args.sampled.split(";")]
    for seed in range(args.seeds):
        for name in variants:
            train(args, name, seed)
            for options in sampled:
                judge(args, name, seed, options)
            print_table(args, variants, sampled)


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Return the folder of a run."""
    return out / f"{name.replace(' ', '-')}-seed{seed}"


def train(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train a run, or resume it; a finished run is not changed."""
    folder = run_folder(args.out, name, seed)
    words = ["train", "--out", str(folder), "--resume"]
    if not (folder / "run.json").exists():
        images = images_seen(run_folder(args.out, name, 0)) if seed else None
        budget = ["--images", str(images)] if images else ["--minutes", args.minutes]
        words += [args.data, *shlex.split(VARIANTS[name]), *budget, "--seed", str(seed)]
    call(words, folder.with_suffix(".log"))


def judge(args: argparse.Namespace, name: str, seed: int, options: str) -> None:
    """Evaluate a run by both kinds of features, and look for copies of training images."""
    folder = run_folder(args.out, name, seed)
    for features in FEATURES:
        words = [
            "evaluate",
            str(folder),
            *shlex.split(SAMPLED[options]),
            "-n",
            args.n,
            "--features",
            features,
        ]
        keep([*words, "--json", "--quiet"], result_file(folder, options, features))
    words = ["memorisation", str(folder), *shlex.split(SAMPLED[options]), "-n", "200", "--json", "--quiet"]
    keep(words, result_file(folder, options, "copies"))


def result_file(folder: Path, options: str, features: str) -> Path:
    """Return the JSON file of one result of a run."""
    return folder.with_name(f"{folder.name} {options} {features}.json")


def keep(words: list[str], file: Path) -> None:
    """Run a `ddim` command and write its standard output to `file`, unless the file exists."""
    if not file.exists():
        file.write_text(call(words, file.with_suffix(".log")))


def call(words: list[str], log: Path) -> str:
    """Run a `ddim` command, append its standard error to `log`, and return its standard output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as messages:
        command = [sys.executable, "-m", "ddim", *words]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=messages, text=True, check=True).stdout


def print_table(args: argparse.Namespace, variants: list[str], sampled: list[str]) -> None:
    """Print a row for each variant and way of sampling that has a result."""
    titles = [f"{column}, {features}" for features in FEATURES for column in COLUMNS]
    print(f"\n| variant | sampled | seeds | images | {' | '.join(titles)} | copies |")
    print("|" + "---|" * (len(titles) + 5))
    for name in variants:
        for options in sampled:
            folders = [run_folder(args.out, name, seed) for seed in range(args.seeds)]
            done = [f for f in folders if all(result_file(f, options, x).exists() for x in FEATURES)]
            if done:
                values = [
                    summarise([read(result_file(f, options, x))["metrics"][column] for f in done])
                    for x in FEATURES
                    for column in COLUMNS
                ]
                seen = ", ".join(f"{images_seen(f):,}" for f in done)
                copies = summarise([read(result_file(f, options, "copies"))["copies"] for f in done])
                print(f"| {name} | {options} | {len(done)} | {seen} | {' | '.join(values)} | {copies} |")
    sys.stdout.flush()


def read(file: Path) -> dict[str, Any]:
    """Return the content of a result file."""
    return json.loads(file.read_text())


def images_seen(folder: Path) -> int:
    """Return the number of training images that a run has seen."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["images"]


def summarise(found: list[Any]) -> str:
    """Return the mean and the half width of its 95 % confidence interval as text; a single value alone."""
    values = [one["value"] if isinstance(one, dict) else one for one in found]
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
