"""`ddim distill`: options, mistakes, and a student that is resumed by `ddim train`."""

import json

import pytest

import tiny
from ddim.sampling.pipeline import read_run_recipe

FAST = ["--threads", "1", "--precision", "fp32", "--no-compile"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run that no test changes."""
    return tiny.train(tiny.recipe(report__guide=0.3), tmp_path_factory.mktemp("teacher") / "run")


def test_the_student_of_a_command_is_resumed_and_sampled(here, teacher, command):
    words = ["--images", "40", "--optim.warmup", "0", "--out", "student", *FAST]
    said = command("distill", teacher, *words)
    assert said.out == "student\n"
    assert "recipe tiny-distilled" in said.err
    assert "learns its teacher" not in said.err
    recipe = read_run_recipe("student")
    assert (recipe.images, recipe.optim.warmup, recipe.steps) == (40, 0, 2)
    begun = json.loads((here / "student" / "run.json").read_text())
    assert begun["source"] == str(teacher.resolve())
    assert "is finished" in command("train", "--resume", "--out", "student").err
    sampled = json.loads(command("sample", "student", "-n", "2", "--json").out)
    assert (sampled["nfe"], len(sampled["times"])) == (2, 2)
    (line,) = command("distill", teacher, *words, code=2).err.splitlines()
    assert line.startswith("ddim: ")
    assert "student" in line


def test_a_student_learns_the_guided_run_and_samples_in_as_few_evaluations(here, teacher, command):
    words = ["--guidance", "2", "--guide-with", "@guide", "--guidance-interval", "-2,"]
    said = command("distill", teacher, *words, "--images", "16", "--out", "student", *FAST).err
    assert "learns its teacher with guidance 2, log-SNR above -2, guide @guide\n" in said
    loss = read_run_recipe("student").objective
    assert (loss.guidance, loss.interval, loss.guide) == (2.0, (-2.0, None), "@guide")
    assert loss.teacher.startswith(str(teacher.resolve()))
    sampled = json.loads(command("sample", "student", "-n", "2", "--json").out)
    assert (sampled["nfe"], sampled["guidance"]) == (2, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing"], "run missing does not exist"),
        (["RUN", "--guidance", "2"], "guidance needs a label"),
        (
            ["RUN", "--guidance", "2", "--guide-with", "@guide", "--guidance-interval", "5,-2"],
            "lower end first",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, said, here, teacher, refused):
    words = [teacher if word == "RUN" else word for word in words]
    assert said in refused("distill", *words)
    assert not list(here.iterdir())
