import json
import math
from dataclasses import FrozenInstanceError, is_dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim.diffusion.grids import Listed, Quadratic, Uniform, UniformLogSNR
from ddim.diffusion.loss import EDMWeight, Objective, Unweighted
from ddim.diffusion.parameterisation import (
    CNoise,
    LogSNR,
    NoiseVariance,
    PredictsEDM,
    PredictsImage,
    PredictsNoise,
    PredictsScore,
    SignalVariance,
    Time,
    Timestep,
)
from ddim.diffusion.samplers import DDIM
from ddim.diffusion.schedules import BetaTable, Cosine, KarrasSigma, Linear, LinearBeta, LinearIn
from ddim.diffusion.times import NormalLogSNR, TableTimes, UniformTimes
from ddim.errors import UserError
from ddim.nn.clear_unet import ClearUNetSpec
from ddim.nn.ddpm_unet import DDPMUNetSpec
from ddim.nn.ema import Exponential, HalfLife, Power
from ddim.nn.residual_unet import ResidualUNetSpec
from ddim.nn.unet import UNetSpec
from ddim.recipe import codec
from ddim.recipe.codec import dump, list_fields, load_recipe, override, read_recipe, write_recipe
from ddim.recipe.named import clear, fast, find_recipe
from ddim.recipe.recipe import LOSS, Data, Fixed, Measured, Optim, Recipe, Report, build_model
from options import options
from oracles import made

OPTIM = Recipe().optim

positive = st.floats(1e-6, 1e6)
rates = st.tuples(st.floats(1e-3, 0.4), st.floats(0.5, 1.0))
# Any text that a file name can have, surrogates (bytes that are no UTF-8) among it.
words = st.text(st.characters(), min_size=1).filter(str.strip)
levels = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        *(
            st.lists(part, min_size=n, max_size=n).map(tuple)
            for part in (st.integers(2, 300), st.integers(0, 3), st.integers(0, 3), st.booleans())
        )
    )
)
recipes = st.builds(
    Recipe,
    name=words,
    data=st.builds(
        Data,
        source=words,
        size=st.tuples(st.integers(8, 1024), st.integers(8, 1024)),
        channels=st.sampled_from([None, 1, 3, 4]),
        flip=st.booleans(),
        validation=st.floats(0, 0.99),
        dequantise=st.booleans(),
    ),
    pixels=st.one_of(st.builds(Measured, positive), st.builds(Fixed, positive, positive)),
    net=st.one_of(
        levels.map(lambda level: UNetSpec(*level)),
        st.builds(
            DDPMUNetSpec,
            width=st.sampled_from([32, 64, 96]),
            head=st.sampled_from([None, 8]),
            eps=positive,
            resample=st.sampled_from(["same", "strided", "box", "blur"]),
            embedding=st.sampled_from(["sin_cos", "cos_sin", "fourier"]),
            sde=st.booleans(),
            classes=st.integers(0, 9),
        ),
        st.builds(ClearUNetSpec, patch=st.integers(1, 2), heads=st.integers(1, 8)),
        st.builds(
            ResidualUNetSpec, middle=st.lists(st.integers(1, 64), max_size=3).map(tuple), keras=st.booleans()
        ),
    ),
    schedule=st.one_of(
        rates.map(lambda pair: Cosine(*pair)),
        st.builds(LinearBeta, st.floats(1e-3, 1), st.floats(2, 100)),
        st.builds(
            Linear,
            entries=st.integers(2, 10_000),
            clip=st.sampled_from(["none", "rates", "powers"]),
            read=st.sampled_from(["floor", "log_snr"]),
        ),
        st.builds(
            BetaTable,
            entries=st.integers(2, 10_000),
            betas=st.sampled_from(["cosine", "quad", "const", "sigmoid"]),
        ),
        st.builds(KarrasSigma, st.floats(1e-4, 0.1), st.floats(1, 1e3), st.none() | st.floats(0.5, 50)),
    ),
    predicts=st.one_of(
        *map(st.builds, (PredictsNoise, PredictsImage, PredictsScore)), st.builds(PredictsEDM, positive)
    ),
    conditioning=st.one_of(
        st.builds(NoiseVariance),
        st.builds(SignalVariance),
        st.builds(LogSNR, positive),
        st.builds(CNoise, positive, positive),
        st.builds(Time, positive),
        st.builds(Timestep, st.none() | st.integers(1, 9999)),
    ),
    objective=st.builds(
        Objective,
        on=st.sampled_from(["noise", "image", "velocity"]),
        error=st.sampled_from(["l1", "mse", "huber"]),
        times=st.one_of(
            st.builds(UniformTimes, st.floats(0, 0.9)),
            st.builds(NormalLogSNR, st.floats(-9, 9), positive),
            st.builds(TableTimes, st.none() | st.integers(1, 9999)),
        ),
        weight=st.one_of(st.builds(Unweighted), st.builds(EDMWeight, positive)),
    ),
    optim=st.builds(Optim, lr=positive, betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999))),
    ema=st.one_of(
        st.builds(Exponential, st.floats(0, 0.99999)),
        st.lists(st.floats(0, 100), min_size=1, max_size=3, unique=True).map(
            lambda v: Power(v[0], tuple(v[1:]))
        ),
        st.builds(HalfLife, positive, positive),
    ),
    grid=st.one_of(
        st.sampled_from([Uniform(), Quadratic(), UniformLogSNR(3.3)]),
        st.sets(st.floats(1e-9, 1), min_size=1).map(lambda t: Listed(tuple(sorted(t, reverse=True)))),
    ),
    sampler=st.builds(DDIM, st.floats(0, 1)),
    clip=st.sampled_from([False, True, "x0"]),
    report=st.builds(Report, checkpoint=positive),
    minutes=positive,
    images=st.one_of(st.none(), st.integers(1, 10**12)),
    seed=st.integers(0, 2**32 - 1),
)


