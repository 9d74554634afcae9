"""The options --guidance, --guidance-interval and --guide-with."""

import json

import pytest

import tiny
from ddim.cli import main
from ddim.cli.guidance import parse_interval
from ddim.evaluation import evaluate
from ddim.evaluation import record as records
from ddim.evaluation.compare import list_differing_choices
from ddim.evaluation.conditions import evaluation_conditions
from ddim.runs import checkpoint
from ddim.runs.names import GUIDE
from stubs import stub

STEPS = ["--steps", "3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, a run of a smaller network on the same images, and a run of other images."""
    home = tmp_path_factory.mktemp("home")
    recipe = tiny.recipe(report__guide=0.3, data__validation="0.5")
    tiny.train(recipe, home / "run")
    tiny.train(tiny.recipe("batch norm", images=16, data__validation="0.5"), home / "small")
    tiny.train(tiny.recipe(images=8, data__source="blossoms:20"), home / "other")
    return home


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def test_a_guide_needs_no_labels_and_the_record_names_it(home, tmp_path, command, refused):
    words = ["sample", home / "run", "-n", 2, *STEPS, "--guidance", "2", "--guide-with", "@guide"]
    command(*words, "--guidance-interval", "-40,", "--out", tmp_path / "a")
    record = record_of(tmp_path / "a")
    path = checkpoint.find_newest(home / "run" / GUIDE)
    wanted = {"name": "@guide", "path": str(path), "step": 3, "weights": "ema"}
    assert record["guide"] == wanted | {"sha256": checkpoint.hash_checkpoint(path)}
    assert (record["guidance"], record["guidance_interval"], record["nfe"]) == (2.0, [-40.0, None], 6)
    # The same guide by another name adds to the folder; another guide, interval or scale does not.
    words[-1] = home / "run" / "guide"
    same = [*words, "--guidance-interval=-40,", "--out", tmp_path / "a"]
    assert "of which 2 were there before" in command(*same).out
    for k, other in ((-1, "@raw"), (-3, "3")):
        changed = [*words]
        changed[k] = other
        said = refused(*changed, "--guidance-interval=-40,", "--out", tmp_path / "a")
        assert f"holds samples with another {'guide' if k == -1 else 'guidance'};" in said
    assert "holds samples with another guidance_interval" in refused(*words, "--out", tmp_path / "a")


def test_guidance_that_does_nothing_gives_the_same_files(home, tmp_path, command):
    words = ["sample", home / "run", "-n", 2, *STEPS, "--out"]
    command(*words, tmp_path / "plain")
    command(*words, tmp_path / "one", "--guidance", "1", "--guide-with", "@guide")
    far = ["--guidance", "2", "--guide-with", "@guide", "--guidance-interval", "60,70"]
    command(*words, tmp_path / "far", *far)
    command(*words, tmp_path / "guided", *far[:4])
    plain, one, far, guided = (pictures(tmp_path / name) for name in ("plain", "one", "far", "guided"))
    assert plain == one == far != guided
    assert [record_of(tmp_path / name)["nfe"] for name in ("one", "far", "guided")] == [3, 3, 6]
    assert "guide" not in record_of(tmp_path / "one")


def test_a_run_of_another_network_guides(home, tmp_path, command):
    words = [
        "sample",
        home / "run",
        "-n",
        1,
        *STEPS,
        "--guidance",
        "1.5",
        "--guide-with",
        f"{home}/small@raw",
    ]
    command(*words, "--out", tmp_path / "a")
    assert {k: record_of(tmp_path / "a")["guide"][k] for k in ("step", "weights")} == {
        "step": 2,
        "weights": "raw",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guidance", "2"], "guidance needs a label"),
        (["--guidance", "2", "--guide-with", "nowhere"], "run nowhere does not exist"),
        (
            ["--guidance", "2", "--guidance-interval", "5,-2"],
            "--guidance-interval must have its lower end first",
        ),
    ],
)
def test_a_mistake_is_one_sentence(words, said, home, here, refused):
    words = [word.replace("HOME", str(home)) for word in words]
    assert said in refused("sample", home / "run", *words)
    assert list(here.iterdir()) == []


def test_a_table_has_rows_for_guidance_and_its_conditions_differ(home, monkeypatch, command):
    monkeypatch.setattr(evaluate, "load_extractor", lambda *_: stub())
    monkeypatch.setattr(evaluate, "LEAST", 2)
    words = ["evaluate", home / "run", "-n", 8, *STEPS, "--guide-with", "@guide,@raw", "--guidance", "1,2"]
    said = command(*words, "--guidance-interval", "-2,5").out
    assert all(
        f"guidance {scale}, guide with {name}" in said for name in ("@guide", "@raw") for scale in (1, 2)
    )
    folder = home / "run" / "evaluations"
    made = [
        records.read_evaluation(path) for path in sorted(folder.iterdir(), key=lambda path: int(path.name))
    ]
    assert [found.name.partition("NFE")[2] for found in made] == [
        "",
        ", guidance 2, log-SNR -2 to 5, guide @guide",
        ", guidance 2, log-SNR -2 to 5, guide @raw",
    ]
    differing = list_differing_choices(made)
    assert differing["guidance interval"] == [None, "-2 to 5", "-2 to 5"]
    assert differing["guide"][0] is None
    assert str(checkpoint.find_newest(home / "run" / GUIDE)) in differing["guide"][1]
    conditions = [evaluation_conditions(found) for found in made]
    assert len({str(each.sampling) for each in conditions}) == 3
    assert "guidance 2, log-SNR -2 to 5, guide @guide" in str(conditions[1].sampling)


def test_an_interval_is_read_from_text():
    texts = {"-2,5": (-2.0, 5.0), ",5": (None, 5.0), "-1e1,": (-10.0, None), " 0 , 1 ": (0.0, 1.0)}
    assert {text: parse_interval(text) for text in texts} == texts


def test_help_says_how_to_guide(capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--help"])
    assert "--guide-with @guide --guidance-interval -2,5" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("name", "always"), [("interpolate", True), ("vary", False)])
def test_an_interpolation_needs_a_guide_even_with_clusters(name, always, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ("(needed with --guidance)" in said) == always
    assert ("(needed with --guidance, unless RUN has clusters or vectors)" in said) != always
