"""Runs in memory and invented records of evaluations."""

import json
from pathlib import Path

import stubs
from ddim.evaluation.record import parse_evaluation
from ddim.experiments.index import Run
from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke


def run(name="run", state="finished", errors=None, evaluations=(), **changes):
    """Return a run in memory; `changes` are fields of its recipe, with double underscores for dots."""
    recipe = dump(override(smoke(), {path.replace("__", "."): value for path, value in changes.items()}))
    return Run(Path(name), state, recipe, images=960, total=960, errors=errors or {}, evaluations=evaluations)


def record(kid=0.1, fid=None, extractor="lite", samples=1000, part="valid", sha256="a", **sampling):  # noqa: PLR0913
    """Return the record of an evaluation, by default of the last step of `run` with its own sampler."""
    metrics = {"kid": {"value": kid, "low": kid - 0.01, "high": kid + 0.01}}
    metrics |= {"fid": {"value": fid}} if fid else {}
    evaluation = {
        "metrics": metrics,
        "features__extractor": extractor,
        "features__resize": "224 px",
        "features__dimensions": 1280,
        "reference__part": part,
        "reference__size": [64, 64],
        "reference__images": 700,
        "reference__sha256": sha256,
        "generated__images": samples,
    }
    steps = {"step": 60, "nfe": 20, "times": [1.0] * 20, "seeds": list(range(samples))}
    choices = {"recipe": dump(smoke()), "sampler": {"kind": "ddim"}, "label": None, "guidance": 1.0}
    return stubs.record(**evaluation, sampling={**stubs.SAMPLING, **steps, **choices, **sampling})


def evaluation(*values, **facts):
    """Return the evaluation that has `record(*values, **facts)`."""
    return parse_evaluation(Path(), record(*values, **facts))


def write_record(folder, document):
    """Write the record of a new folder of results."""
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(document))
