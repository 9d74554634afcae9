"""What is released: the wheel, the recipe of the conda package, the Dockerfile and the citation."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import ddim

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "tensorboardX": "tensorboardx"}


def split(requirement):
    """The name and the range of a requirement."""
    name, text = re.fullmatch(r"([A-Za-z0-9_-]+) ?(.*)", requirement).groups()
    return name, text


def test_the_conda_recipe_has_the_version_and_the_requirements_of_the_package():
    recipe = yaml.safe_load((ROOT / "packaging/recipe.yaml").read_text())
    assert recipe["context"]["version"] == ddim.__version__
    run = dict(map(split, recipe["requirements"]["run"]))
    ours = dict(map(split, PROJECT["project"]["dependencies"]))
    expected = {CONDA.get(name, name): text for name, text in ours.items()}
    assert run == expected | {"python": PROJECT["project"]["requires-python"]}
    name, target = recipe["build"]["python"]["entry_points"][0].split(" = ")
    assert PROJECT["project"]["scripts"] == {name: target}


def test_the_citation_has_the_version_of_the_package():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == ddim.__version__


def test_the_dockerfile_names_torch_and_extras_as_the_package_does():
    text = (ROOT / "Dockerfile").read_text()
    ours = dict(map(split, PROJECT["project"]["dependencies"]))
    assert f"'torch{ours['torch']}' 'torchvision{ours['torchvision']}'" in text
    assert '"${wheel}[${EXTRAS}]"' in text
    (extras,) = re.findall(r"ARG EXTRAS=(.*)", text)
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_the_dockerfile_passes_its_linter():
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_trains_and_samples_without_the_repository(tmp_path):
    """The wheel is built from the source distribution, which is built from the repository."""
    dist, site = tmp_path / "dist", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "build", "--outdir", dist, ROOT], check=True, capture_output=True)
    (wheel,) = dist.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    packed = {path.relative_to(site) for path in (site / "ddim").rglob("*") if path.is_file()}
    source = ROOT / "src"
    needed = {path.relative_to(source) for path in (source / "ddim").rglob("*") if path.is_file()}
    assert {path for path in needed - packed if "__pycache__" not in path.parts} == set()

    def call(*words):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(call("-c", "import ddim; print(ddim.__file__)").strip()).is_relative_to(site)
    call("-m", "ddim", "train", "--recipe", "smoke", "--images", "64", "--out", "run")
    call("-m", "ddim", "sample", "run", "-n", "2", "--out", "images")
    assert (tmp_path / "images" / "00001.png").is_file()
