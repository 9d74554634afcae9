"""Measure which small changes of the code the tests notice: mutation testing by mutmut, outside CI.

    pip install -e '.[dev,mutation]'
    python tools/mutation.py [MODULE...]

MODULE is a module or a package, such as ddim.metrics.kid. Without one, all that `[tool.mutmut]` in
pyproject.toml names is mutated, which takes hours. Mutants and results lie in the folder mutants/; a later
call runs only what has changed. `mutmut show NAME` prints a mutant that survived.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHILDREN = str(os.cpu_count() or 1)


def main(modules: list[str]) -> int:
    """Mutate the modules, print the kill rate of each, and return the exit code of mutmut."""
    os.chdir(ROOT)
    mutmut = str(Path(sys.executable).with_name("mutmut"))
    patterns = [f"{module}.*" for module in modules]
    # One thread a process: as many processes as cores run at once.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [mutmut, "run", "--max-children", CHILDREN, *patterns]
    code = subprocess.run(command, env=environment, check=False).returncode
    command = [mutmut, "results", "--all", "true"]
    results = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sys.stdout.write(summarise(results, modules))
    return code


def summarise(results: str, modules: list[str]) -> str:
    """Return a table of kill rates by module, from the lines "NAME: STATUS" that mutmut prints.

    A mutant counts as killed if a test failed, or if it ran far longer than the original code.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for line in results.splitlines():
        name, _, status = line.strip().partition(": ")
        module = name.partition(".x")[0]
        asked = not modules or any(f"{module}.".startswith(f"{wanted}.") for wanted in modules)
        if asked and status not in ("", "not checked", "skipped"):
            counts[module][status] += 1
            counts["all"][status] += 1
    lines = []
    for module, statuses in sorted(counts.items(), key=lambda item: (item[0] == "all", item[0])):
        killed, total = statuses["killed"] + statuses["timeout"], statuses.total()
        rest = ", ".join(f"{n} {status}" for status, n in statuses.most_common() if status != "killed")
        lines.append(f"{module:<45} {killed:5} of {total:5} killed, {100 * killed / total:3.0f} %  {rest}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
