"""Stop commands of `ddim` with SIGINT, SIGTERM, SIGHUP and SIGUSR1 at random moments, and run them again.

`python tests/support/signals.py FOLDER [--signals 80] [--phases compile,decode,...]` runs each command once
undisturbed, and once stopped again and again. It is a fault if a stop has not the right exit code and one
sentence, leaves an unfinished file or a process behind, or if the stopped command does not end with the
results of the undisturbed one. A command that ends by itself as the signal arrives is not stopped; then its
results must be complete. It forks, as kill.py does.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ddim.evaluation.evaluate
import ddim.evaluation.search
import ddim.experiments.sweep
import ddim.metrics.features
import stubs
from ddim.machine.signals import stop_on_signals
from ddim.runs import checkpoint
from distinct_images import draw_photos
from ending import KINDS
from kill import Life
from programmes import run_as_command
from tiny import differing_files

SLOWEST = 180
"""Seconds that a stop may take: a training first ends its step; compiling the network takes over a minute."""
LAST_MOMENT = 1
"""Seconds after a signal in which a command may still end by itself, because its work was done."""
READY = "ready for signals"
OTHER = "process 1 is "
SMOKE = ["--recipe", "smoke", "--images"]
EXACT = ["--threads", "1", "--precision", "fp32"]
TRAIN = [*SMOKE, "320", *EXACT]
PLAIN = ["blossoms:60", *TRAIN, "--no-compile"]
LONGER = ["blossoms:60", *SMOKE, "960", *EXACT, "--no-compile"]
UNFINISHED = (".tmp-*", ".building-*", ".running*")


@dataclass
class Phase:
    """A command, stopped up to `longest` seconds after a line with `mark`; by default half of its duration.

    With `fresh` it starts each time with an empty cache, and without what the stopped one saved. With `two`,
    two processes share it, and the signal is sent to one of them.
    """

    words: list[str]
    mark: str = READY
    longest: float | None = None
    fresh: bool = False
    two: bool = False


def _phases(folder):
    run, photos, steps = str(folder / "run"), str(folder / "photos"), "validation images"
    events, sample = (
        ["train", *LONGER, "--report.events", "15", "--steps", "20"],
        ["sample", run, "-n", "300"],
    )
    evaluate = ["evaluate", run, "-n", "200", "--part", "train"]
    sweep = ["sweep", "blossoms:60", "--optim.lr", "1e-3,2e-3", *SMOKE, "480", "--jobs", "2"]
    return {
        "compile": Phase(["train", "blossoms:60", *TRAIN, "--compile"], steps, 15),
        "decode": Phase(["train", photos, *TRAIN, "--no-compile"], longest=1, fresh=True),
        "first step": Phase(["train", *PLAIN], steps, 0.4, fresh=True),
        "events": Phase(events, steps),
        "lr finder": Phase(["train", *PLAIN, "--find-lr"], longest=4, fresh=True),
        "two processes": Phase(events, steps, two=True),
        "distill": Phase(["distill", run, "--images", "960", "--no-compile"], steps),
        "sample": Phase(sample),
        "sample in two": Phase(sample, two=True),
        "evaluate": Phase(evaluate),
        "evaluate in two": Phase(evaluate, two=True),
        "edit": Phase(["vary", run, f"{photos}/0.png", "-n", "8", "--steps", "100"]),
        "diagnose": Phase(["diagnose", run]),
        "likelihood": Phase(["likelihood", run, "-n", "24", "--part", "train"]),
        "memorisation": Phase(["memorisation", run, "-n", "40"]),
        "plan": Phase(["plan", "blossoms:60", "--recipe", "smoke"]),
        "data": Phase(["data", photos, "--size", "32"], fresh=True),
        "search": Phase(["search", run, "--steps", "3", "-n", "2"]),
        "sweep": Phase(sweep, longest=8),
    }


def _stop_phase(folder, name, phase, count, draw):
    """Run the command of a phase undisturbed, stop it `count` times, and let it end; return the faults."""
    began, life, faults, signals = time.monotonic(), None, [], 0
    whole, stopped = (folder / f"{name} {end}" for end in ("whole", "stopped"))
    _live(folder, phase, whole).ends()
    longest = phase.longest or (time.monotonic() - began) / 2
    while signals < count:
        if phase.fresh or (life and life.code == 0):
            for left in (stopped, folder / "cache"):
                shutil.rmtree(left, ignore_errors=True)
        before, life = _newest(stopped), _live(folder, phase, stopped)
        life.wait_for(life.marked.is_set)
        _wait(life, draw.uniform(0, longest))
        wrong = [] if life.over() else _stop(life, draw.choice(KINDS), other=signals % 2)
        if life.code == 0:
            faults += wrong + find_differing(whole, stopped)
            continue
        signals, faults = signals + 1, faults + wrong + _inspect(folder, life)
        if _newest(stopped) < before:
            faults.append(f"the newest checkpoint was step {before}, and is lost")
    if stopped.exists() and not find_differing(whole, stopped):
        shutil.rmtree(stopped)  # the last signal came when all was written
    life = _live(folder, phase, stopped)
    life.ends()
    return faults + _inspect(folder, life) + find_differing(whole, stopped)


def _wait(life, seconds):
    end = time.monotonic() + seconds
    life.wait_for(lambda: time.monotonic() > end)


def _live(folder, phase, out):
    """Start the command with this output, in a group of processes of its own."""

    def prepare():
        os.setsid()
        for kind in KINDS:
            signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
        ddim.cli.stop_on_signals = _tell_when_ready
        ddim.metrics.features.load_extractor = lambda *_: stubs.stub()
        if phase.two:
            _become_two(port)

    words, port = phase.words, find_port()
    if words[0] in ("train", "distill") and (out / "run.json").exists():
        words = [*words, "--resume"] if words[0] == "train" else ["train", "--resume"]
    return Life(
        [*words, *(["--out", str(out)] if words[0] not in ("plan", "data", "search") else [])],
        prepare,
        phase.mark,
    )


def _become_two(port):
    """Fork process 1 of two, as torchrun starts them; process 0 prints its process id."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    other = os.fork()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(int(not other))
    if other:
        os.write(2, f"{OTHER}{other}\n".encode())


