"""The Python code of docs/page.md runs as it stands, and its limits are those of the server."""

import re
import shlex
from pathlib import Path

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


def test_the_limits_are_those_of_the_server():
    limits = Limits()
    lines = [
        f"images in one request | {limits.images} |",
        f"sampling steps of one request | {limits.steps:,} |",
    ]
    lines += [f"wait for their turn | {limits.waiting} |", f"time of one request | {limits.seconds:g} s;"]
    lines += [
        f"body of a request | {limits.json_bytes >> 10} KiB; an upload {limits.upload_bytes >> 20} MiB |"
    ]
    lines += [
        f"the newest {limits.results} |",
        f"at the same time | {MOST} |",
        f"at least {TOKEN_LETTERS} random",
    ]
    assert [line for line in lines if line not in " ".join(TEXT.split())] == []
