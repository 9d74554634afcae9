"""Recipes as values, as JSON and YAML, and as fields that are set by path."""

import json
import math
from dataclasses import replace

import pytest
import yaml
from hypothesis import given, strategies as st

from ddim.diffusion.grids import Listed
from ddim.diffusion.loss import Weighting
from ddim.diffusion.schedules import Cosine, Linear, LinearIn
from ddim.diffusion.times import NormalLogSNR, TimeSampling
from ddim.errors import UserError
from ddim.nn.ema import Power
from ddim.nn.unet import UNetSpec
from ddim.recipe import codec
from ddim.recipe.codec import dump, load_recipe, override, read_recipe, walk_slots, write_recipe
from ddim.recipe.named import RECIPES, clear, fast, find_recipe
from ddim.recipe.recipe import FAMILIES, LOSS, Data, Recipe

OPTIM = Recipe().optim

positive = st.floats(1e-6, 1e6)
# Any text that a file name can have, surrogates (bytes that are no UTF-8) among it.
words = st.text(st.characters(), min_size=1).filter(str.strip)
times = st.sets(st.floats(1e-9, 1), min_size=1).map(lambda each: sorted(each, reverse=True))
PARTS = [(slot.name, slot.kinds) for slot in codec.list_slots(Recipe) if len(slot.kinds) > 1]
PARTS += [("objective.times", FAMILIES[TimeSampling]), ("objective.weight", FAMILIES[Weighting])]
kinds = {
    path: st.sampled_from(sorted({*kinds} - {"listed", "hybrid", "consistency"})) for path, kinds in PARTS
}
values = {
    "name": words,
    "data.source": words,
    "data.size": st.tuples(st.integers(8, 1024), st.integers(8, 1024)),
    "data.channels": st.sampled_from([None, 1, 3, 4]),
    "data.validation": st.floats(0, 0.99),
    "optim.lr": positive,
    "optim.betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
    "grid": times.map(lambda each: {"kind": "listed", "times": each}),
    "clip": st.sampled_from([False, True, "x0"]),
    "minutes": positive,
    "images": st.none() | st.integers(1, 10**12),
    "seed": st.integers(0, 2**63 - 1),
}
recipes = st.builds(
    lambda name, kinds, values: override(find_recipe(name), {"objective": "objective"} | kinds | values),
    st.sampled_from(sorted(RECIPES)),
    st.fixed_dictionaries({}, optional=kinds),
    st.fixed_dictionaries({}, optional=values),
)


@given(recipes)
def test_a_recipe_survives_json_yaml_and_being_set_field_by_field(recipe):
    assert load_recipe(json.loads(json.dumps(dump(recipe)))) == recipe
    assert load_recipe(yaml.load(write_recipe(recipe), yaml.BaseLoader)) == recipe
    written = {
        path: ",".join(map(str, slot.value)).lower()
        if isinstance(slot.value, tuple) and slot.value
        else slot.value
        for path, slot in walk_slots(recipe)
    }
    assert override(Recipe(), written) == recipe


@pytest.mark.parametrize(
    "data",
    [
        {"os.system": {"command": "true"}},
        {"schedule": {"kind": "os.system", "command": "true"}},
        {"schedule": {"kind": ["cosine"]}},
        {"schedule": {"kind": "uniform"}},  # a kind of another field
        {"schedule": None},
        {"name": None},
        {"grid": "listed"},
        {"seed": 1.5},
        {"seed": 10**400},
        {"seed": math.nan},
        {"minutes": "1e999"},
        {"data": {"flip": 1}},
        {"data": {"size": [64, 64, 3]}},
        {"net": {"widths": [16, 32]}},
        {"objective": {"on": "noize"}},
        [],
        "fast",
        None,
    ],
    ids=str,
)
def test_impossible_recipes_are_refused_in_one_sentence(data):
    with pytest.raises(UserError) as refused:
        load_recipe(data)
    assert "\n" not in str(refused.value)


def test_missing_fields_take_their_defaults():
    assert load_recipe({}) == Recipe() == replace(fast(), name="custom")
    assert load_recipe({"schedule": "linear", "ema": {"kind": "power"}}) == Recipe(
        schedule=Linear(), ema=Power()
    )
    # Without a kind, the other fields are those of the default recipe; with a kind, those of its class.
    assert load_recipe({"schedule": {"max_signal": 0.9}}).schedule == replace(fast().schedule, max_signal=0.9)
    assert load_recipe({"schedule": {"kind": "cosine", "max_signal": 0.9}}).schedule == Cosine(max_signal=0.9)


