"""Fault programmes: scripts that do harm to `ddim` again and again, in a process of their own.

`python tests/support/NAME.py FOLDER [--OPTION VALUE]` calls the function of the script with the empty folder
and the options, prints its report as JSON, and exits with 1 if the list "faults" in the report is not empty.
"""

import argparse
import inspect
import json
import subprocess
import sys
from pathlib import Path


def run_as_command(work):
    """Call `work` as the command line says; its keyword arguments are the options, which have defaults."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(work))
    parser.add_argument("folder", type=lambda text: Path(text).resolve())
    for name, option in list(inspect.signature(work).parameters.items())[1:]:
        parser.add_argument(
            f"--{name}", type=type(option.default), default=option.default, help="%(default)s"
        )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report = work(**vars(arguments))
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["faults"]))


def run_script(name, folder, **options):
    """Run the script of this name in a process of its own and return its report; fail if it has faults."""
    words = [f"--{option}={value}" for option, value in options.items()]
    command = [sys.executable, Path(__file__).with_name(f"{name}.py"), folder, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
