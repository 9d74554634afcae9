"""Run a command in a forked process with little memory and time, and with a canary for code that runs."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

MEMORY = 2**30
"""Bytes that a command may use in addition to what the process uses at rest."""

SECONDS = 5.0
"""Seconds of the processor that a command may use, together with the processes that it starts."""

_PATIENCE = 60.0  # seconds of the clock, after which a command counts as blocked
_RUNS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.",
    "pty.",
    "socket.connect",
)


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: its exit code; negative for a signal; None if it had to be killed because it did not end.
        out: its standard output.
        err: its standard error.
        seconds: seconds of the processor, with those of the processes that it started.
        growth: bytes of memory in addition to what the process used at rest.
        events: what it did and must not do: started programs, and opened files outside of its folder.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    growth: int
    events: list[str] = field(default_factory=list)

    def find_fault(self, code: int = 2) -> str | None:
        """Return what is wrong with the outcome of a hostile file; None if nothing is.

        A refused command ends with exit code 2 and prints one sentence; a file of which a part can be used
        ends with `code` 0.
        """
        # Standard error also has the progress of reading.
        lines = [line for line in self.err.splitlines() if line.startswith("ddim: ")]
        # A damaged checkpoint is set aside with a sentence of its own.
        lines = [line for line in lines if "it is skipped, and was renamed to" not in line]
        if self.events:
            return f"did {self.events[:3]}"
        if self.code is None:
            return "did not end"
        if self.code != code:
            return f"exit code {self.code}, not {code}: {self.err[-300:]!r}"
        if code == 2 and (len(lines) != 1 or self.err.splitlines()[-1] != lines[0]):
            return f"more than a sentence: {self.err[-500:]!r}"
        if not all(line.isprintable() for line in (self.out + self.err).splitlines()):
            return f"control characters: {self.err[-500:]!r}"
        if code == 2 and len(lines[0]) > 1000:
            return f"a sentence of {len(lines[0])} letters"
        if "Error:" in self.err or "Traceback" in self.err or "--debug" in self.err:
            return f"an error of Python: {self.err[-500:]!r}"
        if self.seconds > SECONDS:
            return f"{self.seconds:.1f} s"
        if self.growth > MEMORY:
            return f"{self.growth / 2**20:.0f} MiB"
        return None


def warm_up() -> None:
    """Import what commands import, so that this counts as the state at rest."""
    import torch

    import ddim.cli
    import ddim.data.open
    import ddim.runs.generate
    import ddim.runs.image_summary
    import ddim.runs.importing
    import ddim.training.run  # noqa: F401

    # The first call writes a file to find out which folder can be used.
    tempfile.gettempdir()
    torch.set_num_threads(1)
    gc.collect()


def attempt(words: list[str], folder: Path, memory: int = MEMORY) -> Outcome:
    """Run `ddim WORDS` in `folder`, and return what it did.

    The process may open files for writing only in `folder` and in its cache, `folder`/cache.
    """
    out, err, events = (folder / f".{name}" for name in ("out", "err", "events"))
    sys.stdout.flush()
    sys.stderr.flush()
    rest = _resident()
    child = os.fork()
    if child == 0:
        _run(words, folder, memory, (out, err, events))
    code, usage = _wait(child)
    found = json.loads(events.read_text()) if events.exists() and events.stat().st_size else []
    seconds = usage.ru_utime + usage.ru_stime
    growth = max(0, usage.ru_maxrss * 1024 - rest)
    text = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    return Outcome(code, *text, seconds, growth, found)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _mapped() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _run(words: list[str], folder: Path, memory: int, files: tuple[Path, ...]) -> None:
    code = 99
    try:
        for number, path in enumerate(files[:2], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        os.environ["DDIM_CACHE"] = str(folder / "cache")
        events: list[str] = []
        resource.setrlimit(resource.RLIMIT_AS, (_mapped() + memory, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (30, 31))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(_Canary(folder, events))
        from ddim.cli import main

        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        files[2].write_text(json.dumps(events))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Canary:
    """Note each program that is started, and each file written elsewhere."""

    def __init__(self, folder: Path, events: list[str]) -> None:
        self.roots, self.events = (str(folder.resolve()), "/dev/", "/tmp/ddim-"), events

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if event.startswith(_RUNS):
            self.events.append(f"{event} {args}")
        elif event == "open" and _writes(args) and isinstance(args[0], str | bytes):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not path.startswith(self.roots):
                self.events.append(f"wrote {path}")
        elif event == "open" and "canary" in str(args[0]):
            self.events.append(f"opened {args[0]}")


def _writes(args: tuple[object, ...]) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return True
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


def _wait(child: int) -> tuple[int | None, resource.struct_rusage]:
    end = time.monotonic() + _PATIENCE
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > end:
            os.kill(child, 9)
            return None, os.wait4(child, 0)[2]
        time.sleep(0.01)
