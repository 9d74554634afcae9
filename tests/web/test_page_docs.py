"""The Python code of docs/page.md runs as it stands, and its limits are those of the server."""

import re
import shlex
from pathlib import Path

import pytest

from ddim.cli import main
from ddim.web.processes import MOST
from ddim.web.settings import TOKEN_LETTERS, Limits

TEXT = (Path(__file__).parents[2] / "docs/page.md").read_text()
RUN = "photos-tiny-1"


def test_the_example_samples_through_the_server(server, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:8000", server.address).replace("photos-fast-1", RUN), {})
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main([*command[1:], "--out", "own", "--quiet"]) == 0
    for seed in range(4):
        name = f"{seed:05d}.png"
        assert (tmp_path / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        f"images in one request | {Limits().images} |",
        f"sampling steps of one request | {Limits().steps:,} |",
        f"wait for their turn | {Limits().waiting} |",
        f"time of one request | {Limits().seconds:g} s;",
        f"body of a request | {Limits().json_bytes >> 10} KiB; an upload {Limits().upload_bytes >> 20} MiB |",
        f"the newest {Limits().results} |",
        f"at the same time | {MOST} |",
        f"at least {TOKEN_LETTERS} random",
    ],
)
def test_the_limits_are_those_of_the_server(words):
    assert words in " ".join(TEXT.split())
