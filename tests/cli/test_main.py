"""The command line as a whole: help, versions, mistakes, exit codes."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import torch

import ddim
from ddim import cli
from ddim.cli import COMMANDS, main
from ddim.errors import Interrupted, NoSpace, NotFinite, Notice, UserError
from ddim.machine.signals import Stopped
from ddim.runs import checkpoint

HEAVY = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "rich", "yaml", "tensorboardX"}
"""Modules that take tenths of a second, or more, to import."""
RUN = Path("runs/one")
MEMORY = "the memory is full: end other programs, or use a smaller --size or --optim.batch"
SAVED = "stopped and saved; continue with `ddim train --resume --out runs/one`"


def test_help_imports_nothing_heavy():
    pages = [["--help"], [], ["--version"], ["plot", "schedule", "--help"]]
    pages += [[name, "--help"] for name in COMMANDS]
    code = f"""
import contextlib, sys
from ddim.cli import main
for words in {pages}:
    with contextlib.suppress(SystemExit):
        main(words)
sys.stderr.write(" ".join(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stderr.split()) & HEAVY == set()
    assert max(map(len, done.stdout.splitlines())) <= 110


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_the_version_is_that_of_the_package(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == f"ddim {ddim.__version__}\n"


def test_the_overview_groups_every_command(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    for group, commands in cli.GROUPS.items():
        assert f"\n{group}\n" in said
        for name, about in commands.items():
            assert f"  ddim {name:<13} {about}\n" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_each_option(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    parser = cli.build_parser(name)
    for argument in parser.arguments:
        assert argument.help or not argument.option_strings
        assert all(option in said for option in argument.option_strings)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "'frobnicate' is not a command; `ddim` lists the commands"),
        (["plot", "foward"], ", losses, got 'foward'; perhaps you meant forward; see `ddim plot --help`"),
        (["/"], "'/' is not a command; perhaps you meant `ddim train /`"),
        (["sample", "run", "--eta", "1"], "--eta is not an option of ddim sample; the recipe fields"),
        (["train", "--order", "3"], "order is not a field of a recipe; perhaps you meant sampler.order"),
        (["train", "--minutes", "1", "--images", "2"], "give --minutes or --images, not both"),
        (["train", "--optim.lr", "--recipe", "fast"], "--optim.lr needs a value"),
        (["sample"], "RUN must be given; see `ddim sample --help`"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    # A message names the newest run, and a developer may have some in the working folder.
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith(f"ddim: {said}") or said in captured.err
    assert captured.err.count("\n") == 1


def test_help_is_a_command_too(capsys):
    assert main(["help"]) == 0
    assert "ddim train" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["help", "sample"])
    assert end.value.code == 0
    assert "ddim sample RUN" in capsys.readouterr().out


@pytest.fixture
def failing(monkeypatch):
    """A function that makes `ddim train` raise an error."""

    def raising(error):
        def run(args):
            raise error

        monkeypatch.setattr(import_module("ddim.cli.train"), "run", run)

    return raising


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (lambda: UserError("data is missing"), 2, "data is missing"),
        (lambda: checkpoint.Damaged("a file is damaged"), 2, "a file is damaged"),
        (lambda: Interrupted(signal.SIGINT, RUN), 130, SAVED),
        (lambda: Interrupted(signal.SIGTERM, RUN), 143, SAVED),
        (KeyboardInterrupt, 130, "stopped"),
        (lambda: Stopped(signal.SIGHUP), 129, "stopped"),
        (lambda: NotFinite("the loss was not finite"), 1, "the loss was not finite"),
        (lambda: NoSpace("the disk is full"), 3, "the disk is full"),
        (lambda: OSError(errno.ENOSPC, "Full"), 3, "Full: make room, then repeat the command"),
        (
            lambda: OSError(errno.EDQUOT, "Used up", "f"),
            3,
            "f cannot be used (Used up): make room, then repeat the command",
        ),
        (lambda: OSError(errno.EACCES, "Not yours", "f"), 2, "f cannot be used (Not yours)"),
        (lambda: OSError(errno.EXDEV, "Far", ".tmp-f", None, "f"), 2, "f cannot be used (Far)"),
        (MemoryError, 1, MEMORY),
        (lambda: torch.OutOfMemoryError("CUDA: 2 GiB"), 1, MEMORY),
        (lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, MEMORY),
        (lambda: RuntimeError("two\n\n  lines"), 1, "RuntimeError: two lines"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(error, code, said, failing, capsys):
    failing(error())
    assert main(["train"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"ddim: {said}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("error", [UserError("said"), RuntimeError("broken")])
def test_debug_raises_the_error(error, failing):
    failing(error)
    with pytest.raises(type(error), match=str(error)):
        main(["train", "--debug"])


def test_a_warning_of_the_package_is_one_line(monkeypatch):
    def run(args):
        shown.append(warnings.formatwarning("a file is damaged", Notice, __file__, 1))
        shown.append(warnings.formatwarning("deprecated", UserWarning, os.__file__, 1))
        return 0

    shown, usual = [], warnings.formatwarning
    monkeypatch.setattr(import_module("ddim.cli.train"), "run", run)
    assert main(["train"]) == 0
    assert shown[0] == "ddim: a file is damaged\n"
    assert os.__file__ in shown[1]
    assert warnings.formatwarning is usual


def test_commands_import_neither_the_compiler_nor_pyplot(tmp_path):
    """The compiler takes two seconds, which torchvision's networks would take too."""
    code = (
        "import sys\nimport ddim.cli.console, ddim.evaluation.evaluate\n"
        "from ddim.cli import main\nfrom ddim.sampling.record import list_versions\n"
        "list_versions()\nassert main(['plot', 'schedule']) == 0\n"
        "sys.exit(bool({'torch._dynamo', 'matplotlib.pyplot'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)


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
sys.argv = ["ddim", "runs"]
from ddim.__main__ import run_program
sys.exit(run_program())
"""


@pytest.mark.parametrize("module", ["ddim.cli", "ddim.cli.parser", "ddim.cli.runs"])
def test_ctrl_c_while_the_program_starts_prints_no_traceback(module):
    """As in the first tenth of a second, in which Python imports."""
    done = subprocess.run(
        [sys.executable, "-c", PRESSED.format(module=module)], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"ddim: stopped\n")
