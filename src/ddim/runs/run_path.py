"""Names of a run: its folder, RUN/best, RUN/guide, one of its checkpoints, or hub:OWNER/NAME[@REVISION]."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ddim.data.remote import names_repository
from ddim.errors import UserError, quote
from ddim.files import read_sealed
from ddim.recipe.plain_values import join_words
from ddim.runs import checkpoint
from ddim.runs.folder import CHECKPOINTS, RUN, list_checkpoints
from ddim.runs.hub_run import locate_run
from ddim.runs.manifest import parse_step

BEST = "best"
"""The last part of the path RUN/best. No such folder exists: the path means the best checkpoint of a run."""


GUIDE = "guide"
"""The name of the folder, inside a run folder, with the early checkpoint that is kept to guide samples."""


def names_checkpoint(run: str | Path) -> bool:
    """Return whether a path is RUN/best or RUN/guide for a run folder RUN.

    This does not depend on whether the run has such a checkpoint yet.
    """
    run = Path(run)
    named = run.name == GUIDE or (run.name == BEST and not run.exists())
    return named and (run.parent / CHECKPOINTS).is_dir()


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is the folder of a checkpoint, RUN/best or RUN/guide."""
    return (path / checkpoint.MANIFEST).is_file() or names_checkpoint(path)


def is_run_folder(path: Path) -> bool:
    """Return whether a path is the folder of a run or of a checkpoint, RUN/best or RUN/guide."""
    # A folder of images may have a class of the name "checkpoints".
    return is_checkpoint(path) or (path / RUN).exists() or bool(list_checkpoints(path))


def is_run_source(source: str | Path) -> bool:
    """Return whether a source of images is the folder of a run or of a checkpoint; "~" is the home folder."""
    folder = os.path.expanduser(source)
    return os.path.isdir(folder) and is_run_folder(Path(folder))


def check_no_run(source: str) -> None:
    """Check that the images of a new run are not a run, whose sheets of samples would be read as images.

    Raises:
        UserError: if `source` is the folder of a run or of a checkpoint.
    """
    if is_run_source(source):
        raise UserError(
            f"{source} is a run, not a folder of images: continue it with `ddim train --resume --out "
            f"{quote(source)}`, or start a new run from its weights with source (--from "
            f"{quote(source)}) and without it as images"
        )


def find_named_checkpoint(run: str | Path) -> Path | None:
    """Return the checkpoint of a run for the path RUN/best or RUN/guide, and None for any other path.

    Raises:
        UserError: if the run has no such checkpoint.
    """
    run = Path(run)
    if not names_checkpoint(run):
        return None
    if run.name == BEST:
        found, why = (
            checkpoint.find_best(run.parent / CHECKPOINTS),
            "report.best is none, or has not been measured yet",
        )
    else:
        found = checkpoint.find_newest(run)
        why = "training keeps one after the share report.guide of its budget, unless report.guide is 0"
    if found is None:
        raise UserError(f"run {run.parent} has no {run.name} checkpoint: {why}")
    return found


def find_run_folder(path: str | Path) -> Path:
    """Return the run folder of a path that names a run, RUN/best, RUN/guide or a checkpoint of a run.

    A checkpoint outside a run folder is its own run.
    """
    path = Path(path)
    if names_checkpoint(path):
        return path.parent
    folder = path.resolve()
    inside = folder.parent.name in (CHECKPOINTS, GUIDE) and parse_step(folder.name) is not None
    return folder.parents[1] if inside else path


def parse_place(text: str, own: Path | None) -> tuple[Path, str]:
    """Return the path and the weights that a text such as "runs/small-1@best@raw" names.

    In the text hub:OWNER/NAME@REVISION, the part after "@" is a revision on the Hub, never weights: a run on
    the Hub holds one set of weights.

    Args:
        text: the path of a run or checkpoint; "@" and a name may follow, once or twice. The name is "best",
            "guide", the step of a checkpoint, or weights such as "raw"; the default is EMA weights.
        own: the run that is meant if the path is left out, as in "@guide"; None if there is no such run.

    Raises:
        UserError: if the path is left out and `own` is None, or two weights are named.
    """
    if names_repository(text):
        return Path(text), "ema"
    if not text:
        if own is None:
            raise UserError(
                "a name that begins with @ means a run's own checkpoint, and this model has no run"
            )
        return own, "ema"
    if "@" not in text or Path(text).exists():
        return Path(text), "ema"
    before, _, name = text.rpartition("@")
    path, weights = parse_place(before, own)
    if name in (BEST, GUIDE):
        return path / name, weights
    step = path / CHECKPOINTS / f"step-{int(name):09d}" if name.isdecimal() else path
    if step != path and step.is_dir():
        return step, weights
    if weights != "ema":
        missing = describe_missing_step(path, weights)
        raise UserError(f"{text} names two weights, {weights} and {name}: leave one out{missing}")
    return path, name


def describe_missing_step(run: Path, name: str) -> str:
    """Return "; run RUN has no checkpoint of step NAME", with the steps that it has.

    Return "" if `name` is not a whole number, or the run has this checkpoint.
    """
    steps = [step for step, _ in list_checkpoints(run)]
    if not name.isdecimal() or int(name) in steps:
        return ""
    others = f", but of {'steps' if len(steps) > 1 else 'step'} {join_words(steps)}" if steps else ""
    return f"; run {run} has no checkpoint of step {name}{others}"


def pin_place(text: str) -> str:
    """Return a text for `parse_place` that means the same place in every working folder."""
    return text if text.startswith("@") or names_repository(text) else str(Path(text).absolute())


def suggest_run(run: Path) -> str:
    """Return "; perhaps you meant RUN" for a path that does not exist, or "" if no run has a similar name.

    The name is compared with the names of the runs beside the path and in runs/.
    """
    folders = [folder for folder in (run.parent, Path("runs")) if folder.is_dir()]
    runs = {file.parent.name: file.parent for folder in folders for file in folder.glob(f"*/{RUN}")}
    near = difflib.get_close_matches(run.name, runs, 1, 0.6)
    return f"; perhaps you meant {runs[near[0]]}" if near else ""


def find_checkpoint(run: str | Path) -> Path:
    """Return the folder of the checkpoint that a path names.

    Args:
        run: a run folder, for its newest undamaged checkpoint; RUN/best or RUN/guide; a checkpoint folder; or
            hub:OWNER/NAME, for a run on the Hub.

    Raises:
        UserError: if there is no such checkpoint, or the checkpoint folder is damaged.
    """
    run = locate_run(run)
    if found := find_named_checkpoint(run):
        return found
    if not run.is_dir():
        create = "; `ddim train` creates runs, in runs/ or in the folder of --out"
        raise UserError(f"run {run} is not a folder{suggest_run(run) or create}")
    if (run / checkpoint.MANIFEST).is_file():
        checkpoint.verify(run)
        return run
    found = checkpoint.find_newest(run / CHECKPOINTS)
    if found is None and not any((run / name).exists() for name in (RUN, CHECKPOINTS)):
        raise UserError(
            f"{run} is not a run: it holds neither run.json nor checkpoints; "
            f"`ddim runs {quote(run)}` lists the runs below it"
        )
    if found is None:
        # An imported run has no run.json, and had a checkpoint from its beginning.
        if not (run / RUN).exists() or read_sealed(run / RUN).get("checkpointed"):
            raise UserError(f"the checkpoints of run {run} are gone: put them back into {run}/{CHECKPOINTS}")
        raise UserError(f"run {run} holds no checkpoint yet")
    return found
