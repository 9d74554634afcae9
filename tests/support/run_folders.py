"""Run folders without weights."""

import json

from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke
from ddim.runs.checkpoint import write_checkpoint
from stubs import written

ERRORS = {"noise_mae": 0.4, "image_mae": 0.3}


def make(folder, images=960, seen=(480, 960), errors=ERRORS, step=None, **recipe):
    """Write a run folder as `ddim train` leaves it, without weights."""
    folder.mkdir(parents=True)
    fields = {"images": images, **{path.replace("__", "."): value for path, value in recipe.items()}}
    whole = {"recipe": dump(override(smoke(), fields)), "seed": 0}
    (folder / "run.json").write_text(json.dumps(whole))
    lines = [{"step": n // 16, "images": n, "time": 0.0, "loss": 1.0} for n in seen]
    lines += [{**lines[-1], **errors}] if seen else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if step is not None:
        place = folder / "checkpoints" / f"step-{step:09d}"
        place.mkdir(parents=True)
        write_checkpoint(place, step, {}, {"state": {"plan": {"total": 320}}})
    return folder


def write_evaluation(folder, number, **metrics):
    """Write an evaluation of a run."""
    values = {name: {"value": value, "low": value, "high": value} for name, value in metrics.items()}
    written(folder / "evaluations" / str(number), metrics=values)
