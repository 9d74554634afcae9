"""Bugs that a person might make, which named tests must catch; `tests/planted_bugs.py` plants them."""

import runpy
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE, TESTS = ROOT / "src" / "ddim", ROOT / "tests"


class Bug(NamedTuple):
    """A bug: `old`, which stands once in `file` of the package, becomes `new`; one of `tests` must then fail.

    A test is file::name, relative to the folder tests.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def bug(name, file, change, *tests):
    """Return a bug with any number of tests; `change` is "old => new"."""
    old, _, new = change.partition(" => ")
    return Bug(name, file, old, new, tests)


def find_bugs():
    """Collect the bugs of all lists, ``planted_bugs.py`` in the folders of the tests that must catch them."""
    lists = (runpy.run_path(str(path))["BUGS"] for path in sorted(TESTS.glob("*/planted_bugs.py")))
    return [found for bugs in lists for found in bugs]


def find_fault(found):
    """Return what keeps a bug from being planted, or None."""
    count = (SOURCE / found.file).read_text().count(found.old)
    if count != 1:
        return f"its text stands {count} times in {found.file}"
    if found.old == found.new or not found.tests:
        return "it changes nothing, or names no test"
    for test in found.tests:
        file, _, name = test.partition("::")
        if f"def {name}(" not in (TESTS / file).read_text():
            return f"{test} does not exist"
    return None
