"""The command line as a whole: exit codes, standard streams, signals, warnings."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import ddim
import tiny
from ddim.cli import main
from ddim.cli.output import drop_unread_output, say
from ddim.errors import Interrupted, Locked, NoSpace, Notice, UserError
from ddim.machine.signals import Stopped
from run_folders import make
from terminal import run_in_terminal

RUN = Path("runs/one")
MEMORY = "the memory is full: end other programs, or use a smaller --size or --optim.batch"
SAVED = "stopped and saved; continue with `ddim train --resume --out runs/one`"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "'frobnicate' is not a command; `ddim` lists the commands"),
        (["sample"], "the following arguments are required: RUN; the newest runs: there is none"),
        (["plot", "forward", "~no-such-user/x.png"], "~no-such-user/x.png"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, said, refused):
    assert refused(*words).startswith(said)


def test_help_and_version_are_commands_too(command):
    assert "ddim train" in command("help").out
    assert command("help", "sample").out == command("sample", "--help").out
    assert command("version").out == command("--version").out == f"ddim {ddim.__version__}\n"


@pytest.fixture
def replaced(monkeypatch):
    """A function that replaces the function of `ddim train`."""
    return lambda function: monkeypatch.setattr("ddim.cli.train.train_or_resume", function)


ROOM = "Full: make room, then repeat the command, a training with --resume"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("data is missing"), 2, "data is missing"),
        (Locked("another process trains"), 4, "another process trains"),
        (Interrupted(signal.SIGINT, RUN), 130, SAVED),
        (KeyboardInterrupt(), 130, "stopped"),
        (Stopped(signal.SIGHUP), 129, "stopped"),
        (NoSpace("the disk is full"), 3, "the disk is full"),
        (OSError(errno.ENOSPC, "Full"), 3, ROOM),
        (OSError(errno.EXDEV, "Far", ".tmp-f", None, "f"), 2, "f cannot be used (Far)"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, MEMORY),
        (RuntimeError("two\n\n  lines"), 1, "RuntimeError: two lines (--debug shows the traceback)"),
    ],
)
@pytest.mark.parametrize("quiet", [[], ["--quiet", "--json"]])
def test_an_error_is_one_line_and_its_exit_code(error, code, said, quiet, replaced, command):
    def fail(**options):
        say("talk")
        raise error

    replaced(fail)
    printed = command("train", *quiet, code=code)
    lines = printed.err.splitlines()
    assert lines[:-1] == ([] if quiet else ["talk"])
    assert lines[-1] == f"ddim: {said}"
    if quiet and isinstance(error, Exception):
        assert json.loads(printed.out) == {"error": said, "exit_code": code}
    else:
        assert printed.out == ""


def test_debug_raises_the_error(replaced):
    def fail(**options):
        raise RuntimeError("broken")

    replaced(fail)
    with pytest.raises(RuntimeError, match="broken"):
        main(["train", "--debug"])


def test_a_warning_of_the_package_is_one_line(replaced, command):
    def warn(**options):
        warnings.showwarning(Notice("a file is damaged"), Notice, __file__, 1)
        raise UserError("enough")

    replaced(warn)
    assert command("train", code=2).err.splitlines() == ["ddim: a file is damaged", "ddim: enough"]


def test_only_some_commands_share_their_work_between_processes(monkeypatch, refused):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "runs in one process: call it without torchrun" in refused("recipe", "fast")


# Streams


def test_a_closed_pipe_is_not_an_error():
    code = "import sys; from ddim.cli import main; sys.exit(main(['help', 'train']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


PRESSED = """
import sys

class Press:
    def find_spec(name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Press)
sys.argv = ["ddim", "recipe"]
from ddim.__main__ import run_program
sys.exit(run_program())
"""


@pytest.mark.parametrize("module", ["ddim.cli", "ddim.cli.signatures", "ddim.cli.recipe_help"])
def test_ctrl_c_while_the_program_starts_prints_no_traceback(module):
    """As in the first tenth of a second, in which Python imports."""
    code = PRESSED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"ddim: stopped\n")


HOSTILE = "ev\x1b[2J\x1b]0;title\x07il\r\u202e\udce9"


def test_no_name_of_a_run_controls_the_terminal(tmp_path):
    """Names of folders and of recipes, also in messages; a line break in a name makes no line."""
    folder = tmp_path / "runs"
    make(folder / "a\nb", name=HOSTILE[:-1])
    broken = folder / os.fsdecode(b"lat\xe9\x1b[31m")
    make(broken)
    (broken / "run.json").write_text('{"recipe": "\\u001b[31m"}')
    for words in (["runs", "runs"], ["runs", HOSTILE], ["sample", HOSTILE]):
        _, said = run_in_terminal([*tiny.COMMAND[1:], *words], tmp_path)
        assert not {"\x1b", "\x07", "\u202e"} & {*said.replace("\x1b[0m", "")}, words
        assert not [line for line in said.splitlines() if line.startswith("b ")]


def test_characters_that_an_encoding_lacks_are_escaped(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, "cp1252"))
    with drop_unread_output():
        print("Übung цвет\udce9.png")
    assert file.getvalue() == b"\xdcbung \\u0446\\u0432\\u0435\\u0442\\udce9.png\n"