def test_a_number_stands_once():
    """Parts take the entries of the schedule and the deviation of the pixels."""
    for name in ("ddpm", "iddpm"):
        recipe = override(find_recipe(name), {"schedule.entries": "500"})
        entries = {slot.value for path, slot in walk_slots(recipe) if slot.name == "entries"}
        assert entries == {500}
        assert write_recipe(recipe).count("500") == 1
    edm = override(find_recipe("edm"), {"pixels.std": "0.25"})
    assert {slot.value for _, slot in walk_slots(edm) if slot.name == "sigma_data"} == {0.25}
    assert override(find_recipe("edm"), {"pixels": "fixed"}).predicts.sigma_data == 0.5
    narrow = override(find_recipe("ddpm"), {"sampled_on": "linear", "sampled_on.entries": "100"})
    assert (narrow.grid.entries, narrow.conditioning.entries) == (100, 1000)
    assert override(find_recipe("ddpm"), {"schedule": "cosine"}).conditioning.entries == 1000


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"schedule.clip": "powers", "schedule": "linear"}, {"schedule": Linear(clip="powers")}),
        ({"grid": "listed", "grid.times": "1, 0.5,1e-3"}, {"grid": Listed((1.0, 0.5, 1e-3))}),
        (
            {"objective.times": "normal_log_snr", "objective.times.mean": "-2", "objective.on": "image"},
            {"objective": replace(LOSS, on="image", times=NormalLogSNR(-2.0, 2.5))},
        ),
        (
            {"objective": {"times": "normal_log_snr"}, "objective.times.std": 1},
            {"objective": replace(LOSS, times=NormalLogSNR(std=1.0))},
        ),
        ({"images": "1e5", "seed": 7}, {"images": 100_000, "seed": 7}),
        ({"data.size": "32"}, {"data": Data(size=(32, 32))}),
        ({"data.size": "(64, 96)", "data.flip": "no"}, {"data": Data(size=(64, 96), flip=False)}),
        ({"data.channels": "none", "data.source": "none"}, {"data": Data(source="none")}),
        ({"data.source": 2024}, {"data": Data(source="2024")}),
        ({"clip": "yes"}, {"clip": True}),
        # None of these is possible alone.
        (
            {"net.widths": "16,32", "net.down": "0,1", "net.up": "1,1", "net.attention": "false,true"},
            {"net": UNetSpec(widths=(16, 32), down=(0, 1), up=(1, 1), attention=(False, True))},
        ),
        ({"schedule.max_signal": "0.015", "schedule.min_signal": "0.01"}, {"schedule": Cosine(0.01, 0.015)}),
    ],
    ids=str,
)
def test_fields_are_set_by_path_in_any_order(changes, wanted):
    before = json.dumps(changes)
    for order in (changes, dict(reversed(changes.items()))):
        assert override(Recipe(), order) == Recipe(**wanted)
    assert json.dumps(changes) == before


def test_naming_the_present_kind_keeps_its_fields_and_another_kind_keeps_none():
    """The arm of a sweep that names what the recipe has is the recipe."""
    recipe = fast()
    assert Cosine(0.02, 0.95) != recipe.schedule
    assert override(recipe, {"schedule": "cosine", "ema": "power", "sampler": "dpm_solver"}) == recipe
    narrower = override(recipe, {"schedule": "cosine", "schedule.max_signal": 0.95})
    assert narrower.schedule == replace(recipe.schedule, max_signal=0.95)
    other = override(recipe, {"schedule": "linear"})
    assert other.schedule == Linear()
    assert override(other, {"schedule": "cosine"}).schedule == Cosine()


@pytest.mark.parametrize(
    "path, value, word",
    [
        ("optim.lrr", "1", "perhaps you meant optim.lr"),
        ("lr", "1", "perhaps you meant optim.lr"),
        ("schedule", "lineer", "perhaps you meant linear"),
        ("ema.decay", "1", "ema.decay is a field of ema "),
        ("images", "1.5", "images must be a whole number or none, got"),
        ("clip", "none", "clip must be true or false or x0, got 'none'"),
        ("objective.interval", "5", r"must be a list of 2 \(a number or none\) or none, got '5'"),
        ("net.widths", "16,,32", "net.widths must be a list of whole numbers"),
    ],
)
def test_an_error_names_the_field_and_a_similar_one(path, value, word):
    with pytest.raises(UserError, match=word):
        override(Recipe(), {path: value})


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("data: {flip: no, source: off}", {"data": Data(flip=False, source="off")}),
        ("data: {flip: true}\noptim: {lr: 1e-4}", {"optim": replace(OPTIM, lr=1e-4)}),
        ("data: {source: 2024-05-01}", {"data": Data(source="2024-05-01")}),
        ("images: null", {}),
        ('{"seed": 3}', {"seed": 3}),
        ("name: !!binary x\nseed: !!str 3", {"name": "x", "seed": 3}),
        # YAML 1.1 reads "on" as true, and with it the name of a field of the objective.
        ("objective:\n  on: velocity\n", {"objective": replace(LOSS, on="velocity")}),
    ],
)
def test_yaml_as_people_write_it_is_read(text, wanted, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(tmp_path / "recipe.yaml") == Recipe(**wanted)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "schedule: !!python/object/new:ddim.diffusion.schedules.Cosine []\nname: !!python/name:os.system",
        "!cosine {min_signal: 0.1}",
        "net: &n {widths: *n}",
        "{[1]: 2}",
        "- [",
        "\x00",
        "",
        f"{'x' * 100_000}: 1",
        f"net: {'x' * 100_000}",
        "a: {" * 50_000,
        "- " * 50_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_hostile_and_broken_files_are_refused_in_one_sentence(text, here):
    (here / "recipe.yaml").write_bytes(text.encode())
    with pytest.raises(UserError) as refused:
        read_recipe(here / "recipe.yaml")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert [path.name for path in here.iterdir()] == ["recipe.yaml"]


def test_a_file_that_cannot_be_read_is_a_users_error(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: blüten".encode("latin-1"))
    for path in (tmp_path / "latin.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read|does not exist"):
            read_recipe(path)


def test_a_choice_that_may_be_none_is_set_and_unset_by_text():
    narrow = override(clear(), {"sampled_on.quantity": "log_snr"})
    assert narrow.sampled_on == LinearIn("log_snr", 3.0, -10.0)
    assert override(narrow, {"sampled_on": "none"}).sampled_on is None
    assert override(narrow, {"sampled_on": None}).sampled_on is None
    assert override(Recipe(), {"sampled_on": "linear", "sampled_on.entries": "9"}).sampled_on == Linear(9)
    for text in (",5", "none,5"):
        assert override(Recipe(), {"objective.interval": text}).objective.interval == (None, 5)
    with pytest.raises(UserError, match="schedule must be one of cosine"):
        override(Recipe(), {"schedule": "none"})
    with pytest.raises(UserError, match="perhaps you meant none"):
        override(narrow, {"sampled_on": "nome"})
