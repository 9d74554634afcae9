"""What holds for the source as a whole."""

import ast
import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ddim
from ddim.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGE = Path(ddim.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "rand_like"}
DRAWS |= {"randn_like", "randint_like", "normal_", "uniform_", "bernoulli_", "random_", "exponential_"}
SEEDS = {"torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.cuda.manual_seed"}
CODE = {"torch.load", "torch.save", "torch.jit", "torch.hub", "torch.package", "eval", "exec"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
GENERATORS = {"Generator", "SeedSequence", "Philox", "PCG64", "default_rng", "BitGenerator", "RandomState"}
# Bytes go in there only where their SHA-256 is known, and without code: tests/metrics/test_features.py.
ALLOWED = {"metrics/features.py": ["torch.hub", "torch.hub", "torch.load"]}
# A layer is given no generator: training sets the global one by seed and step while dropout draws from it.
ALLOWED["nn/blocks.py"] = ["torch.randint"]


def complaints(source):
    """What in a piece of source moves global randomness, or can run code from a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
            yield from (name for name in names if name and name.split(".")[0] in PICKLES | {"random"})
        name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        if name in SEEDS | CODE:
            yield name
        owner, _, last = name.rpartition(".")
        if owner in ("np.random", "numpy.random") and last not in GENERATORS:
            yield name
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, last = called.rpartition(".")
            known = {keyword.arg for keyword in node.keywords}
            if called == "np.load" and "allow_pickle=False" not in ast.unparse(node):
                yield called
            tensors = owner in ("torch", "F", "torch.nn.functional") or last.endswith("_")
            if (
                last in DRAWS
                and tensors
                and owner not in ("nn.init", "torch.nn.init")
                and "generator" not in known
            ):
                yield called
        if isinstance(node, ast.Assert):
            yield "assert"


def test_the_library_keeps_off_global_randomness_pickles_and_assertions():
    found = {path.relative_to(PACKAGE).as_posix(): sorted(complaints(path.read_text())) for path in SOURCES}
    assert {name: faults for name, faults in found.items() if faults} == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "x = torch.randn(3)",
        "torch.rand(3, device=d)",
        "x.normal_()",
        "np.random.seed(0)",
        "np.random.rand(3)",
        "import random",
        "import pickle",
        "from pickle import loads",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "torch.jit.script(f)",
        "eval(text)",
        "assert x > 0",
    ],
)
def test_the_check_above_can_fail(line):
    assert list(complaints(line))
    assert not list(complaints("torch.randn(3, generator=g)\nnp.random.Generator(b)\nx.requires_grad_()"))


@pytest.mark.parametrize(
    "module, more",
    [
        ("ddim", []),
        ("ddim.cli", []),
        ("ddim.errors", []),
        ("ddim.data", []),
        ("ddim.runs.folder", ["numpy", "safetensors"]),
        ("ddim.runs.checkpoint", ["numpy", "safetensors"]),
        ("ddim.evaluation.record", []),
        ("ddim.experiments.index", ["yaml", "rich", "optuna"]),
    ],
)
def test_importing_it_imports_nothing_heavy(module, more):
    heavy = ["torch", "torchvision", "matplotlib", "tensorboardX", *more]
    code = f"import sys, {module}; dir(ddim); print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_the_version_is_said_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ddim.__version__)
    assert "version" in PROJECT["dynamic"]


REQUIRED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
OPTIONAL = sorted(
    {line for lines in PROJECT["optional-dependencies"].values() for line in lines} - set(REQUIRED)
)


def test_installed_versions_meet_the_floors():
    for line in REQUIRED + OPTIONAL:
        requirement = Requirement(line)
        assert any(part.operator == ">=" for part in requirement.specifier), f"{line} needs a floor"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            assert line in OPTIONAL
            continue
        assert requirement.specifier.contains(installed, prereleases=True), line


def test_no_test_reaches_the_network():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
    # 192.0.2.0/24 is kept for documentation; nobody lives there.
    with socket.socket() as outside, pytest.raises(OSError, match="tests reach no network"):
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(OSError, match="tests reach no network"):
        socket.create_connection(("example.org", 80))


def test_a_test_that_moves_the_global_generators_fails(tmp_path):
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_moves.py").write_text(
        "import numpy as np, pytest\n"
        "def test_draws(): np.random.rand()\n"
        "def test_seeds(): np.random.seed(5)\n"
        "def test_keeps(): np.random.default_rng(0).random()\n"
        "@pytest.mark.moves_global_rng\n"
        "def test_may(): np.random.rand()\n"
    )
    run = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_randomly"]
    run += ["--rootdir", str(tmp_path), str(tmp_path)]
    # Loading plugins that this run does not use would take most of its time.
    support = str(Path(__file__).parent / "support")
    plain = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": support}
    said = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path, env=plain)
    assert "2 failed, 2 passed" in said.stdout
    assert said.stdout.count("the global random state of numpy was moved") >= 2


# The house: rooms, sizes and names.

FACE = {*ddim.__all__, *(home.rpartition(":")[2] for home in COMMANDS.values())}
"""The public functions, and those of the commands, may have any number of keyword-only parameters."""


def test_documents_without_a_seal_are_read_and_written_where_other_programs_or_users_need_them():
    plain = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if re.search(r"\b(read|write)_json\b", path.read_text())
    }
    # The formats of diffusers and of ONNX, and the plan of a sweep.
    assert plain - {"files.py"} <= {"exchange/diffusers.py", "exchange/export.py", "experiments/sweep.py"}


def test_the_root_holds_the_rooms_and_at_most_five_files():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 5


def test_modules_and_functions_are_short_and_take_few_parameters():
    for path in SOURCES:
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                # The signature and the docstring of a public function are the help of its command.
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                assert node.end_lineno - first.lineno < 50, (path, node.name)
                assert node.name[0] == "_" or len(list_parameters(node)) <= 7, (path, node.name)


def list_parameters(node):
    """The names of a function's parameters without `self` and `cls`."""
    named = [*node.args.posonlyargs, *node.args.args]
    # A notebook completes and shows the choices only if they are parameters.
    named += [] if node.name in FACE else node.args.kwonlyargs
    return [arg.arg for arg in named if arg.arg not in ("self", "cls")]


@pytest.mark.parametrize("name", ddim.__all__)
def test_a_public_name_is_its_own_and_its_docstring_names_every_argument(name):
    value = getattr(ddim, name)
    doc = inspect.getdoc(value)
    assert value.__name__ == name
    assert doc
    if inspect.isfunction(value):
        signature = inspect.signature(inspect.unwrap(value))
        assert signature.parameters.keys() <= set(re.findall(r"\w+", doc))
        assert signature.return_annotation is not inspect.Signature.empty


def test_public_functions_of_different_jobs_have_different_names():
    homes = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_":
                homes.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
