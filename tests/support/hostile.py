"""Run a command on every hostile file, and report what each command did.

`python tests/support/hostile.py FOLDER [NAME ...]` runs the cases whose names contain one of the words, by
default all. It exits with 1 unless each case is refused in one sentence, or succeeds if a part of it can be
used. In addition, no case may run a program or exceed 1 GiB of memory and 5 s of the processor. This is a
script because it forks: a case costs no import.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import hostile_archives  # noqa: F401  (it adds cases)
import hostile_images  # noqa: F401
import hostile_models  # noqa: F401
import hostile_tables  # noqa: F401
from confined import Outcome, attempt, warm_up
from hostile_cases import CASES, PARTLY


def _write(name: str, folder: Path) -> list[str]:
    """Write a case in a process of its own, whose memory does not count; return the words of its command."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, json.dumps(CASES[name](folder)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as file:
        words = file.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"case {name} could not be written")
    return json.loads(words)


def meet(name: str, folder: Path) -> tuple[Outcome, str | None]:
    """Run a case in a new folder; return what it did, and its fault or None."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = _write(name, folder)
    before = {path.name for path in folder.iterdir()}
    outcome = attempt(words, folder)
    fault = outcome.find_fault(0 if name in PARTLY else 2)
    made = {path.name for path in folder.iterdir()} - before - {".out", ".err", ".events", "cache"}
    if fault is None and made - {"data-grid.png"}:
        fault = f"wrote {sorted(made)}"
    return outcome, fault


def main() -> int:
    """Run the cases, print a line for each or a report as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warm_up()
    names = [name for name in CASES if not args.words or any(word in name for word in args.words)]
    faults: dict[str, str] = {}
    slowest, largest = 0.0, 0
    for name in names:
        outcome, fault = meet(name, args.folder / "case")
        if fault:
            faults[name] = fault
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.growth)
        said = (outcome.err.strip().splitlines() or outcome.out.strip().splitlines() or [""])[-1]
        if not args.json:
            line = f"{name}: {outcome.seconds:.1f} s, {outcome.growth >> 20} MiB: "
            print(line + (f"FAULT {fault}" if fault else said[:160]), flush=True)
    shutil.rmtree(args.folder / "case", ignore_errors=True)
    report = {"cases": len(names), "faults": faults, "seconds": round(slowest, 1), "mib": largest >> 20}
    print(json.dumps(report))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
