"""`ddim evaluate` and `ddim compare`: what they print, how they stop, and several processes."""

import json

import pytest

import tiny
from ddim.evaluation.record import read_evaluation
from ddim.machine import distributed
from ddim.machine.distributed import Processes
from ddim.metrics import features
from stubs import stub

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with 30 images held out."""
    recipe = tiny.recipe(data__source="blossoms:60", data__validation="0.5", optim__warmup="0")
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(features, "load_extractor", lambda *_: stub())


def test_an_evaluation_prints_its_verdict_first_and_its_record_as_json(run, command):
    words = ["evaluate", run, "-n", 40, "--steps", 2, "--seed", 5]
    found = json.loads(command(*words, "--json").out)
    assert found["verdict"] == "30 images are too few to say whether these images differ from real ones"
    assert (found["sampling"]["seeds"][0], found["kind"]) == (5, "evaluation")
    folder = command(*words, "--quiet").out.strip()
    evaluation = read_evaluation(run / "evaluations" / folder.rsplit("/", 1)[-1])
    assert evaluation.record["metrics"] == found["metrics"]
    assert command(*words).out.replace("\n", " ").startswith(evaluation.verdict)
    assert "note: with so few images (30)" in command(*words, "--details").out.replace("\n", " ")


def test_other_processes_take_the_results_of_process_0_and_write_no_file(run, monkeypatch, command):
    words = ("evaluate", run, "-n", 40, "--seed", 7, "--steps", "1,2")
    command(*words)
    folders = sorted((run / "evaluations").iterdir(), key=lambda folder: int(folder.name))
    found = ["the table", *map(read_evaluation, folders[-2:])]

    class Other(Processes):
        def broadcast(self, value):
            assert value is None
            return found.pop()

        def interleave(self, mine):
            return [*mine, *mine]

        def local_first(self, work):
            return work()

    before = sorted(run.rglob("*"))
    monkeypatch.setattr(distributed, "_joined", [Other(rank=1, count=2)])
    assert command(*words).out == ""
    assert sorted(run.rglob("*")) == before
    assert found == []
