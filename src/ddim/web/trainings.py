"""Start, stop and resume trainings for the page.

The trainings are separate processes, and go on when the server ends.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ddim.files import is_locked
from ddim.runs.folder import CHECKPOINTS, RUN, make_numbered_folder
from ddim.web.answers import Refused
from ddim.web.run_list import ListedRun
from ddim.web.settings import Settings

PATIENCE = 20.0
"""Seconds for which a request waits to see whether a training begins or fails."""
MOST = 8
"""The largest number of trainings of the page that run at the same time."""
LOCKS = Path("/proc/locks")
"""The list of all locks of files on this machine; only Linux has it."""
_SAID_BYTES = 4096


@dataclass
class Child:
    """A training that this server started: its folder, its process, and the file with its standard error
    (`said`).
    """

    folder: Path
    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def last_line(self) -> str:
        """Return the last line that the process wrote on standard error."""
        end = self.said.seek(0, os.SEEK_END)
        self.said.seek(max(0, end - _SAID_BYTES))
        lines = [line.strip() for line in self.said.read().decode("utf-8", "replace").splitlines()]
        return next(
            (line for line in reversed(lines) if line), "the training ended without a message"
        ).removeprefix("ddim: ")


class Trainings:
    """Starts, stops and resumes trainings in the folder of the runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: list[Child] = []

    @property
    def running(self) -> list[Path]:
        """The folders of the trainings that this server started and that still run."""
        ended = [child for child in self._children if child.process.poll() is not None]
        for child in ended:
            child.said.close()
            self._children.remove(child)
        return [child.folder for child in self._children]

    def release(self) -> None:
        """Close the files of all trainings, when the server ends; the trainings go on."""
        for child in self._children:
            child.process.poll()
            child.said.close()

    def can_stop(self, known: ListedRun) -> bool:
        """Return whether the page may stop a run."""
        return self._settings.may_train and known.run.state == "running" and known.run.sweep is None

    def can_resume(self, known: ListedRun) -> bool:
        """Return whether the page may resume a run or train it longer.

        The page may not do this with the trials of a sweep.
        """
        ended = known.run.state in ("stopped", "finished")
        saved = (known.run.path / CHECKPOINTS).is_dir()
        return self._settings.may_train and ended and saved and known.run.sweep is None

    async def start(self, source: str, words: Sequence[str], stem: str) -> Path:
        """Start a training in a new folder.

        Args:
            source: the images, as `ddim train` takes them.
            words: more options of `ddim train`.
            stem: the first part of the name of the new folder.

        Returns:
            The run folder.

        Raises:
            Refused: if the server may not train, too many trainings run, or the system starts no process; or
                if the training fails at its start, with the error of `ddim train`.
        """
        self._check_free()
        folder = make_numbered_folder(self._settings.folder, f"{stem}-")
        child = self._spawn(folder, [source, "--out", str(folder), *words])
        try:
            await self._wait_for_begin(child, (folder / RUN).is_file)
        except Refused:
            # An empty folder is not a run, so it is removed; a folder with files is kept.
            if not any(folder.iterdir()):
                folder.rmdir()
            raise
        return folder

    async def resume(self, folder: Path, minutes: float | None) -> None:
        """Resume a run; `minutes` extends it beyond its plan.

        Raises:
            Refused: if the server may not train, too many trainings run, or the system starts no process; or
                if the training fails at its start, with the error of `ddim train`.
        """
        self._check_free()
        more = [] if minutes is None else [f"--more={minutes:g}"]
        child = self._spawn(folder, ["--resume", "--out", str(folder), *more])
        await self._wait_for_begin(child, lambda: is_locked(folder))

    def stop(self, folder: Path) -> None:
        """Ask the process that trains in a folder to save a checkpoint and stop.

        Raises:
            Refused: if no process of this machine and user trains there, or the system does not tell which.
        """
        pid = find_locker(folder / ".lock") or self._find_child(folder)
        if pid is None and not LOCKS.exists():
            unknown = "this system does not tell which process trains this run"
            raise Refused(409, f"{unknown}: press Ctrl-C in its terminal, or send its process SIGTERM")
        if pid is None:
            raise Refused(409, "no process on this machine trains this run; it may run on another machine")
        try:
            os.kill(pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            raise Refused(409, "the training has ended already, or belongs to another user") from None

    def _find_child(self, folder: Path) -> int | None:
        children = [child for child in self._children if child.folder == folder]
        return next((child.process.pid for child in children if child.process.poll() is None), None)

    def _check_free(self) -> None:
        if not self._settings.may_train:
            raise Refused(403, "this server may not train: start it with --data FOLDER")
        if len(self.running) >= MOST:
            raise Refused(429, f"{MOST} trainings run already; stop one of them first")

    def _spawn(self, folder: Path, words: Sequence[str]) -> Child:
        # The file has no name; it stays open as long as the training runs.
        said = TemporaryFile()  # noqa: SIM115
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "ddim", "train", "--quiet", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                # Ctrl-C that ends the server must not end the trainings.
                start_new_session=True,
            )
        except OSError as error:
            raise Refused(503, f"the training cannot be started: {error.strerror}") from None
        child = Child(folder, process, said)
        self._children.append(child)
        return child

    async def _wait_for_begin(self, child: Child, begun: Callable[[], bool]) -> None:
        """Wait until a training has started, at most `PATIENCE` seconds. A training that reads many images
        may start later.

        Raises:
            Refused: if its process fails before it has started.
        """
        until = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < until and not begun():
            if child.process.poll() is not None:
                if child.process.returncode == 0:
                    return
                raise Refused(422, child.last_line())
            await asyncio.sleep(0.2)


def find_locker(lock: Path) -> int | None:
    """Return the id of the process that has locked a file; None if there is none or the system does not tell.

    Linux lists locks in /proc/locks: "1: FLOCK ADVISORY WRITE 123 08:01:456 0 EOF" is a lock of process 123
    on the file with inode 456.
    """
    # A link could lead to a file that another program has locked.
    if lock.is_symlink():
        return None
    try:
        inode = lock.stat().st_ino
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        found = re.search(r"FLOCK\s+ADVISORY\s+WRITE\s+(\d+)\s+[0-9a-f]+:[0-9a-f]+:(\d+)\s", line)
        if found and int(found[2]) == inode and _has_open(int(found[1]), lock):
            return int(found[1])
    return None


def _has_open(pid: int, file: Path) -> bool:
    """Return whether a process has a file open. This is checked because two drives can have equal inode
    numbers.
    """
    try:
        return any(
            os.path.samefile(link, file) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists()
        )
    except OSError:
        return False
