"""How tests of commands run them."""

import pytest


@pytest.fixture
def refused(command):
    """A function that runs a command that must fail with exit code 2, and returns its one sentence.

    Lines about the input may stand before it.
    """

    def run(*words):
        failed = command(*words, code=2)
        errors = [line for line in failed.err.splitlines() if line.startswith("ddim: ")]
        assert failed.out == ""
        assert errors == failed.err.splitlines()[-1:]
        return errors[0].removeprefix("ddim: ")

    return run