@given(recipes)
def test_a_recipe_survives_json_yaml_and_being_set_field_by_field(recipe):
    assert load_recipe(json.loads(json.dumps(dump(recipe)))) == recipe
    assert load_recipe(codec.yaml.load(write_recipe(recipe), codec._Loader)) == recipe
    written = {
        path: ",".join(map(str, value)).lower() if isinstance(value, tuple) and value else value
        for path, _, value in list_fields(recipe)
    }
    assert override(Recipe(), written) == recipe


def test_a_recipe_survives_a_file(tmp_path):
    recipe = Recipe(
        name="blüten", data=Data(source="/tmp/on"), grid=Listed((1.0, 1e-5)), objective=Objective("image")
    )
    for name in ("recipe.yaml", "recipe.json"):
        text = write_recipe(recipe) if name.endswith("yaml") else json.dumps(dump(recipe))
        (tmp_path / name).write_text(text)
        assert read_recipe(tmp_path / name) == recipe


def test_clipping_is_a_truth_value_or_x0():
    for text, clip in (("yes", True), ("no", False), ("x0", "x0")):
        assert override(Recipe(), {"clip": text}).clip == clip


def test_recipes_are_values():
    assert Recipe() == Recipe()
    assert replace(Recipe(), sampler=DDIM(0.5)) != Recipe()
    assert hash(Recipe()) == hash(Recipe())
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 1


def list_kinds(kind):
    """Every kind that a value of this kind may hold, itself first."""
    yield kind
    for slot in codec.list_slots(kind):
        for inner in slot.kinds.values():
            yield from list_kinds(inner)


def test_a_recipe_may_hold_every_kind_of_every_family():
    for family in codec.FAMILIES.values():
        assert set(family.values()) <= set(list_kinds(Recipe))


