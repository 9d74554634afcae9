"""Stand-ins for slow things: an extractor that averages pixels, and invented records of evaluations."""

import copy
import json
from pathlib import Path

import numpy as np
from torch.nn import functional as F

from ddim.evaluation.record import parse_evaluation
from ddim.files import hash_file
from ddim.metrics.catalogue import METRICS
from ddim.metrics.features import Extractor

RECORD = {
    "schema": 1,
    "kind": "evaluation",
    "metrics": {
        "kid": {"value": 0.02, "low": 0.01, "high": 0.03, "mean": 0.02, "std": 0.0, "subsets": 9, "size": 9},
        "fid": {"value": 30.0},
        "fid_infinity": {"value": 25.0, "low": 20.0, "high": 30.0},
        **{name: {"value": 0.5} for name in METRICS if name not in ("kid", "fid", "fid_infinity")},
    },
    "notes": [],
    "features": {"extractor": "stub", "weights": "w" * 64, "resize": "2 px", "dimensions": 12},
    "reference": {
        "source": "photos",
        "fingerprint": "f" * 64,
        "part": "valid",
        "size": [32, 32],
        "images": 500,
        "sha256": "r" * 64,
    },
    "generated": {"images": 400, "source": "runs/a", "sha256": "g" * 64},
    "yardstick": None,
    "sampling": None,
    "seconds": {"sampling": 1.0, "features": 1.0, "metrics": 1.0},
    "time": "2026-11-25T00:00:00+00:00",
    "versions": {},
}
SAMPLING = {
    "recipe": {"name": "tiny", "data": {}, "optim": {"batch": 8, "lr": 0.1}, "sampler": {}, "grid": {}},
    "sampler": {"kind": "ddim", "eta": 0.0},
    "sampler_name": "ddim",
    "grid": {"kind": "uniform"},
    "times": [1.0, 0.5],
    "nfe": 2,
    "seeds": list(range(400)),
    "weights": "ema",
    "step": 10,
    "label": None,
}


def record(**changes):
    """Return a copy of RECORD with changed values; a path has double underscores in place of dots."""
    made = copy.deepcopy(RECORD)
    for path, value in changes.items():
        *above, last = path.split("__")
        table = made
        for name in above:
            table = table[name]
        table[last] = value
    return made


def evaluation(**changes):
    """Return the evaluation that has `record(**changes)`."""
    return parse_evaluation(Path(), record(**changes))


def written(folder, features=None, **changes):
    """Write the folder of an evaluation with `record(**changes)`, and return it."""
    folder.mkdir(parents=True)
    if features is not None:
        np.save(folder / "features.npy", features.astype(np.float32))
        changes = {"generated__sha256": hash_file(folder / "features.npy"), **changes}
    (folder / "record.json").write_text(json.dumps(record(**changes)))
    return folder


def stub(seen=None, name="stub"):
    """Return an extractor of 12 features, the means of the four quarters of each channel.

    It appends the number of images of each call to the list `seen`.
    """

    def network(images):
        if seen is not None:
            seen.append(len(images))
        return F.adaptive_avg_pool2d(images / 255, 2).flatten(1)

    return Extractor(name, "w" * 64, "2 px", 12, network)
