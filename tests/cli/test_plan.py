"""`ddim plan`: the options of `ddim train`."""

import json

import ddim.experiments.plan

SMALL = ("--recipe", "smoke", "--device", "cpu", "--threads", "1", "--no-compile", "--json")


def test_the_options_of_a_training_are_taken_and_nothing_is_written(command, here, monkeypatch):
    monkeypatch.setattr(ddim.experiments.plan, "SECONDS", 0.1)
    words = ["plan", "blossoms:40", *SMALL, "--precision", "fp32"]
    wide = json.loads(command(*words, "--minutes", "0.1,1", "--size", "48").out)
    assert (wide["size"], wide["train"]) == ([48, 48], 36)
    assert [round(row["minutes"], 6) for row in wide["rows"]] == [0.1, 1]
    runtime = wide["speed"]["runtime"]
    assert (runtime["precision"], runtime["threads"], runtime["compile"]) == ("fp32", 1, False)
    narrow = json.loads(command(*words, "--images", "160", "--net.widths", "8,8,8").out)
    assert narrow["speed"]["parameters"] < wide["speed"]["parameters"]
    assert narrow["rows"][0]["images"] == 160
    assert list(here.iterdir()) == []
    (here / "mine.py").write_text("import torch\nimages = torch.zeros(20, 3, 16, 16)\n")
    own = json.loads(command("plan", "mine.py:images", *SMALL, "--minutes", "0.1").out)
    assert (own["size"], own["train"]) == ([16, 16], 18)
