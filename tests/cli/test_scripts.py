"""The keys that docs/howto/scripts.md promises to scripts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from ddim.cli import COMMANDS
from ddim.recipe.codec import override
from hub_server import TOKEN, hub_in_use
from small_recipes import make_small
from stubs import stub

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "scripts.md"
PROMISED = {
    command: set(re.findall(r"`(\w+)`", keys))
    for command, keys in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.M)
}
EVALUATE = "evaluate run -n 100 --steps 2 --features scattering --part all"
WORDS = [
    "export ddpm --out out",
    "push run ada/flowers",
    "import out --out back",
    "plan blossoms:200 --recipe smoke --minutes 1",
    "train blossoms:200 --recipe smoke --images 64 --data.validation 0.2 --out other",
    "sample run -n 2 --steps 2",
    "distill run --images 40 --out student",
    "invert run photos/3.png --steps 2",
    "interpolate run --seeds 1,2 --frames 2 --steps 3",
    "inpaint run photos/3.png --mask mask.png -n 2 --steps 2",
    "vary run photos/3.png -n 2 --steps 2",
    f"{EVALUATE} --out one",
    f"{EVALUATE} --seed 100 --out two",
    "compare one two",
    "memorisation run -n 8 --steps 2",
    "likelihood run -n 2 --steps 5",
    "diagnose run -n 4 --levels 3",
    "search run --steps 3 -n 2",
    "ema run --width 0.1",
    "sweep blossoms:200 --recipe smoke --images 64 --optim.lr 1e-3 --out sweep",
    "runs .",
    "report run",
    "plot losses run",
    "data photos --size 32",
    "cache",
]


def test_the_page_has_every_command_that_ends():
    assert set(PROMISED) == set(COMMANDS) - {"serve", "completion", "recipe"}
    assert {words.split()[0] for words in WORDS} == set(PROMISED)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub
def test_each_command_prints_the_keys_that_the_page_promises(here, command, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *_: stub())
    monkeypatch.setattr("ddim.experiments.plan.SECONDS", 0.1)
    tiny.write_grays(here / "photos", range(0, 250, 50))
    hole = np.zeros((32, 32), np.uint8)
    hole[8:16, 8:16] = 255
    Image.fromarray(hole).save(here / "mask.png")
    changes = {"data__source": "blossoms:200", "data__size": 16, "optim__warmup": 0}
    cosine = tiny.recipe(images=640, report__snapshots=8, schedule__max_signal=0.99995, **changes)
    tiny.train(cosine, here / "run")
    tiny.train(override(make_small("ddpm"), {"images": 16, "data.source": "blossoms:40"}), here / "ddpm")
    found = {}
    with hub_in_use(tmp_path_factory.mktemp("hub")):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for words in WORDS:
            out, err = command(*words.split(), "--json", "--quiet")
            assert err == "", words
            document = json.loads(out)
            found[words.split()[0]] = set(document[0] if isinstance(document, list) else document)
    assert found == PROMISED
