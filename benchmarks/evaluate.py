"""Measure what an evaluation costs beyond sampling and feature extraction.

    python benchmarks/evaluate.py RUN [-n 1000] [--steps 20]

In one process, samples are generated and kept, then their features are extracted, then `ddim.evaluate` does
all of it with the features of the reference in the cache. The ratio should be at most 1.1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ddim.evaluation.evaluate import evaluate
from ddim.metrics.features import extract_features, load_extractor
from ddim.plots.pictures import to_uint8
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup


def main() -> None:
    """Print the seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    extractor = load_extractor()
    with tempfile.TemporaryDirectory() as folder:
        # Cache the features of the reference, and warm up.
        evaluate(args.run, n=32, steps=args.steps, features=extractor, out=Path(folder) / "warm")
        trained = load(args.run)
        began = time.perf_counter()
        images, _ = generate(SamplingSetup(trained, args.steps), range(args.n))
        sampled = time.perf_counter()
        extract_features(extractor, to_uint8(images))
        extracted = time.perf_counter()
        evaluate(args.run, n=args.n, steps=args.steps, features=extractor, out=Path(folder) / "timed")
        done = time.perf_counter()
    parts, whole = extracted - began, done - extracted
    print(f"sampling {sampled - began:.1f} s, features {extracted - sampled:.1f} s, together {parts:.1f} s")
    print(f"evaluation {whole:.1f} s: {whole / parts:.3f} times as long")


if __name__ == "__main__":
    main()
