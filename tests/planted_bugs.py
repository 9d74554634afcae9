"""Plant bugs one at a time, and check that the tests beside them catch each.

Each bug is planted in a forked child: torch is imported before the fork and takes no time in it, ddim after
it, with the bug in its source. The files stay as they are. First, all named tests run without a bug and must
pass. Exits with 1 if they do not, or if a bug survives or can no longer be planted.
"""

import argparse
import os
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS / "support")]
# Threads do not survive a fork, and plugins that no test here needs take seconds to load.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

import hypothesis  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import numpy  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.stats  # noqa: E402, F401
import torch  # noqa: E402, F401
import torchvision  # noqa: E402, F401

from planted import SOURCE, Bug, find_bugs, find_fault  # noqa: E402

OPTIONS = ["-x", "--assert=plain", "--timeout=120", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
AT_ONCE = 2
PASSED, FAILED = 0, 1
"""Exit codes of pytest."""


def main(words):
    """Plant the bugs whose names hold one of the words, or all; print what came of each; the exit code."""
    begin = time.monotonic()
    bugs = [bug for bug in find_bugs() if not words or any(word in bug.name for word in words)]
    if not bugs:
        sys.exit(f"no bug has a name with {' or '.join(words)}")
    faults = {bug: fault for bug in bugs if (fault := find_fault(bug))}
    for bug, fault in faults.items():
        print(f"NOT PLANTED  {bug.name}: {fault}")
    control = Bug("(no bug)", "", "", "", tuple(dict.fromkeys(test for bug in bugs for test in bug.tests)))
    waiting, running, caught, passed = [control, *(bug for bug in bugs if bug not in faults)], {}, 0, False
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            bug, output = waiting.pop(0), tempfile.TemporaryFile()  # noqa: SIM115 (open until the child ends)
            running[start(bug, output)] = bug, output, time.monotonic()
        pid, status = os.wait()
        bug, output, began = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if bug is control:
            right = passed = code == PASSED
        else:
            right = code == FAILED
            caught += right
        names = {PASSED: "passed", FAILED: "failed" if bug is control else "caught"}
        verdict = names.get(code, f"ended with {code}")
        shown = verdict if right else verdict.upper()
        print(f"{shown:<9} {time.monotonic() - began:5.1f} s  {bug.name}", flush=True)
        if not right:
            output.seek(0)
            print(output.read().decode(errors="replace")[-2000:], flush=True)
    print(f"{caught} of {len(bugs)} caught in {time.monotonic() - begin:.0f} s")
    return int(not passed or caught < len(bugs))


def start(bug, output):
    """Fork a child that runs the tests of the bug with the bug planted; its process id."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        if bug.file:
            plant(bug)
        code = int(pytest.main([*OPTIONS, *(f"tests/{test}" for test in bug.tests)]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def plant(bug):
    """Let imports of this process find the bug in the source of its module."""
    target, load = str(SOURCE / bug.file), SourceFileLoader.get_code

    def get_code(loader, name):
        if loader.path != target:
            return load(loader, name)
        source = Path(target).read_text().replace(bug.old, bug.new)
        return compile(source, target, "exec", dont_inherit=True)

    SourceFileLoader.get_code = get_code


if __name__ == "__main__":
    os.chdir(TESTS.parent)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of the names of bugs; without one all are planted")
    sys.exit(main(parser.parse_args().words))
