"""Measure which small changes of the code the tests notice: mutation testing by mutmut, outside CI.

    pip install -e ".[dev,mutation]"
    python tools/mutation.py ddim.metrics --sample 150 --seed 1
    python tools/mutation.py ddim.metrics.kid

MODULE is a module or a package. Without one, all that `[tool.mutmut]` in pyproject.toml names is mutated;
without `--sample`, every mutant runs, which takes hours. Mutants and results lie in the folder mutants/; a
later full run repeats only what has changed. `mutmut show NAME` prints a mutant that survived.

Only mutants that change what the code does are counted. Mutants of a `__repr__` and of the wording of a
`raise` are left out.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_mutant_name
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
MUTMUT = str(Path(sys.executable).with_name("mutmut"))
CHILDREN = str(os.cpu_count() or 1)
KILLED = ("killed", "timeout")


def main(arguments: list[str]) -> int:
    """Run the mutants asked for, print the kill rate of each module and the survivors of a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--sample", type=int, metavar="N", help="run only N mutants, drawn at random")
    parser.add_argument("--seed", type=int, metavar="S", default=0, help="seed of the sample (default: 0)")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    names = list_mutants(options.modules or ["ddim"])
    wanted = [f"{module}.*" for module in options.modules]
    if options.sample:
        names = wanted = random.Random(options.seed).sample(names, min(options.sample, len(names)))
    # One thread a process: as many processes as cores run at once.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [MUTMUT, "run", "--max-children", CHILDREN, *wanted]
    code = subprocess.run(command, env=environment, check=False).returncode
    results = read_results(names)
    sys.stdout.write(tabulate(results))
    if options.sample:
        sys.stdout.writelines(
            f"{name}: {status}\n" for name, status in results.items() if status not in KILLED
        )
    return code


def list_mutants(modules: list[str]) -> list[str]:
    """Return the names of the mutants of modules or packages that change what the code does, sorted."""
    names = []
    for path in walk_mutatable_files():
        module = get_mutant_name(path, "")
        if any(module.startswith(f"{wanted}.") for wanted in modules):
            mutated = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
            names += [
                get_mutant_name(path, name) for name in _drop_wording(mutated.code, mutated.mutant_names)
            ]
    return sorted(names)


def read_results(names: list[str]) -> dict[str, str]:
    """Return the status of each mutant of `names` that has run, from the lines "NAME: STATUS" of mutmut."""
    command = [MUTMUT, "results", "--all", "true"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = dict(line.strip().split(": ") for line in lines if ": " in line)
    return {name: found[name] for name in names if found.get(name, "not checked") != "not checked"}


def tabulate(results: dict[str, str]) -> str:
    """Return a table of kill rates by module, with the Clopper-Pearson interval (95 %) of a sample.

    A mutant counts as killed if a test failed, or if it ran far longer than the original code.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, status in results.items():
        counts[name.partition(".x")[0]][status] += 1
        counts["all"][status] += 1
    lines = []
    for module, statuses in sorted(counts.items(), key=lambda item: (item[0] == "all", item[0])):
        killed, total = sum(statuses[status] for status in KILLED), statuses.total()
        interval = binomtest(killed, total).proportion_ci()
        rate = f"{100 * killed / total:3.0f} % ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"
        rest = ", ".join(f"{n} {status}" for status, n in statuses.most_common() if status != "killed")
        lines.append(f"{module:<45} {killed:5} of {total:5} killed, {rate}  {rest}\n")
    return "".join(lines)


class _Wording(ast.NodeTransformer):
    """Empties every string inside a `raise`."""

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:  # noqa: N802 (named by ast)
        for child in ast.walk(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                child.value = ""
        return node


def _drop_wording(code: str, names: list[str]) -> list[str]:
    """Return the names without mutants of `__repr__` and without those of the wording of a `raise` alone."""
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    bodies = {}
    for node in functions:
        name, node.name = node.name, ""
        bodies[name] = ast.dump(_Wording().visit(node))

    def changes(name: str) -> bool:
        function = name.partition("__mutmut_")[0]
        return not function.endswith("__repr__") and bodies[name] != bodies[f"{function}__mutmut_orig"]

    return [name for name in names if changes(name)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
