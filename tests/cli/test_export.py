import diffusers
import pytest

from ddim.exchange.diffusers import export_to_diffusers, import_from_diffusers
from ddim.sampling.pipeline import load
from stubs import stub
from untrained import recipe, run_of


def test_a_run_is_exported_and_imported_again(tmp_path, command):
    run_of(recipe(), tmp_path / "run")
    assert command("export", tmp_path / "run", tmp_path / "out").out == f"diffusers: {tmp_path / 'out'}\n"
    assert diffusers.UNet2DModel.load_config(tmp_path / "out" / "unet")["norm_num_groups"] == 8
    assert (
        command("import", tmp_path / "out", "--out", tmp_path / "back").out == f"run: {tmp_path / 'back'}\n"
    )
    command("sample", tmp_path / "back", "-n", 2, "--steps", 2, "--out", tmp_path / "samples")
    assert (tmp_path / "samples" / "00001.png").is_file()


def test_every_average_can_be_exported(tmp_path, command):
    run = tmp_path / "run"
    run_of(recipe(ema__more="0.5"), run, others={"ema/0.5": 2.0})
    unets = []
    for k, weights in enumerate(("ema", "0.5")):
        command("export", run, tmp_path / str(k), "--weights", weights)
        unets.append(diffusers.UNet2DModel.from_pretrained(tmp_path / str(k) / "unet").state_dict())
    for name, value in unets[0].items():
        assert (unets[1][name] == 2 * value).all()
    assert any(value.abs().max() > 0 for value in unets[0].values())


def test_an_imported_run_has_no_images_and_none_are_opened(tmp_path, monkeypatch, refused):
    export_to_diffusers(load(run_of(recipe(), tmp_path / "run")), tmp_path / "out")
    run, opened = import_from_diffusers(tmp_path / "out", tmp_path / "back"), []
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *a: stub())
    for module in ("sampling.images", "evaluation.reference", "training.run"):
        monkeypatch.setattr(f"ddim.{module}.open_images", lambda *a, **k: opened.append(a))
    for name, hint in [
        ("diagnose", ""),
        ("memorisation", ""),
        ("likelihood", ": name images with --data, or with `reference` in Python"),
        ("evaluate", ": name images with --data, or with `reference` in Python"),
    ]:
        assert refused(name, run).endswith(f"was imported and has no training images{hint}")
    said = refused("train", "--from", run, "--out", tmp_path / "new")
    assert said.endswith("was imported and has no training images")
    assert not opened


@pytest.mark.parametrize("name", ["export", "import"])
def test_a_folder_that_does_not_exist_is_refused(name, tmp_path, refused):
    assert refused(name, tmp_path / "none", *[tmp_path / "out"] * (name == "export"))
