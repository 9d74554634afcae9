"""`ddim ablate` prints one table for any run."""

import pytest

import tiny
from ddim.cli import main
from ddim.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a second."""
    folder = tmp_path_factory.mktemp("run") / "one"
    return train(None, tiny.recipe(images="16"), out=folder, machine=tiny.MACHINE)


def test_a_run_is_ablated(run, capsys):
    assert main(["ablate", str(run), "--evaluations", "3", "--seeds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(("edm", "vp", "ve", "iddpm"))]
    assert [row[:2] for row in rows] == [
        [name, solver] for name in ("edm", "vp", "ve", "iddpm") for solver in ("euler", "heun")
    ]
    table = {tuple(row[:2]): row[2:] for row in rows}
    assert all(len(row) == 6 and all(float(value) >= 0 for value in row) for row in table.values())
    ways = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("VP", "VE", "DDIM"))}
    assert ways["DDIM"][:2] == [table["iddpm", "euler"][0], table["iddpm", "heun"][0]]
    assert ways["VP"][0] == table["vp", "euler"][5]
    assert ways["VE"][3] == table["edm", "heun"][0]
    assert sum(line.startswith("gamma") for line in lines) == 3


@pytest.mark.parametrize(
    "words, said",
    [
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--evaluations", "2"], "--evaluations must be at least 3, got 2"),
        (["--end", "2"], "--end must lie between 0 and 1, got 2"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, words, said):
    assert main(["ablate", str(run), *words]) == 2
    assert said in capsys.readouterr().err
