"""`ddim plan`: the options of `ddim train`, and what a newcomer does wrong."""

import json

import pytest

import ddim.experiments.speed

SMALL = ("blossoms:40", "--recipe", "smoke", "--device", "cpu", "--threads", "1", "--no-compile")


@pytest.fixture(autouse=True)
def quick(monkeypatch, here):
    monkeypatch.setattr(ddim.experiments.speed, "SECONDS", 0.1)


def test_the_options_of_a_training_are_taken_and_nothing_is_written(command, here):
    found = command("plan", *SMALL, "--minutes", "0.1,1", "--size", "48", "--precision", "fp32", "--json")
    plan = json.loads(found.out)
    assert plan["size"] == [48, 48]
    assert plan["train"] == 36
    assert [row["minutes"] for row in plan["budgets"]] == [0.1, 1]
    assert plan["measured"][0]["precision"] == "fp32"
    assert plan["measured"][0]["threads"] == 1
    assert plan["measured"][0]["compiled"] is False
    assert list(here.iterdir()) == []


def test_fields_of_the_recipe_are_options(command):
    narrow = json.loads(command("plan", *SMALL, "--images", "160", "--net.widths", "8,8,8", "--json").out)
    wide = json.loads(command("plan", *SMALL, "--images", "160", "--json").out)
    assert narrow["parameters"] < wide["parameters"]
    assert narrow["budgets"][0]["images"] == 160


def test_images_from_a_file_of_the_user_are_planned(command, here):
    (here / "mine.py").write_text("import torch\nimages = torch.zeros(20, 3, 16, 16)\n")
    found = command("plan", "mine.py:images", *SMALL[1:], "--minutes", "0.1")
    assert "18 training images of 16 x 16 pixels" in found.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["blossoms:40", "--minutes", "0"], "minutes (--minutes) must be above 0, got 0"),
        (["blossoms:40", "--recipe", "fest"], "perhaps you meant fast"),
        (["blossoms:40", "--threads", "0"], "threads must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(words, said, refused, here):
    (here / "empty").mkdir()
    assert said in refused("plan", *words)
