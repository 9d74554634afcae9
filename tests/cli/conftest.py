"""How tests of commands run them."""

import pytest

from ddim.cli import main


@pytest.fixture
def command(capsys):
    """A function that runs a command, checks its exit code and returns what it printed (out, err).

    A text with spaces is several words.
    """

    def run(*words, code=0):
        capsys.readouterr()
        try:
            found = main(" ".join(map(str, words)).split())
        except SystemExit as end:
            found = end.code
        captured = capsys.readouterr()
        assert found == code, captured.err
        return captured

    return run


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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