def find_port():
    """A port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _tell_when_ready():
    with stop_on_signals():
        os.write(2, f"{READY}\n".encode())
        yield


def _stop(life, number, other):
    """Send a signal as `kill` does, or as a terminal does to all processes; return what is wrong."""
    said, began = len(life.said), time.monotonic()
    others = [int(line.removeprefix(OTHER)) for line in life.said if line.startswith(OTHER)]
    if others:
        os.kill(others[0] if other else life.pid, number)
    else:
        (os.kill if number in (signal.SIGTERM, signal.SIGUSR1) else os.killpg)(life.pid, number)
    _wait(life, SLOWEST)
    took = time.monotonic() - began
    if not life.over():
        os.killpg(life.pid, signal.SIGKILL)
        life.over(wait=True)
    lines = life.said[said:]
    sentences = [line for line in lines if line.startswith("ddim: ")]
    # Process 0 says it alone, and torch may log a lost connection after that.
    plain = len(sentences) == 1 and bool(others or lines[-1:] == sentences)
    plain &= "Traceback" not in "".join(life.said)
    if (life.code == 128 + number and plain) or (life.code == 0 and took < LAST_MOMENT):
        return []
    return [f"signal {number}, exit code {life.code} after {took:.1f} s: {''.join(life.said[-4:])}"]


def _inspect(folder, life):
    """Remove unfinished files, temporary files, and processes that live on; return what there was."""
    faults = []
    with suppress(ProcessLookupError):
        # A worker of torch's compiler ends when it sees that its parent has ended.
        for left in range(1000, -1, -1):
            os.killpg(life.pid, 0 if left else signal.SIGKILL)
            time.sleep(0.01)
        faults.append("processes were left")
    for path in [*(folder / "tmp").iterdir(), *(path for name in UNFINISHED for path in folder.rglob(name))]:
        faults.append(f"left {path.relative_to(folder)}")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return faults


def _newest(run):
    if path := checkpoint.read_newest(run / "checkpoints", checkpoint.verify):
        checkpoint.verify(path)
    return int(path.name[5:]) if path else -1


def find_differing(whole, stopped):
    """Return the names of the results that differ from those of the undisturbed command."""
    if (whole / "checkpoints").exists():
        return differing_files(whole, stopped) if _newest(stopped) == _newest(whole) else ["step"]
    one, other = (_contents(folder) for folder in (whole, stopped))
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _contents(out):
    """Return images, the times of a search, metrics and exit codes in a folder, keyed by file name."""
    found = {path.name: path.read_bytes() for path in [*out.glob("*.png"), *out.glob("searched.json")]}
    for path in [*out.glob("record.json"), *out.glob("trials/*.outcome.json")]:
        document = json.loads(path.read_text())
        found[path.name] = document.get("metrics"), document.get("exit_code")
    return found


def stop_commands(folder, signals=80, seed=0, phases=""):
    """Stop the commands of some phases, all by default, with `signals` signals; return a report."""
    for name in ("photos", "tmp"):
        (folder / name).mkdir()
    os.chdir(folder)  # for the sheet of `ddim data`
    os.environ |= {"TMPDIR": str(folder / "tmp"), "DDIM_CACHE": str(folder / "cache")}
    # Else torch makes a folder in TMPDIR when it is imported.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache" / "compiler")
    everything, draw, faults = _phases(folder), random.Random(seed), []
    names = phases.split(",") if phases else [*everything]
    draw_photos(folder / "photos", 600)
    if any(str(folder / "run") in everything[name].words for name in names):
        _live(folder, Phase(["train", *PLAIN]), folder / "run").ends()
    for k, name in enumerate(names):
        found = _stop_phase(folder, name, everything[name], len(range(k, signals, len(names))), draw)
        faults += [f"{name}: {fault}" for fault in found]
        print(name, found, file=sys.stderr, flush=True)
    return {"signals": signals, "faults": faults}


if __name__ == "__main__":
    run_as_command(stop_commands)
