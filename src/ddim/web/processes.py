"""Long work that the page starts: trainings, students and evaluations, as commands in processes of their own.

They go on when the server ends. What a command says goes into a file in the folder of the runs until it ends.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ddim.web.answers import Refused

MOST = 8
"""The largest number of commands of the page that run at the same time."""
WORKS_ON = "DDIM_WORKS_ON"
"""The variable of the environment of a command of a page: the folder that it works on."""
TAIL = 4096
"""The bytes at the end of what a command has said in which its last line is looked for."""


@dataclass
class Child:
    """A command that this server started.

    Attributes:
        name: what it does, such as "train".
        folder: the run folder that it works on.
        process: its process.
        said: the file with its standard error.
        began: when it began, in seconds since 1970.
        lock: held while the file is read or closed.
    """

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    said: IO[bytes] = field(repr=False)
    began: float
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def state(self) -> str:
        """Whether it is "running", "finished" or "failed"."""
        code = self.process.poll()
        # A command that is still importing does not catch the signal.
        stopped = (0, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
        return "running" if code is None else "finished" if code in stopped else "failed"

    @property
    def last_line(self) -> str:
        """The last line that the command has written on its standard error, "" if there is none."""
        # The process writes at the end of the same file, so the place of this file must not be moved.
        with self.lock:
            if self.said.closed:
                return ""
            size = os.fstat(self.said.fileno()).st_size
            said = os.pread(self.said.fileno(), TAIL, max(0, size - TAIL))
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
        return next(filter(None, reversed(lines)), "")

    def close(self) -> None:
        """Close the file; the command goes on."""
        with self.lock:
            self.said.close()

    @property
    def failure(self) -> str:
        """Why the command failed: the last line on its standard error; "" if it did not fail."""
        if self.state != "failed":
            return ""
        return (
            f"`ddim {self.name}`: {(self.last_line or 'it ended without a message').removeprefix('ddim: ')}"
        )


class Processes:
    """The commands that this server has started, the oldest first; several threads may use it."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._lock = threading.RLock()

    @property
    def children(self) -> list[Child]:
        """The commands that run, and of those that have ended the last one of each run."""
        with self._lock:
            return [*self._children]

    def start(self, name: str, folder: Path, words: Sequence[str]) -> None:
        """Start `ddim NAME WORDS`.

        Raises:
            Refused: if too many commands run, or the same one already works on this folder.
        """
        with self._lock:
            if len(self.running) >= MOST:
                raise Refused(429, f"{MOST} commands of this page run already; stop one of them first")
            if name in self.list_names(folder):
                raise Refused(409, f"`ddim {name}` already works on this run")
            # The file has no name; it stays open as long as the command is known.
            said = TemporaryFile()  # noqa: SIM115
            command = [sys.executable, "-m", "ddim", name, *words]
            streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
            # In a session of its own, the command does not get the Ctrl-C that ends the server.
            own = {**os.environ, WORKS_ON: str(folder.resolve())}
            process = subprocess.Popen(command, start_new_session=True, env=own, **streams)
            # Of the commands that have ended, the last one of each run is kept for what it said.
            self.forget(folder)
            self._children.append(Child(name, folder, process, said, time.time()))

    def stop(self, folder: Path) -> None:
        """Ask the last command that works on a run folder to stop; a training saves a checkpoint first.

        Raises:
            Refused: if there is none that was started from the page.
        """
        working = [child for child in self.running if child.folder == folder]
        if working:
            working[-1].process.send_signal(signal.SIGTERM)
        elif earlier := find_commands(folder):
            os.kill(max(earlier), signal.SIGTERM)
        else:
            raise Refused(409, "the page does not work on this run; stop a training where it was started")

    def find(self, folder: Path) -> Child | None:
        """Return the last command on a folder, None if there is none."""
        return next((child for child in reversed(self.children) if child.folder == folder), None)

    def list_names(self, folder: Path) -> list[str]:
        """Return the names of the commands that work on a folder, also of those of an earlier server."""
        own = {child.name for child in self.running if child.folder == folder}
        return sorted({*own, *find_commands(folder).values()})

    def forget(self, folder: Path) -> None:
        """Remove the commands on a folder that have ended."""
        with self._lock:
            for child in self.children:
                if child.folder == folder and child.state != "running":
                    child.close()
                    self._children.remove(child)

    @property
    def running(self) -> list[Child]:
        """The commands that still run."""
        return [child for child in self.children if child.state == "running"]

    def close(self) -> None:
        """Close the files of all commands; the commands go on."""
        for child in self.children:
            child.close()


def find_commands(folder: Path) -> dict[int, str]:
    """Return the commands that a page of this user has started on a folder, their names keyed by process id.

    It finds those of a server that has ended. It finds none on a system without /proc, such as macOS.
    """
    found, mark = {}, os.fsencode(f"{WORKS_ON}={folder.resolve()}")
    for path in Path("/proc").glob("[0-9]*"):
        number = int(path.name)
        with suppress(OSError):  # it has ended, or is another user's
            marked = mark in (path / "environ").read_bytes().split(b"\0")
            words = os.fsdecode((path / "cmdline").read_bytes()).split("\0")
            # Helpers of a command have its environment too, and its words or a session of their own.
            if marked and words[1:3] == ["-m", "ddim"] and os.getsid(number) == number:
                found[number] = words[3]
    return found