@pytest.mark.parametrize(
    "data",
    [
        {"os.system": {"command": "true"}},
        {"kind": "os.system"},
        {"schedule": {"kind": "os.system", "command": "true"}},
        {"schedule": {"kind": ["cosine"]}},
        {"schedule": {"kind": "uniform"}},  # a kind of another field
        {"schedule": {"__class__": "Recipe"}},
        {"net": {"network": "x"}},
        {"schedule": 5},
        {"schedule": None},
        {"schedule": ["cosine"]},
        {1: 2},
        {None: 2},
        {"name": None},
        {"name": ["a"]},
        {"name": ""},
        {"grid": "listed"},
        {"seed": 1.5},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": True},
        {"seed": 10**400},
        {"seed": math.nan},
        {"seed": {"a": 1}},
        {"minutes": math.inf},
        {"minutes": "1e999"},
        {"minutes": 0},
        {"images": 0},
        {"data": {"flip": "maybe"}},
        {"data": {"flip": 1}},
        {"data": {"size": [64]}},
        {"data": {"size": [64, 64, 3]}},
        {"data": {"size": [0, 64]}},
        {"data": {"size": "64x"}},
        {"data": {"channels": 2}},
        {"data": {"validation": 1}},
        {"optim": {"betas": [0.9, 1.0]}},
        {"optim": {"batch": 10, "accumulate": 3}},
        {"net": {"kind": "residual_unet", "max_frequency": 0}},
        {"net": {"kind": "residual_unet", "middle": [0]}},
        {"net": {"widths": [16, 32]}},
        {"net": {"widths": [], "down": [], "up": [], "attention": []}},
        {"net": {"told": 0}},
        {"net": {"down": [-1, 1, 1, 2]}},
        {"pixels": {"kind": "fixed", "std": 0}},
        {"ema": {"kind": "half_life", "images": 0}},
        {"augment": {"probability": 2}, "net": {"augment": 9}},
        {"net": {"augment": -1}},
        {"objective": {"on": "noize"}},
        [],
        "fast",
        None,
        5,
    ],
    ids=str,
)
def test_impossible_recipes_are_refused_in_one_sentence(data):
    with pytest.raises(UserError) as refused:
        load_recipe(data)
    assert "\n" not in str(refused.value)


def test_missing_fields_take_their_defaults():
    assert load_recipe({}) == Recipe()
    assert load_recipe({"schedule": "linear", "ema": {"kind": "power"}}) == Recipe(
        schedule=Linear(), ema=Power()
    )
    assert load_recipe({"conditioning": {"scale": 5}}) == Recipe(conditioning=LogSNR(5.0))
    # Without a kind, the other fields are those of the default recipe; with a kind, those of its class.
    assert load_recipe({"schedule": {"max_signal": 0.9}}).schedule == replace(fast().schedule, max_signal=0.9)
    assert load_recipe({"schedule": {"kind": "cosine", "max_signal": 0.9}}).schedule == Cosine(max_signal=0.9)


def test_the_default_recipe_is_fast():
    assert replace(Recipe(), name="fast") == fast()


