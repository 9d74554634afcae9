"""The log of a run: ``metrics.jsonl``, one JSON object a line, and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from ddim.files import write_atomic

if TYPE_CHECKING:
    import numpy as np

METRICS = "metrics.jsonl"
SHOWN_EVERY = 10.0
"""Seconds between two flushes of the events. TensorBoard sees an event only after its flush."""
PACE = 5
"""Number of the last logged steps from which the pace of a run is measured."""
PAUSE = 20
"""If this many times the median time passed between two logged steps, the training was stopped there."""


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, in order; numbers that were not finite are None.

    What is not a complete line of a log, which a kill or a power cut may leave, is left out.
    """
    return [entry for _, entry in _read_lines(Path(folder))]


def measure_pace(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds for an image at the last logged steps; None if not known.

    Validations between these steps count. A pause before a resume does not.

    Args:
        lines: the last lines of the log.
    """
    recent = [line for line in lines if "loss" in line][-PACE:]
    steps = [(b["time"] - a["time"], b["images"] - a["images"]) for a, b in pairwise(recent)]
    paces = [seconds / images for seconds, images in steps if images > 0]
    kept = [pace for pace in paces if pace <= PAUSE * median(paces)]
    return (mean(kept) or None) if kept else None


class RunLog(AbstractContextManager):
    """Writes a run's ``metrics.jsonl`` and TensorBoard events; a context manager.

    Args:
        folder: the run folder.
        resumed: the step of the checkpoint that the run continues from; None starts a new log. Lines of later
            steps are removed, so that the log equals the log of an uninterrupted run, except for its times.
        due: whether the validation of step `resumed` will be repeated; the line of this validation is then
            removed too.
    """

    def __init__(self, folder: Path, resumed: int | None = None, due: bool = False) -> None:
        # tensorboardX.SummaryWriter would lose events when the process is killed: it has a queue and threads.
        from tensorboardX.event_file_writer import EventsWriter

        lines = [] if resumed is None else _read_lines(folder, resumed)
        # A line without a loss is the line of a validation.
        old = [line for line, entry in lines if not due or entry["step"] < resumed or "loss" in entry]
        write_atomic(folder / METRICS, b"".join(old))
        self._file = (folder / METRICS).open("ab")
        first = 0 if resumed is None else resumed + 1
        # Without this suffix, a run that is resumed within a second would overwrite its own events.
        self._events = EventsWriter(str(folder / "events"), f".{first}")
        self._shown = time.monotonic()
        # With this event, TensorBoard drops values of this step and later steps from earlier files.
        self._show(first, session_log={"status": "START"})

    def __exit__(self, *error: object) -> None:
        """Close both files."""
        self._events.close()
        self._file.close()

    def write(self, step: int, images: int, values: Mapping[str, float]) -> None:
        """Add one line: the step, the images seen so far, the time (Unix, s) and `values`, keyed by name.

        A value that is not finite becomes null. Write the lines of a step before its checkpoint is saved.
        """
        from tensorboardX.summary import scalar

        line: dict[str, Any] = {"step": step, "images": images, "time": time.time()}
        for name, value in values.items():
            number = value if isinstance(value, int) else float(value)
            line[name] = number if math.isfinite(number) else None
            if line[name] is not None:
                self._show(step, summary=scalar(name, number))
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Show `pixels`, (H, W, C) or (H, W) uint8, in TensorBoard as `name`."""
        from tensorboardX.summary import image

        self._show(step, summary=image(name, pixels, dataformats="HWC" if pixels.ndim == 3 else "HW"))

    def sync(self) -> None:
        """Flush everything to the disk; call it before a checkpoint is saved."""
        self._events.flush()
        os.fsync(self._file.fileno())

    def _show(self, step: int, **what: object) -> None:
        # pyrefly: ignore[missing-module-attribute] protobuf makes the class at import
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **what))
        # A flush at each event would be slow, because tensorboardX waits for the disk.
        if time.monotonic() > self._shown + SHOWN_EVERY:
            self._events.flush()
            self._shown = time.monotonic()


def _read_lines(folder: Path, last: float = math.inf) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each complete line up to step `last`, with its line break, and its content."""
    file, lines = folder / METRICS, []
    for line in file.read_bytes().split(b"\n")[:-1] if file.exists() else []:
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("step", math.inf) <= last:
                lines.append((line + b"\n", entry))
    return lines
