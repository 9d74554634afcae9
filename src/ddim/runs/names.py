"""Names of runs: RUN, RUN/best, a checkpoint, RUN@raw, or hub:OWNER/NAME; see `parse_place`.

A repository on the Hugging Face Hub holds one published checkpoint: one set of weights and what sampling
needs. Only files of known names are downloaded, and they are used only if all bytes match the manifest.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ddim.data.remote import fetch, names_repository, parse_repository
from ddim.errors import UserError, quote, suggest
from ddim.runs import checkpoint
from ddim.runs.checkpoint import MANIFEST
from ddim.runs.folder import CHECKPOINTS, RUN, list_checkpoints

T = TypeVar("T")
BEST = "best"
"""The last part of the path RUN/best. No such folder exists: the path means the best checkpoint of a run."""
PUBLISHED = "published"
"""The name of the JSON document, which names the weights, that only a published checkpoint has."""
_TENSORS, _DOCUMENTS = ("model", "clusters", "vectors"), ("state", "recipe", PUBLISHED, "searched")
FILES = (MANIFEST, *(f"{name}.safetensors" for name in _TENSORS), *(f"{name}.json" for name in _DOCUMENTS))
"""The files of a published checkpoint."""


def parse_place(text: str, within: Path | None = None) -> tuple[Path, str]:
    """Return the path and the weights, by default "ema", that a text such as "runs/small-1@best@raw" names.

    In hub:OWNER/NAME@REVISION, the part after "@" is a revision, never weights: a run on the Hub holds one
    set of weights.

    Args:
        text: a run folder, for its newest undamaged checkpoint; RUN/best; a checkpoint folder; or
            hub:OWNER/NAME[@REVISION]. "@best", "@STEP" or "@WEIGHTS" may follow the path of a run.
        within: the run that is meant if the path is left out, as in "@guide".
    """
    if "@" not in text or names_repository(text) or os.path.exists(os.path.expanduser(text)):
        return Path(os.path.expanduser(text or within or "")), "ema"
    before, _, name = text.rpartition("@")
    path, weights = parse_place(before, within)
    if name == BEST:
        return path / name, weights
    if name.isdecimal() and int(name) in (steps := dict(list_checkpoints(path))):
        return steps[int(name)], weights
    return path, name


def locate_run(run: str | Path) -> Path:
    """Return the path of a run; a run that is named hub:OWNER/NAME is downloaded first.

    Raises:
        UserError: if the run on the Hub cannot be downloaded or is not published.
    """
    if not names_repository(run):
        return Path(os.path.expanduser(run))

    def choose(names: list[str]) -> list[str]:
        if MANIFEST not in names:
            raise UserError(f"{run} is not a run of ddim: it has no {MANIFEST}; `ddim push` uploads runs")
        return [name for name in FILES if name in names]

    return fetch(parse_repository(run), "model", choose)


def read_checkpoint(run: str | Path, read: Callable[[Path], T], *, writes: bool = False) -> T:
    """Return `read(path)` for the checkpoint that a path means; see `parse_place`.

    Args:
        run: the path.
        read, writes: see `checkpoint.read_newest`.

    Raises:
        UserError: if there is no such checkpoint, or a checkpoint folder that is named itself is damaged.
    """
    run = locate_run(run)
    if (run / MANIFEST).is_file():
        checkpoint.verify(run)
        return read(run)
    best = names_best(run)
    content = checkpoint.read_newest((run.parent if best else run) / CHECKPOINTS, read, best, writes=writes)
    if content is not None:
        return content
    if best:
        raise UserError(f"run {run.parent} has no best checkpoint: see report.best of its recipe")
    if not run.is_dir():
        why = "is not a folder" if run.exists() else "does not exist"
        raise UserError(f"run {run} {why}{suggest_run(run)}")
    raise UserError(f"{run} is not a run, or has no undamaged checkpoint: see `ddim runs {quote(run)}`")


def find_checkpoint(run: str | Path, *, writes: bool = False) -> Path:
    """Return the folder of the checkpoint that a path means; its files are verified.

    See `checkpoint.read_newest` for `writes`.
    """
    return read_checkpoint(run, checkpoint.verify, writes=writes)


def find_run_folder(path: str | Path) -> Path:
    """Return the run folder of a path that means a run, RUN/best or a checkpoint of a run.

    A checkpoint outside a run folder is its own run.
    """
    path = Path(path)
    if names_best(path):
        return path.parent
    folder = path.resolve()
    inside = folder.parent.name == CHECKPOINTS and checkpoint.parse_step(folder.name) is not None
    return folder.parents[1] if inside else path


def names_best(run: str | Path) -> bool:
    """Return whether a path is RUN/best for a run folder RUN; it need not have a best checkpoint yet."""
    run = Path(run)
    return run.name == BEST and not run.exists() and (run.parent / CHECKPOINTS).is_dir()


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is the folder of a checkpoint or RUN/best."""
    return (path / MANIFEST).is_file() or names_best(path)


def is_run_folder(path: str | Path) -> bool:
    """Return whether a path is the folder of a run or of a checkpoint, or RUN/best."""
    path = Path(os.path.expanduser(path))
    # A folder of images may have a class of the name "checkpoints".
    return is_checkpoint(path) or (path / RUN).exists() or bool(list_checkpoints(path))


def suggest_run(run: Path) -> str:
    """Return "; perhaps you meant RUN" for a path that does not exist, or "" if no run has a similar name.

    The name is compared with the names of the runs beside the path and in runs/.
    """
    files = [file for folder in (run.parent, Path("runs")) for file in folder.glob(f"*/{RUN}")]
    runs = {file.parent.name: file.parent for file in files}
    name = suggest(run.name, runs).removeprefix(meant := "; perhaps you meant ")
    return f"{meant}{runs[name]}" if name else ""


def pin_place(text: str) -> str:
    """Return a text for `parse_place` that means the same place in every working folder, and at any time.

    A run on the Hub is downloaded first, unless the cache has it; its commit becomes part of the text.
    """
    if names_repository(text):
        return str(parse_repository(text)._replace(revision=locate_run(text).parent.name))
    return text if text.startswith("@") else str(Path(text).absolute())


# Published checkpoints


def is_published(path: Path) -> bool:
    """Return whether the checkpoint `path` is a published run."""
    return f"{PUBLISHED}.json" in checkpoint.read_manifest(path).files


def choose_published(path: Path, weights: str) -> str | None:
    """Return the name of the weights of a published run; None if `path` is not a published run.

    Args:
        path: the checkpoint.
        weights: the name that the user gave. "ema", which is the default, means the published weights.

    Raises:
        UserError: if other weights are asked for.
    """
    if not is_published(path):
        return None
    held = str(checkpoint.read_document(path, PUBLISHED)["weights"])
    if weights not in ("ema", held):
        raise UserError(f"run {path.name} was published with its weights {held} alone, got {weights!r}")
    return held
