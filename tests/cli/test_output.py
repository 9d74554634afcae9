"""What every command prints: a result on standard output, talk on standard error."""

import io
import json
import math
import os
from argparse import Namespace
from pathlib import Path

import pytest

import tiny
from ddim.cli import COMMANDS
from ddim.cli.output import print_result, say
from ddim.cli.streams import drop_unread_output
from ddim.errors import Interrupted, escape, quote
from ddim.runs.checkpoint import find_newest
from run_folders import make
from terminal import run_in_terminal

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    return tiny.train(
        tiny.recipe(optim__warmup=0, schedule__max_signal=0.99995), tmp_path_factory.mktemp("run") / "one"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_quiet(name, command):
    said = command(*name.split(), "--help").out
    assert "--json" in said
    assert "--quiet" in said


def test_json_has_paths_as_text_and_null_for_what_is_not_finite(capsys):
    result = {"folder": Path("a"), 3: (1.5, math.inf), "inner": {"nan": math.nan, "none": None}}
    print_result(Namespace(json=True), result, "a text")
    wanted = {"folder": "a", "3": [1.5, None], "inner": {"nan": None, "none": None}}
    assert json.loads(capsys.readouterr().out) == wanted


@pytest.mark.parametrize("words", [["a b"], ["a b", "--json"]])
@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_silences_talk_and_keeps_results_and_errors(words, quiet, monkeypatch, command):
    def run(args):
        say("talk")
        print_result(args, ["result"], "result")
        raise ValueError("broken")

    monkeypatch.setattr("ddim.cli.report.run", run)
    out, err = command("report", *words, *["--quiet"] * quiet, code=1)
    assert json.loads(out) == ["result"] if "--json" in words else out == "result\n"
    assert ("talk" in err) is not quiet
    assert "ddim: ValueError: broken" in err


WORDS = {
    "sample": (["-n", 2, "--steps", 2], {"folder", "seeds", "nfe", "times"}),
    "likelihood": (["-n", 2, "--steps", 5], {"folder", "bits", "method"}),
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.usefixtures("here")
def test_json_is_the_whole_result_and_nothing_else(name, run, command):
    words, fields = WORDS[name]
    out, err = command(*name.split(), run, *words, "--json", "--quiet")
    assert fields <= set(json.loads(out))
    assert err == ""


@pytest.mark.parametrize("name", WORDS)
def test_quiet_prints_the_folder_alone(name, run, here, command):
    words, _ = WORDS[name]
    out, err = command(name, run, *words, "--quiet")
    assert (here / out.removesuffix("\n") / "record.json").is_file()
    assert err == ""


def test_runs_are_a_list_of_their_values(run, command):
    found = json.loads(command("runs", run.parent, "--json").out)
    assert [each["folder"] for each in found] == [str(run)]
    assert found[0]["state"] == "finished"


def test_out_takes_the_results_of_a_checkpoint_too(run, tmp_path, command):
    newest = find_newest(run / "checkpoints")
    before = sorted(run.rglob("*"))
    command("likelihood", newest, *WORDS["likelihood"][0], "--out", tmp_path / "new" / "results")
    assert sorted(run.rglob("*")) == before
    assert (tmp_path / "new" / "results" / "record.json").is_file()


@pytest.mark.parametrize("name", ["diagnose", "likelihood", "memorisation"])
def test_out_is_checked_before_the_work(name, run, tmp_path, monkeypatch, refused):
    def work(*args, **options):
        raise AssertionError("the work began")

    monkeypatch.setattr("ddim.machine.runtime.Runtime.__enter__", work)
    (tmp_path / "file").write_text("")
    assert f"{tmp_path} is not a new or empty folder" in refused(name, run, "--out", tmp_path)


HOSTILE = "ev\x1b[2J\x1b]0;title\x07il\r\u202e\udce9"
ESCAPED = r"ev\x1b[2J\x1b]0;title\x07il\r\u202e\udce9"


def test_messages_are_escaped_and_line_breaks_and_tabs_stay(capsys):
    say(f"one\ttwo\n{HOSTILE}")
    assert capsys.readouterr().err == f"one\ttwo\n{ESCAPED}\n"
    assert escape("Ünï 日本.png") == "Ünï 日本.png"


def test_printed_commands_are_quoted_for_the_shell_of_the_system(monkeypatch):
    assert quote("ddim", Path("my runs/a"), "x") == "ddim 'my runs/a' x"
    with monkeypatch.context() as windows:
        windows.setattr("os.name", "nt")
        shown = quote(r"runs\photos-fast-1"), quote(r"my runs\a", "x"), str(Interrupted(2, "my runs"))
    command = 'ddim train --resume --out "my runs"'
    assert shown == (r"runs\photos-fast-1", r'"my runs\a" x', f"stopped and saved; continue with `{command}`")


def test_no_name_of_a_run_controls_the_terminal(tmp_path):
    """Names of folders, of recipes and in messages; a line break in a name makes no line of its own."""
    folder = tmp_path / "runs"
    make(folder / "a\nb", name=HOSTILE[:-1])
    broken = folder / os.fsdecode(b"lat\xe9\x1b[31m")
    make(broken)
    (broken / "run.json").write_text('{"recipe": "\\u001b[31m"}')
    for words in (["runs", "runs"], ["runs", HOSTILE]):
        _, said = run_in_terminal([*tiny.COMMAND[1:], *words], tmp_path)
        assert "\x1b" not in said.replace("\x1b[0m", ""), words
        assert "\x07" not in said
        assert "\u202e" not in said
        assert not [line for line in said.splitlines() if line.startswith("b ")]
        if words == ["runs", "runs"]:
            assert r"a\nb  " in said
            assert ESCAPED[:-6] in said
            assert r"lat\udce9\x1b[31m: " in said


def test_characters_that_an_encoding_lacks_are_escaped_and_bytes_of_names_stay(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, "cp1252"))
    with drop_unread_output():
        print("Übung цвет\udce9.png")
    assert file.getvalue() == b"\xdcbung \\u0446\\u0432\\u0435\\u0442\xe9.png\n"
