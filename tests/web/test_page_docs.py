"""The Python code of docs/page.md runs as it stands, and its limits are those of the server."""

import re
import shlex
from pathlib import Path

from ddim.cli import main
from ddim.web.processes import MOST
from ddim.web.settings import TOKEN_LETTERS, Limits
from serving import TOKEN

TEXT = (Path(__file__).parents[2] / "docs/page.md").read_text()
RUN = "photos-tiny-1"


def test_the_example_samples_through_the_server(server, here, capsys, monkeypatch):
    monkeypatch.setenv("DDIM_TOKEN", TOKEN)
    (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    exec(code.replace("http://127.0.0.1:8000", server.address).replace("photos-fast-1", RUN), {})
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert main([*command[1:], "--out", "own", "--quiet"]) == 0
    for seed in range(4):
        name = f"{seed:05d}.png"
        assert (here / name).read_bytes() == (here / "own" / name).read_bytes()


def test_the_limits_are_those_of_the_server():
    limits, text = Limits(), " ".join(TEXT.split())
    told = {
        "images in one request |": f"{limits.images} |",
        "sampling steps of one request |": f"{limits.steps:,} |",
        "wait for their turn |": f"{limits.waiting} |",
        "time of one request |": f"{limits.seconds:g} s;",
        "body of a request |": f"{limits.json_bytes >> 10} KiB; an upload {limits.upload_bytes >> 20} MiB |",
        "the newest": f"{limits.results} |",
        "at the same time |": f"{MOST} |",
        "at least": f"{TOKEN_LETTERS} random",
    }
    assert [name for name, value in told.items() if f"{name} {value}" not in text] == []
