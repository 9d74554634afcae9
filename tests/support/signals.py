"""Stop commands of `ddim` with SIGINT, SIGTERM, SIGHUP and SIGUSR1 at random moments, and run them again.

`python tests/support/signals.py FOLDER [--signals 80] [--phases compile,decode,...] [--seed 0]` runs each
command once undisturbed, and once stopped again and again. It prints a report as JSON, and exits with 1
unless every stop had the right exit code, left no unfinished file and no process behind, and the stopped
command ended with the results of the undisturbed one. A command that ends by itself as the
signal arrives is not stopped; then its results must be complete. It is a script because it forks, as kill.py
does.
"""

import argparse
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
from pathlib import Path
from types import SimpleNamespace

import ddim.evaluation.evaluate
import ddim.evaluation.search
import ddim.experiments.sweep
import ddim.metrics.features
import stubs
from ddim.machine.signals import stop_on_signals
from ddim.runs import checkpoint
from distinct_images import draw_photos
from kill import Life, different, wait_for

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
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

    With `fresh` it starts each time with an empty cache, and without what the stopped one saved. With
    `alone` false, two processes share it, and the signal is sent to one of them. A command without --out has
    `out` false.
    """

    name: str
    words: list[str]
    mark: str = READY
    longest: float | None = None
    fresh: bool = False
    alone: bool = True
    out: bool = True


def _phases(folder):
    run, events = str(folder / "run"), ["--report.events", "15", "--steps", "20"]
    return [
        Phase("compile", ["train", "blossoms:60", *TRAIN, "--compile"], "validation images", 15),
        Phase("decode", ["train", str(folder / "photos"), *TRAIN, "--no-compile"], longest=1, fresh=True),
        Phase("first step", ["train", *PLAIN], "validation images", 0.4, fresh=True),
        Phase("events", ["train", *LONGER, *events], "validation images"),
        Phase("lr finder", ["train", *PLAIN, "--find-lr"], longest=4, fresh=True),
        Phase("two processes", ["train", *LONGER, *events], "validation images", alone=False),
        Phase("distill", ["distill", run, "--images", "960", "--no-compile"], "validation images"),
        Phase("sample", ["sample", run, "-n", "300"]),
        Phase("sample in two", ["sample", run, "-n", "300"], alone=False),
        Phase("evaluate", ["evaluate", run, "-n", "200", "--part", "train"]),
        Phase("evaluate in two", ["evaluate", run, "-n", "200", "--part", "train"], alone=False),
        Phase("edit", ["vary", run, str(folder / "photos" / "0.png"), "-n", "8", "--steps", "100"]),
        Phase("diagnose", ["diagnose", run]),
        Phase("likelihood", ["likelihood", run, "-n", "24", "--part", "train"]),
        Phase("memorisation", ["memorisation", run, "-n", "40"]),
        Phase("plan", ["plan", "blossoms:60", "--recipe", "smoke"], out=False),
        Phase("data", ["data", str(folder / "photos"), "--size", "32"], out=False, fresh=True),
        Phase("search", ["search", run, "--steps", "3", "-n", "2"]),
        Phase(
            "sweep",
            ["sweep", "blossoms:60", "--optim.lr", "1e-3,2e-3", *SMOKE, "480", "--jobs", "2"],
            longest=8,
        ),
    ]


def _stop_phase(folder, phase, count, draw):
    """Run the command of a phase undisturbed, stop it `count` times, and let it end; return what was seen."""
    result = SimpleNamespace(signals=0, right_code=0, slowest=0.0, completed=0, litter=[], wrong=[])
    began = time.monotonic()
    whole, stopped = (folder / f"{phase.name} {name}" for name in ("whole", "stopped"))
    # Compiling takes a minute, and those runs are only checked to go on.
    if phase.name != "compile":
        _live(folder, phase, whole).ends(0)
    longest = phase.longest or (time.monotonic() - began) / 2
    life = None
    while result.signals < count:
        if phase.fresh or (life and life.code == 0):
            for left in (stopped, folder / "cache"):
                shutil.rmtree(left, ignore_errors=True)
        before, life = _newest(stopped), _live(folder, phase, stopped)
        wait_for(life, life.marked.is_set)
        _wait(life, draw.uniform(0, longest))
        if life.over():
            life.ends(0)
            result.completed += 1
            result.wrong += find_differing(whole, stopped) if whole.exists() else []
            continue
        _stop(life, draw.choice(STOPS), result, lambda: whole.exists() and not find_differing(whole, stopped))
        _inspect(folder, life, result)
        if _newest(stopped) < before:
            result.wrong.append(f"the newest checkpoint was step {before}, and is lost")
    if stopped.exists() and whole.exists() and not find_differing(whole, stopped):
        shutil.rmtree(stopped)  # the last signal came when all was written
    life = _live(folder, phase, stopped)
    life.ends(0)
    _inspect(folder, life, result)
    result.wrong += find_differing(whole, stopped) if whole.exists() else []
    return result


def _wait(life, seconds):
    end = time.monotonic() + seconds
    wait_for(life, lambda: time.monotonic() > end)


def _live(folder, phase, out):
    """Start the command with this output, in a group of processes of its own."""

    def prepare():
        os.setsid()
        for kind in STOPS:
            signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
        ddim.cli.stop_on_signals = _tell_when_ready
        ddim.metrics.features.load_extractor = lambda *_: stubs.stub()
        if not phase.alone:
            _become_two(port)

    words, port = phase.words, find_port()
    if words[0] in ("train", "distill") and (out / "run.json").exists():
        words = [*words, "--resume"] if words[0] == "train" else ["train", "--resume"]
    return Life([*words, *(["--out", str(out)] if phase.out else [])], prepare, phase.mark)


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


def _stop(life, number, result, complete):
    """Send a signal as `kill` does, or as a terminal does to all processes; time the end.

    `complete` says whether the command has all the results of the undisturbed one.
    """
    said, began = len(life.said), time.monotonic()
    others = [int(line.removeprefix(OTHER)) for line in life.said if line.startswith(OTHER)]
    if others:
        os.kill(others[0] if result.signals % 2 else life.pid, number)
    else:
        (os.kill if number in (signal.SIGTERM, signal.SIGUSR1) else os.killpg)(life.pid, number)
    _wait(life, SLOWEST)
    took = time.monotonic() - began
    if not life.over():
        os.killpg(life.pid, signal.SIGKILL)
        life.over(wait=True)
    if life.code == 0 and took < LAST_MOMENT and complete():
        result.completed += 1
        return
    right, lines = life.code == 128 + number, life.said[said:]
    sentences = [line for line in lines if line.startswith("ddim: ")]
    # Process 0 says it alone, and torch may log a lost connection after that.
    plain = len(sentences) == 1 and bool(others or lines[-1:] == sentences)
    plain &= "Traceback" not in "".join(life.said)
    result.signals, result.right_code = result.signals + 1, result.right_code + right
    result.slowest = round(max(result.slowest, took), 2)
    if not (right and plain and took <= SLOWEST):
        what = f"signal {number}, exit code {life.code} after {took:.1f} s"
        result.wrong.append(f"{what}: {''.join(life.said[-4:])}")


def _inspect(folder, life, result):
    """Note unfinished files, temporary files, and processes that live on."""
    with suppress(ProcessLookupError):
        # A worker of torch's compiler ends when it sees that its parent has ended.
        for left in range(1000, -1, -1):
            os.killpg(life.pid, 0 if left else signal.SIGKILL)
            time.sleep(0.01)
        result.wrong.append("processes were left")
    found = [path for pattern in UNFINISHED for path in folder.rglob(pattern)]
    found += (folder / "tmp").iterdir()
    for path in found:
        result.litter.append(str(path.relative_to(folder)))
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _newest(run):
    if path := checkpoint.find_newest(run / "checkpoints"):
        checkpoint.verify(path)
    return int(path.name[5:]) if path else -1


def find_differing(whole, stopped):
    """Return the names of the results that differ from those of the undisturbed command."""
    if (whole / "checkpoints").exists():
        return different(whole, stopped) if _newest(stopped) == _newest(whole) else ["step"]
    one, other = (_contents(folder) for folder in (whole, stopped))
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _contents(out):
    """Return images, the times of a search, metrics and exit codes in a folder, keyed by file name."""
    found = {path.name: path.read_bytes() for path in [*out.glob("*.png"), *out.glob("searched.json")]}
    for path in [*out.glob("record.json"), *out.glob("trials/*.outcome.json")]:
        document = json.loads(path.read_text())
        found[path.name] = document.get("metrics"), document.get("exit_code")
    return found


def report():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--signals", type=int, default=80)
    parser.add_argument("--phases", help="names, with commas between them (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder, draw, began = args.folder.resolve(), random.Random(args.seed), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("photos", "tmp"):
        (folder / name).mkdir(parents=True)
    os.chdir(folder)  # for the sheet of `ddim data`
    os.environ |= {"TMPDIR": str(folder / "tmp"), "DDIM_CACHE": str(folder / "cache")}
    # Else torch makes a folder in TMPDIR when it is imported.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache" / "compiler")
    chosen = [p for p in _phases(folder) if not args.phases or p.name in args.phases.split(",")]
    draw_photos(folder / "photos", 600)
    if any(str(folder / "run") in phase.words for phase in chosen):
        _live(folder, Phase("run", ["train", *PLAIN]), folder / "run").ends(0)
    found = {}
    for k, phase in enumerate(chosen):
        count = args.signals // len(chosen) + (k < args.signals % len(chosen))
        found[phase.name] = vars(_stop_phase(folder, phase, count, draw))
        print(phase.name, found[phase.name], file=sys.stderr, flush=True)
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "phases": found}))
    return any(r["wrong"] or r["litter"] or r["right_code"] < r["signals"] for r in found.values())


if __name__ == "__main__":
    sys.exit(report())
