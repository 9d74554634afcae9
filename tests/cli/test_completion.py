"""Completion of the command line in a shell."""

import shutil
import subprocess

import pytest

from ddim.cli import COMMANDS, main


def complete(script, *words):
    """What bash offers for the last of some words."""
    given = " ".join(f"'{word}'" for word in words)
    lines = f"source {script}; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _shtab_ddim 2>/dev/null"
    done = subprocess.run(
        ["bash", "-c", f'{lines}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert main(["completion", "bash"]) == 0
    (tmp_path / "ddim.bash").write_text(capsys.readouterr().out)
    assert set(complete("ddim.bash", "ddim", "")) >= set(COMMANDS)
    assert complete("ddim.bash", "ddim", "tr") == ["train"]
    assert complete("ddim.bash", "ddim", "sample", "--guid") == [
        "--guidance",
        "--guidance-interval",
        "--guide-with",
    ]
    assert complete("ddim.bash", "ddim", "plot", "sched") == ["schedule"]
    assert complete("ddim.bash", "ddim", "train", "pho") == ["photos"]
