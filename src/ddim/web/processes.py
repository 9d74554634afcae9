"""Long work that the page starts: trainings, students and evaluations, as commands in processes of their own.

They go on when the server ends. What a command says goes into a file in the folder of the runs until it ends.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ddim.web.answers import Refused

MOST = 8
"""The largest number of commands of the page that run at the same time."""


@dataclass
class Child:
    """A command that this server started.

    Attributes:
        name: what it does, such as "train".
        folder: the run folder that it works on.
        process: its process.
        said: the file with its standard error.
        began: when it began, in seconds since 1970.
    """

    name: str
    folder: Path
    process: subprocess.Popen[bytes]
    said: IO[bytes] = field(repr=False)
    began: float

    @property
    def state(self) -> str:
        """Whether it is "running", "finished" or "failed"."""
        code = self.process.poll()
        # A command that is still importing does not catch the signal.
        stopped = (0, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
        return "running" if code is None else "finished" if code in stopped else "failed"

    @property
    def failure(self) -> str:
        """Why the command failed: the last line on its standard error; "" if it did not fail."""
        if self.state != "failed":
            return ""
        self.said.seek(0)
        lines = self.said.read().decode("utf-8", "replace").splitlines()
        said = [line.strip() for line in lines if line.strip()] or ["it ended without a message"]
        return f"`ddim {self.name}`: {said[-1].removeprefix('ddim: ')}"


class Processes:
    """The commands that this server has started, the oldest first."""

    def __init__(self) -> None:
        self.children: list[Child] = []

    def start(self, name: str, folder: Path, words: Sequence[str]) -> None:
        """Start `ddim NAME WORDS`.

        Raises:
            Refused: if too many commands run, or the same one already works on this folder.
        """
        if len(self.running) >= MOST:
            raise Refused(429, f"{MOST} commands of this page run already; stop one of them first")
        if any(child.folder == folder and child.name == name for child in self.running):
            raise Refused(409, f"`ddim {name}` already works on this run")
        # The file has no name; it stays open as long as the server runs.
        said = TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "ddim", name, *words, "--quiet"]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
        # In a session of its own, the command does not get the Ctrl-C that ends the server.
        process = subprocess.Popen(command, start_new_session=True, **streams)
        # Of the commands that have ended, the last one of each run is kept for what it said.
        self.forget(folder)
        self.children.append(Child(name, folder, process, said, time.time()))

    def stop(self, folder: Path) -> None:
        """Ask the command that works on a run folder to stop; a training saves a checkpoint first.

        Raises:
            Refused: if there is none that was started here.
        """
        child = self.find(folder)
        if child is None or child.state != "running":
            raise Refused(409, "this server does not work on this run; stop a training where it was started")
        child.process.send_signal(signal.SIGTERM)

    def find(self, folder: Path) -> Child | None:
        """Return the last command on a folder, None if there is none."""
        return next((child for child in reversed(self.children) if child.folder == folder), None)

    def forget(self, folder: Path) -> None:
        """Remove the commands on a folder that have ended."""
        ended = [child for child in self.children if child.folder == folder and child.state != "running"]
        for child in ended:
            child.said.close()
            self.children.remove(child)

    @property
    def running(self) -> list[Child]:
        """The commands that still run."""
        return [child for child in self.children if child.state == "running"]

    def close(self) -> None:
        """Close the files of all commands; the commands go on."""
        for child in self.children:
            child.said.close()
