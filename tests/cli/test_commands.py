"""Every command is its public function: the same options, the same help, the same result."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from ddim.cli import main
from ddim.cli.commands import COMMANDS, GROUPS, describe_command
from ddim.cli.generate import print_result, read_arguments
from ddim.cli.parser import write_form
from ddim.cli.signatures import read_signature
from ddim.errors import UserError

HEAVY = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "rich", "yaml"}
"""Modules that take tenths of a second, or more, to import."""


def find_function(name):
    module, function = COMMANDS[name].split(":")
    return getattr(import_module(f"ddim.{module}"), function)


def show_help(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main([*name.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_options_and_words_are_the_parameters_of_the_function(name):
    signature, function = read_signature(COMMANDS[name]), inspect.signature(find_function(name))
    shown = {p.name: p for p in signature.parameters if not p.owner}
    for each in function.parameters.values():
        hidden = {"progress", "own", "fields", "machine", "ready", "watch"}
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) and each.name not in hidden:
            assert (shown[each.name].default is None) == (each.default is each.empty), each


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_docstring_on_one_screen(name, capsys, monkeypatch):
    said, signature = show_help(name, capsys, monkeypatch), read_signature(COMMANDS[name])
    lines, flat = said.splitlines(), " ".join(said.split())
    assert len(lines) <= 50
    examples = signature.doc.commands.splitlines()
    assert max(len(line) for line in lines if line.strip() not in examples) <= 80
    assert len(examples) <= 2
    about = inspect.getdoc(find_function(name)).splitlines()[0]
    assert about in flat
    assert describe_command(name) == about.removesuffix(".")
    for parameter in signature.parameters:
        assert write_form(parameter).split()[0].strip(",") in flat
        assert parameter.help, parameter.name
        assert re.split(r"(?<!\.)\. |; |, ", parameter.help)[0].removesuffix(".") in flat
        # No word is broken at the end of a line.
    assert not re.search(r"[a-z]-$", said, re.M)


def test_help_imports_nothing_heavy():
    pages = [["--help"], [], ["--version"], *([*name.split(), "--help"] for name in COMMANDS)]
    code = f"import sys\nfrom ddim.cli import main\nfor words in {pages}: main(words)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) & HEAVY == set()


def test_the_overview_shows_every_command_and_those_of_a_beginner_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([]) == 0
    said = capsys.readouterr().out
    places = [said.index(f"\n{group}:\n") for group in GROUPS]
    assert places == sorted(places)
    for name in COMMANDS:
        assert f"\n  {name:<14}{describe_command(name)[:20]}" in said
    assert max(map(len, said.splitlines())) <= 80
    assert [*next(iter(GROUPS.values()))][:2] == ["train", "sample"]


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_bash_completes_commands_options_and_choices(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "ddim.bash").write_text(capsys.readouterr().out)

    def complete(*words):
        script = f"""source {tmp_path}/ddim.bash
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_shtab_ddim; printf '%s\\n' "${{COMPREPLY[@]}}" """
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        return done.stdout.split()

    assert set(complete("ddim", "")) >= {name.split()[0] for name in COMMANDS}
    assert complete("ddim", "tr") == ["train"]
    assert complete("ddim", "sample", "--guid") == ["--guidance", "--guidance-interval", "--guide-with"]
    assert complete("ddim", "completion", "z") == ["zsh"]


# How words become values


def work(
    run: str | Path,
    *images: str,
    count: int | list[int] | None = None,
    n: int = 3,
    mode: Literal["one", "two"] = "one",
    seeds: list[int] | None = None,
    interval: tuple[float | None, float | None] | None = None,
    intervals: list[tuple[float, float]] = (),
    label: str | int | None = None,
    vector: list[float] | str | None = None,
    where: Mapping[str, str] | None = None,
    flip: bool = True,
    film: bool = False,
    fields: Mapping[str, str] | None = None,
):
    """Work."""


@pytest.fixture(scope="module")
def read():
    """A function that reads the words of the command of `work`, as if it stood in this package."""
    tree = ast.parse(inspect.getsource(work))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddim.cli.signatures.parse_module", lambda module: tree.body)
        signature = read_signature.__wrapped__("test:work")
    return lambda words: read_arguments("work", signature, words.split())


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("r a b", {"images": ["a", "b"]}),
        ("r -n 4 a --film b", {"images": ["a", "b"]}),
        ("r a -n 4 --count 5", {"n": 4, "count": 5}),
        ("--mode=two r a", {"mode": "two"}),
        ("r a --seeds 0-2,9 --seeds 11", {"seeds": [0, 1, 2, 9, 11]}),
        ("r a --interval -2,", {"interval": (-2.0, None)}),
        ("r a --intervals [-2,5],[0,5]", {"intervals": [(-2.0, 5.0), (0.0, 5.0)]}),
        ("r a --label 3", {"label": "3"}),
        ("r a --vector 3", {"vector": [3.0]}),
        ("r a --vector a.csv", {"vector": "a.csv"}),
        ("r a --where a=1 --where b=2,3", {"where": {"a": "1", "b": "2,3"}}),
        ("r a --no-flip --film", {"flip": False, "film": True}),
    ],
)
def test_words_become_values_by_the_annotations(words, values, read):
    given = read(words).given[""]
    assert given["run"] == "r"
    assert {name: given[name] for name in values} == values


def test_fields_of_a_recipe_stand_beside_options(read):
    words = "r --sampler.eta 0 a --optim.lr=1e-3 --data.range -1,1 --schedule linear"
    wanted = {"sampler.eta": "0", "optim.lr": "1e-3", "data.range": "-1,1", "schedule": "linear"}
    assert read(words).fields == wanted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "required: RUN"),
        ("r a -n x", "-n must be a whole number, got 'x'"),
        ("r a --mode tow", "--mode: invalid choice: 'tow' (choose from 'one', 'two')"),
        ("r a --interval 5", "--interval must be two numbers such as 1,2"),
        ("r a --num 3", "--num is not an option; perhaps you meant -n"),
        ("r a --eta 1", "--eta is not an option; perhaps you meant --sampler.eta"),
        ("r a --optim.lr", "--optim.lr needs a value"),
    ],
)
def test_a_mistake_is_named_with_what_was_probably_meant(words, said, read):
    with pytest.raises(UserError, match=re.escape(said)):
        read(words)


# Results


class Result:
    """A result with all parts."""

    folder, details = Path("made"), "verdict\ndetails"

    def __str__(self):
        return "verdict"

    def to_json(self):
        return {"folder": self.folder, "value": float("nan"), "pair": (1, 2)}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "verdict"),
        (("quiet",), "made"),
        (("json", "quiet"), {"folder": "made", "value": None, "pair": [1, 2]}),
    ],
)
def test_a_result_is_printed_as_its_text_folder_or_json(flags, said, capsys):
    print_result(Result(), {*flags})
    out = capsys.readouterr().out
    assert json.loads(out) == said if isinstance(said, dict) else out == f"{said}\n"


@pytest.mark.parametrize("name", ["evaluate", "sample"])
def test_commands_that_load_a_run_have_its_options(name):
    assert {"--precision", "--compile", "--device"} <= read_signature(COMMANDS[name]).options.keys()


def test_ema_has_only_the_options_that_it_uses():
    options = read_signature(COMMANDS["ema"]).options
    assert not {"--precision", "--compile", "--device", "--weights"} & options.keys()
