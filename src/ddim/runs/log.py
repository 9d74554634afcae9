"""The log of a run: ``metrics.jsonl`` and TensorBoard events."""

import json
import math
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ddim.errors import UserError, escape, format_count, warn_user
from ddim.files import make_folder, seal, unseal, write_atomic

if TYPE_CHECKING:
    import numpy as np

METRICS = "metrics.jsonl"
BLOCK = 2**16
"""The size in bytes of the parts in which the end of a log is read. A longer line counts as damaged.

A line with losses has about 240 bytes.
"""
SHOWN_EVERY = 10.0
"""Seconds between two flushes of the events. TensorBoard sees an event only after its flush."""


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, in order; numbers that were not finite are None.

    An incomplete last line, without a line break, is left out.

    Raises:
        UserError: if any other line cannot be read, or has changed since it was written.
    """
    return _read(Path(folder), lambda line: True)


def read_spread_metrics(folder: Path, names: Collection[str], most: int) -> list[dict[str, Any]]:
    """Return lines of a run's log, in order: at most `most` with a value in `names`, and `most` others.

    Both are evenly spread. The lines between them are not checked, so a long log is read quickly.

    Raises:
        UserError: if one of these lines cannot be read, or has changed since it was written.
    """
    search = re.compile("|".join(f'"{name}"' for name in names).encode()).search
    counts = Counter(search(line) is None for line in _stream(folder))
    seen = {True: 0, False: 0}

    def is_due(line: bytes) -> bool:
        kind = search(line) is None
        seen[kind] += 1
        return seen[kind] % max(1, math.ceil(counts[kind] / most)) == 0

    return _read(folder, is_due)


def read_last_metrics(folder: Path, wanted: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return lines from the end of a run's log, in order, with the last line and the last wanted values.

    The lines of the last `BLOCK` bytes are all returned. The earlier lines are searched backwards, and only
    lines with a value that is still wanted are checked and returned.

    Args:
        folder: the run folder.
        wanted: how many values that are not None are wanted, keyed by the name of the value.

    Raises:
        UserError: if a line that is checked cannot be read, or has changed since it was written.
    """
    left, found = dict(wanted), []
    for part in _parts_from_end(folder / METRICS):
        earlier = bool(found)
        if earlier and not _holds(part, left):
            continue
        for line in reversed(BytesIO(part).readlines()):
            if earlier and not _holds(line, left):
                continue
            if (entry := _entry(line)) is not None:
                found.append(entry)
                left = {name: n - (entry.get(name) is not None) for name, n in left.items()}
                left = {name: n for name, n in left.items() if n > 0}
            elif line.endswith(b"\n"):
                return read_metrics(folder)  # The error of this function has the number of the line.
        if found and not left:
            break
    return found[::-1]


class RunLog:
    """Writes a run's ``metrics.jsonl`` and TensorBoard events; a context manager.

    Args:
        folder: the run folder.
        resumed: the step of the checkpoint that the run continues from; None starts a new log. Lines of later
            steps are removed, so that the log equals the log of an uninterrupted run, except for its times.
            Damaged lines are removed with a warning, which names a copy of the old log.
        due: whether the validation of step `resumed` will be repeated; the line of this validation is then
            removed too.
        every: the number of steps between two lines with losses. If it is given, and such lines are missing
            up to step `resumed`, a warning says how many.
    """

    def __init__(
        self, folder: Path, resumed: int | None = None, due: bool = False, every: int | None = None
    ) -> None:
        # tensorboardX.SummaryWriter would lose events when the process is killed: it has a queue and threads.
        from tensorboardX.event_file_writer import EventsWriter

        kept = [] if resumed is None else _keep_lines(folder, resumed, due, every)
        write_atomic(folder / METRICS, b"".join(kept))
        self._file = (folder / METRICS).open("ab")
        first = 0 if resumed is None else resumed + 1
        # Without this suffix, a run that is resumed within a second would overwrite its own events.
        self._events = EventsWriter(str(folder / "events"), f".{first}")
        self._shown = time.monotonic()
        # With this event, TensorBoard drops values of this step and later steps from earlier files.
        self._show(first, session_log={"status": "START"})

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files."""
        self.close()

    def write(self, step: int, images: int, values: Mapping[str, float]) -> None:
        """Add one line: the step, the images seen so far, the time (Unix, s) and `values`, keyed by name.

        A value that is not finite becomes null. Write the lines of a step before its checkpoint is saved.

        Raises:
            ValueError: if a value is named "step", "images" or "time".
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
        self._file.write(json.dumps(seal(line)).encode() + b"\n")
        self._file.flush()

    def hyperparameters(self, fields: Mapping[str, str], metrics: Sequence[str]) -> None:
        """Add the run to TensorBoard's table of hyperparameters.

        Args:
            fields: the fields of its recipe, as text, keyed by field path.
            metrics: the names of the logged values that the table shows.
        """
        from tensorboardX.summary import hparams

        experiment, session, _ = hparams(
            {k: escape(v) for k, v in fields.items()}, dict.fromkeys(metrics, 0.0)
        )
        for summary in (experiment, session):
            self._show(0, summary=summary)

    def image(self, step: int, name: str, pixels: "np.ndarray") -> None:
        """Show `pixels`, (H, W, C) or (H, W) uint8, in TensorBoard as `name`."""
        from tensorboardX.summary import image

        self._show(step, summary=image(name, pixels, dataformats="HWC" if pixels.ndim == 3 else "HW"))

    def sync(self) -> None:
        """Flush everything to the disk; call it before a checkpoint is saved."""
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
        # A flush at each event would be slow, because tensorboardX waits for the disk.
        if time.monotonic() > self._shown + SHOWN_EVERY:
            self._events.flush()
            self._shown = time.monotonic()