def test_a_number_stands_once():
    """Parts take the entries of the schedule and the deviation of the pixels."""
    for name in ("ddpm", "iddpm"):
        recipe = override(find_recipe(name), {"schedule.entries": "500"})
        entries = {value for path, _, value in list_fields(recipe) if path.endswith(".entries")}
        assert entries == {500}
        assert write_recipe(recipe).count("500") == 1
    edm = override(find_recipe("edm"), {"pixels.std": "0.25"})
    assert {value for path, _, value in list_fields(edm) if path.endswith("sigma_data")} == {0.25}
    assert override(find_recipe("edm"), {"pixels": "fixed"}).predicts.sigma_data == 0.5
    assert override(Recipe(), {"predicts": "edm"}).predicts.sigma_data == 1.0
    narrow = override(find_recipe("ddpm"), {"sampled_on": "linear", "sampled_on.entries": "100"})
    assert (narrow.grid.entries, narrow.conditioning.entries) == (100, 1000)
    assert override(find_recipe("ddpm"), {"schedule": "cosine"}).conditioning.entries == 1000


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"schedule.clip": "powers", "schedule": "linear"}, Recipe(schedule=Linear(clip="powers"))),
        ({"grid": "listed", "grid.times": "1, 0.5,1e-3"}, Recipe(grid=Listed((1.0, 0.5, 1e-3)))),
        (
            {"objective.times": "normal_log_snr", "objective.times.mean": "-2", "objective.on": "image"},
            Recipe(objective=replace(LOSS, on="image", times=NormalLogSNR(-2.0, 2.5))),
        ),
        ({"objective": {"times": "normal_log_snr"}, "objective.times.std": 1}, None),
        (
            {"optim.lr": "3e-4", "images": "1e5", "seed": 7},
            Recipe(optim=replace(OPTIM, lr=3e-4), images=100_000, seed=7),
        ),
        ({"data.size": "32"}, Recipe(data=Data(size=(32, 32)))),
        ({"data.size": "64x96"}, Recipe(data=Data(size=(64, 96)))),
        ({"data.size": "(64, 96)"}, Recipe(data=Data(size=(64, 96)))),
        ({"data.size": [64, 96], "data.flip": "no"}, Recipe(data=Data(size=(64, 96), flip=False))),
        ({"data.channels": "none", "data.source": "none"}, Recipe(data=Data(source="none"))),
        ({"data.source": 2024}, Recipe(data=Data(source="2024"))),
        # None of these is possible alone.
        (
            {"net.widths": "16,32", "net.down": "0,1", "net.up": "1,1", "net.attention": "false,true"},
            Recipe(net=UNetSpec(widths=(16, 32), down=(0, 1), up=(1, 1), attention=(False, True))),
        ),
        (
            {"optim.accumulate": "96", "optim.batch": "96"},
            Recipe(optim=replace(OPTIM, batch=96, accumulate=96)),
        ),
        (
            {"schedule.max_signal": "0.015", "schedule.min_signal": "0.01"},
            Recipe(schedule=Cosine(0.01, 0.015)),
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("turned", [False, True])
def test_fields_are_set_by_path_in_any_order(changes, wanted, turned):
    wanted = wanted or Recipe(objective=replace(LOSS, times=NormalLogSNR(std=1.0)))
    order = dict(reversed(changes.items())) if turned else changes
    before = json.dumps(changes)
    assert override(Recipe(), order) == wanted
    assert json.dumps(changes) == before


def test_a_kind_keeps_nothing_of_the_kind_before():
    recipe = override(Recipe(schedule=Cosine(0.1, 0.5)), {"schedule": "linear"})
    assert recipe.schedule == Linear()
    assert override(recipe, {"schedule": "cosine"}).schedule == Cosine()


def test_naming_the_present_kind_keeps_its_fields():
    """The arm of a sweep that names what the recipe has is the recipe."""
    recipe = fast()
    assert Cosine(0.02, 0.95) != recipe.schedule
    assert override(recipe, {"schedule": "cosine", "ema": "power", "sampler": "dpm_solver"}) == recipe
    narrower = override(recipe, {"schedule": "cosine", "schedule.max_signal": 0.95})
    assert narrower.schedule == replace(recipe.schedule, max_signal=0.95)


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("optim.lrr", "1", "perhaps you meant optim.lr"),
        ("lr", "1", "perhaps you meant optim.lr"),
        ("schedul", "linear", "perhaps you meant schedule"),
        ("objective.time", "uniform_times", "perhaps you meant objective.times"),
        ("schedule", "lineer", "perhaps you meant linear"),
        ("objective.on", "nois", "perhaps you meant noise"),
        ("ema.decay", "1", "ema.decay is not a field of this kind; it is a field of exponential"),
        ("grid.shares", "1,2", "grid.shares is not a field of this kind; it is a field of sections"),
        ("grid.xyzzyx", "1", "grid.xyzzyx is not a field of a recipe"),
        ("name.x", "1", "name must be text"),
        ("schedule.min_signal.x", "1", "min_signal must be a number"),
        ("optim.lr", "fast", "optim.lr must be a number, got 'fast'"),
        ("images", "1.5", "images must be a whole number or none, got"),
        ("clip", "x1", "clip must be true or false or x0, got 'x1'"),
        ("clip", "none", "clip must be true or false or x0, got 'none'"),
        ("data.flip", "", "data.flip must be true or false"),
        ("net.down", "1,,2", "net.down must be a list of whole numbers, got '1,,2'"),
    ],
)
def test_an_error_names_the_field_and_a_similar_one(path, value, said):
    with pytest.raises(UserError) as refused:
        override(Recipe(), {path: value})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("data: {flip: no, source: off}", Recipe(data=Data(flip=False, source="off"))),
        ("data: {flip: true}\noptim: {lr: 1e-4}", Recipe(optim=replace(OPTIM, lr=1e-4))),
        ("data: {source: 2024-05-01}", Recipe(data=Data(source="2024-05-01"))),
        ("images: null", Recipe()),
        ('{"seed": 3}', Recipe(seed=3)),
        # YAML 1.1 reads "on" as true, and with it the name of a field of the objective.
        ("objective:\n  on: velocity\n", Recipe(objective=replace(LOSS, on="velocity"))),
    ],
)
def test_yaml_as_people_write_it_is_read(text, wanted, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(tmp_path / "recipe.yaml") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "name: !!python/object/apply:os.system ['touch canary']",
        "schedule: !!python/object/new:ddim.diffusion.schedules.Cosine []\nname: !!python/name:os.system",
        "schedule: !!python/module:os",
        "!cosine {min_signal: 0.1}",
        "seed: !!int foo",
        "[" * 5000,
        "net: &n {widths: *n}",
        "{[1]: 2}",
        "- [",
        "a: b: c",
        "\x00",
        "\t- x",
        "",
        "just words",
        "--- 1\n--- 2",
        "seed: !!int ''",
        "minutes: !!float ''",
        "name: !!timestamp x",
        "name: !!binary x",
        "seed: !!bool x",
        "name: !!pairs [x]",
        f"name: [{'x' * 20_000}]",
        f"{'x' * 100_000}: 1",
        f"net: {'x' * 100_000}",
        "[" * 100_000,
        "a: {" * 50_000,
        "? " * 50_000,
        "- " * 50_000,
        "x" * 2**19,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_hostile_and_broken_files_are_refused_in_one_sentence(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_bytes(text.encode())
    with pytest.raises(UserError) as refused:
        read_recipe(tmp_path / "recipe.yaml")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_file_that_cannot_be_read_is_a_users_error(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: blüten".encode("latin-1"))
    for path in (tmp_path / "latin.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_recipe(path)


def test_a_choice_that_may_be_none_is_set_and_unset_by_text():
    narrow = override(clear(), {"sampled_on.quantity": "log_snr"})
    assert narrow.sampled_on == LinearIn("log_snr", 3.0, -10.0)
    assert load_recipe(dump(narrow)) == narrow
    assert override(narrow, {"sampled_on": "none"}).sampled_on is None
    assert override(narrow, {"sampled_on": None}).sampled_on is None
    assert override(Recipe(), {"sampled_on": "linear", "sampled_on.entries": "9"}).sampled_on == Linear(9)
    assert ("sampled_on", "none") in [(path, value) for path, _, value in list_fields(Recipe())]
    with pytest.raises(UserError, match="schedule must be one of cosine"):
        override(Recipe(), {"schedule": "none"})
    with pytest.raises(UserError, match="linear_path, none, got 'nome'; perhaps you meant none"):
        override(narrow, {"sampled_on": "nome"})
    with pytest.raises(UserError, match="sampled_on must be one of .*, got 'none'"):
        override(narrow, {"sampled_on": "none", "sampled_on.quantity": "angle"})


def test_every_field_is_listed_once_with_its_value_and_what_is_possible():
    rows = list_fields(Recipe())
    paths = [path for path, _, _ in rows]
    assert len(set(paths)) == len(paths)
    possible = {path: text for path, text, _ in rows}
    assert (
        possible["schedule"]
        == "cosine | linear | linear_beta | beta_table | linear_in | karras_sigma | linear_path"
    )
    assert possible["sampled_on"] == possible["schedule"] + " | none"
    assert possible["objective.on"] == "one of noise, image, velocity, flow"
    assert possible["images"] == "a whole number or none"
    assert possible["clip"] == "true or false or x0"
    assert not any(is_dataclass(value) for _, _, value in rows)


def test_a_model_has_the_shape_and_choices_of_its_recipe():
    small = "net.widths=8 net.down=1 net.up=1 net.attention=no data.size=16x24 predicts=edm"
    recipe = override(Recipe(), options(small))
    model = made(lambda: build_model(recipe, 4))
    assert model.blank(2).shape == (2, 4, 16, 24)
    assert (model.schedule, model.predicts, model.conditioning) == (
        recipe.schedule,
        PredictsEDM(1.0),
        LogSNR(),
    )
    assert model(model.blank(2), torch.tensor(0.5)).x0.shape == (2, 4, 16, 24)
