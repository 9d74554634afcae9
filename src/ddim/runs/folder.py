"""The run folder: its name, its documents, its log (``metrics.jsonl``) and its TensorBoard events."""

import errno
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ddim.errors import UserError
from ddim.files import make_folder, sync_folder, write_atomic

if TYPE_CHECKING:
    import numpy as np

METRICS = "metrics.jsonl"
SHOWN_EVERY = 10.0
"""Seconds after which TensorBoard sees what was logged, at the latest when more is."""


def new_run_folder(out: Path | None, data: str, recipe: str) -> Path:
    """Create the folder of a new run: `out`, or ``runs/<data>-<recipe>-<n>`` with the next free n.

    `data` and `recipe` are names or paths; of a path the last part counts. Raises `UserError` where `out`
    holds anything or cannot be made a folder: nothing is overwritten.
    """
    if out is not None:
        check_unused(out)
    return writable(out, "runs", f"{_word(data)}-{_word(recipe)}", least=False)


def check_unused(out: Path, more: str = "") -> None:
    """UserError where `out` is neither new nor an empty folder; `more` says what else is possible."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty; give a new or empty folder{more}")


def numbered(parent: Path, stem: str = "", made: Path | None = None, *, least: bool = False) -> Path:
    """A new folder ``parent/<stem><n>``, n one more than the largest there is, or the `least` that is free.

    It is empty, or `made`, a finished folder beside it that takes this name. However close two processes are,
    each gets a folder of its own.
    """
    make_folder(parent)
    ends = [path.name.removeprefix(stem) for path in parent.iterdir() if path.name.startswith(stem)]
    n = 1 if least else max((int(end) for end in ends if end.isdecimal()), default=0) + 1
    while not _had(parent / f"{stem}{n}", made):
        n += 1
    sync_folder(parent)
    return parent / f"{stem}{n}"


def writable(out: Path | None, parent: str, stem: str, *, least: bool = True) -> Path:
    """Make the folder that --out gives, if it is not there, or by default the next ``parent/<stem>-<n>``.

    Of `least` see `numbered`. UserError where it cannot be made.
    """
    try:
        if out is None:
            return numbered(Path(parent), f"{stem}-", least=least)
        make_folder(out)
    except OSError as error:
        # The part of the path at fault, where the system says it.
        where = error.filename or out or parent
        raise UserError(f"{where} cannot be made a folder: {error.strerror}") from None
    return out


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of the run's log, in order; numbers that were not finite are None.

    A last line that was cut off is left out. Raises `UserError` where an earlier one cannot be read.
    """
    lines = _lines(folder)
    metrics = []
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is not None:
            metrics.append(entry)
        elif number < len(lines):
            raise UserError(f"{folder / METRICS}, line {number} is not a line of a run's log: {line[:40]!r}")
    return metrics


class RunLog:
    """The writer of a run's ``metrics.jsonl`` and TensorBoard events; a context manager.

    `resumed` is the step of the checkpoint that the run goes on from: what was logged after it is cut, so
    that the log becomes that of an undisturbed run (but for its times). None starts the log afresh.
    """

    def __init__(self, folder: Path, resumed: int | None = None) -> None:
        # Not tensorboardX.SummaryWriter: its queue and threads lose events when the process is killed.
        from tensorboardX.event_file_writer import EventsWriter

        write_atomic(folder / METRICS, b"".join(_kept(folder, resumed)))
        self._file = (folder / METRICS).open("ab")
        first = 0 if resumed is None else resumed + 1
        # The suffix keeps a run that is resumed within a second from writing over its own events.
        self._events = EventsWriter(str(folder / "events"), f".{first}")
        self._shown = time.monotonic()
        # TensorBoard forgets what earlier files say of this step and later ones.
        self._show(first, session_log={"status": "START"})

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files."""
        self.close()

    def write(self, step: int, images: int, values: Mapping[str, float]) -> None:
        """Add one line: the step, the images seen so far, the time (Unix, s) and `values` by name.

        A value that is not finite becomes null. Lines of the step of a checkpoint come before it is saved.
        """
        from tensorboardX.summary import scalar

        line: dict[str, Any] = {"step": step, "images": images, "time": time.time()}
        for name, value in values.items():
            if name in line:
                raise ValueError(f"a value cannot be named {name!r}: each line has that field already")
            number = value if isinstance(value, int) else float(value)
            line[name] = number if math.isfinite(number) else None
            if line[name] is not None:
                self._show(step, summary=scalar(name, number))
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def hyperparameters(self, fields: Mapping[str, str], metrics: Sequence[str]) -> None:
        """Show the fields of a recipe in TensorBoard's table of runs, beside the latest of some metrics."""
        from tensorboardX.summary import hparams

        experiment, session, _ = hparams(fields, dict.fromkeys(metrics, 0.0))
        for summary in (experiment, session):
            self._show(0, summary=summary)

    def image(self, step: int, name: str, pixels: "np.ndarray") -> None:
        """Show `pixels`, (H, W, C) or (H, W) uint8, in TensorBoard as `name`."""
        from tensorboardX.summary import image

        self._show(step, summary=image(name, pixels, dataformats="HWC" if pixels.ndim == 3 else "HW"))

    def sync(self) -> None:
        """Bring all that was logged to the disk; call it before a checkpoint is saved."""
        self._events.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close both files."""
        self._events.close()
        self._file.close()

    def _show(self, step: int, **what: object) -> None:
        # pyrefly: ignore[missing-module-attribute] protobuf makes the class at import
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **what))
        # Not at each event: tensorboardX waits for the disk whenever it flushes.
        if time.monotonic() > self._shown + SHOWN_EVERY:
            self._events.flush()
            self._shown = time.monotonic()


def show(
    folder: Path, step: int, name: str, pixels: "np.ndarray", values: Mapping[str, float] | None = None
) -> None:
    """Show a picture, (H, W, C) uint8, and values, as `name`/..., with a run in TensorBoard.

    By events in a folder of their own: TensorBoard never goes back to an older file of a folder, so that one
    beside those of a run that trains would be the last that is seen of its curves.
    """
    from tensorboardX.event_file_writer import EventsWriter

    # pyrefly: ignore[missing-module-attribute] protobuf makes the class at import
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import image, scalar

    # Two of one second would write to one file.
    home = folder / "events" / name
    make_folder(home)
    events = EventsWriter(str(home / "events"), f".{uuid.uuid4().hex}")
    shown = [scalar(f"{name}/{key}", value) for key, value in (values or {}).items()]
    for summary in [image(name, pixels, dataformats="HWC"), *shown]:
        events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
    events.close()


def _had(folder: Path, made: Path | None) -> bool:
    """Whether a name could be had; not where it is taken, in this moment or before."""
    # A rename would replace an empty folder.
    if folder.exists():
        return False
    try:
        if made is None:
            folder.mkdir()
        else:
            os.rename(made, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _word(name: str) -> str:
    last = os.path.basename(os.path.abspath(name))
    last = re.sub(r"\.(zip|tar|tgz|txz|tar\.gz|tar\.xz|yaml|yml|json)$", "", last, flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "images"


def _lines(folder: Path) -> list[bytes]:
    try:
        return (folder / METRICS).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _entry(line: bytes) -> dict[str, Any] | None:
    """The line as a mapping with a step, or None where it was cut off or is something else."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _kept(folder: Path, resumed: int | None) -> Iterator[bytes]:
    if resumed is not None:
        for line in _lines(folder):
            entry = _entry(line)
            if entry is not None and entry["step"] <= resumed:
                yield line