def show_in_tensorboard(
    folder: Path, step: int, name: str, pixels: "np.ndarray", values: Mapping[str, float] | None = None
) -> None:
    """Show an image and values in TensorBoard beside the curves of a run.

    The events get a separate folder, because TensorBoard never returns to an older file of a folder. A new
    file in the folder of a running training would hide everything that the training writes later.

    Args:
        folder: the run folder.
        step: the training step of the image.
        name: the tag of the image, and the first part of the tags of the values.
        pixels: the image, (H, W, C) uint8.
        values: numbers, keyed by name.
    """
    from tensorboardX.event_file_writer import EventsWriter

    # pyrefly: ignore[missing-module-attribute] protobuf makes the class at import
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import image, scalar

    # The random suffix keeps two calls within one second from writing to the same file.
    home = folder / "events" / name
    make_folder(home)
    events = EventsWriter(str(home / "events"), f".{uuid.uuid4().hex}")
    shown = [scalar(f"{name}/{key}", value) for key, value in (values or {}).items()]
    for summary in [image(name, pixels, dataformats="HWC"), *shown]:
        events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
    events.close()


def _read(folder: Path, wanted: Callable[[bytes], bool]) -> list[dict[str, Any]]:
    """Return the lines of a log for which `wanted` returns True; see `read_metrics`."""
    metrics = []
    for number, line in enumerate(_stream(folder), 1):
        if not wanted(line):
            continue
        entry = _entry(line)
        if entry is not None:
            metrics.append(entry)
        elif line.endswith(b"\n"):
            raise UserError(
                f"{folder / METRICS}, line {number} is damaged: {line[:40]!r}; put back a copy, or resume "
                "the run, which leaves such lines out"
            )
    return metrics


def _stream(folder: Path) -> Iterator[bytes]:
    """Yield the lines of a log. A line longer than `BLOCK` is cut, and so it is damaged."""
    if _measure(folder / METRICS):
        with (folder / METRICS).open("rb") as file:
            yield from iter(lambda: file.readline(BLOCK), b"")


def _parts_from_end(path: Path) -> Iterator[bytes]:
    """Yield the content of a log in parts of about `BLOCK` bytes with whole lines, the last part first."""
    if not (end := _measure(path)):
        return
    rest = b""
    with path.open("rb") as file:
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            block = file.read(end - start)
            cut = block.find(b"\n") + 1 if start else 0
            yield block[cut:] + rest
            rest, end = block[:cut], start


def _measure(path: Path) -> int:
    """Return the size of a log in bytes; 0 if there is no log."""
    return path.stat().st_size if path.exists() else 0


def _holds(text: bytes, names: Collection[str]) -> bool:
    """Return whether lines of a log may have a value with one of the names."""
    return any(f'"{name}"'.encode() in text for name in names)


def _lines(folder: Path) -> list[bytes]:
    try:
        return BytesIO((folder / METRICS).read_bytes()).readlines()
    except FileNotFoundError:
        return []


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return a line of the log as a mapping, or None if it is incomplete, damaged or no line of a log."""
    try:
        found = json.loads(line) if line.endswith(b"\n") and len(line) <= BLOCK else None
        entry = unseal(found, METRICS) if isinstance(found, dict) else {}
    # Deeply nested brackets raise RecursionError.
    except (ValueError, RecursionError):
        return None
    numbers = all(value is None or isinstance(value, int | float) for value in entry.values())
    return entry if numbers and isinstance(entry.get("step"), int) else None


def _keep_lines(folder: Path, resumed: int, due: bool, every: int | None) -> list[bytes]:
    """Return the undamaged lines up to step `resumed`.

    If lines are damaged, warn about them, and keep a copy of the whole log. If no line is damaged, warn about
    missing lines; see `RunLog`.
    """
    kept, damaged = [], []
    missing = set(range(every, resumed + 1, every)) if every else set()
    for number, line in enumerate(_lines(folder), 1):
        entry = _entry(line)
        if entry is None:
            # A process that is killed can leave an incomplete line, of a later step than the checkpoint.
            damaged += [number] if line.endswith(b"\n") else []
        # A line without a loss is the line of a validation.
        elif entry["step"] <= resumed and not (due and entry["step"] == resumed and "loss" not in entry):
            kept.append(line)
            if "loss" in entry:
                missing.discard(entry["step"])
    if missing and not damaged:
        warn_user(
            f"{folder / METRICS} lacks {format_count(len(missing), 'line')} with losses, the first of step "
            f"{min(missing)}: put back a copy, or the curves of this run stay incomplete"
        )
    if damaged:
        k = 1
        while (copy := folder / f"damaged-{k}-{METRICS}").exists():
            k += 1
        write_atomic(copy, (folder / METRICS).read_bytes())
        lines = f"line {damaged[0]}" + (f" and {len(damaged) - 1} more" if len(damaged) > 1 else "")
        left = f"damaged lines are left out, {copy.name} is the old log"
        warn_user(f"{folder / METRICS} is damaged in {lines}: {left}")
    return kept
