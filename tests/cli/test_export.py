import diffusers
import pytest

from ddim.cli import main
from ddim.evaluation.evaluate import Pictures, evaluate
from ddim.evaluation.reference import Reference
from ddim.runs.diffusers_format import export_to_diffusers, import_from_diffusers
from ddim.runs.pipeline import load
from stubs import stub
from untrained import recipe, run_of


def test_a_run_goes_to_diffusers_and_back_by_two_commands(tmp_path, capsys):
    run_of(recipe(), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"diffusers DDIMPipeline: {tmp_path / 'out'}\n"
    assert diffusers.UNet2DModel.load_config(tmp_path / "out" / "unet")["norm_num_groups"] == 8
    assert main(["import", str(tmp_path / "out"), "--out", str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out == f"run: {tmp_path / 'back'}\n"
    made = ["sample", str(tmp_path / "back"), "-n", "2", "--steps", "2", "--out", str(tmp_path / "pictures")]
    assert main(made) == 0
    assert (tmp_path / "pictures" / "00001.png").is_file()


def test_every_average_can_be_exported(tmp_path):
    run = tmp_path / "run"
    run_of(recipe(ema__more="0.5"), run, others={"ema/0.5": 2.0})
    unets = []
    for k, weights in enumerate(("ema", "0.5")):
        assert main(["export", str(run), str(tmp_path / str(k)), "--weights", weights]) == 0
        unets.append(diffusers.UNet2DModel.from_pretrained(tmp_path / str(k) / "unet").state_dict())
    for name, value in unets[0].items():
        assert (unets[1][name] == 2 * value).all()
    assert any(value.abs().max() > 0 for value in unets[0].values())


def test_an_imported_run_has_no_images_of_its_own(tmp_path, capsys, monkeypatch):
    """Which is said before any are opened, or downloaded."""
    export_to_diffusers(load(run_of(recipe(), tmp_path / "run")), tmp_path / "out")
    run, opened = import_from_diffusers(tmp_path / "out", tmp_path / "back"), []
    monkeypatch.setattr("ddim.metrics.features.load_extractor", lambda *a: stub())
    for module in ("runs.images", "evaluation.reference", "training.start"):
        monkeypatch.setattr(f"ddim.{module}.open_images", lambda *a, **k: opened.append(a))
    for command, otherwise in [
        ("diagnose", ""),
        ("memorisation", ""),
        ("likelihood", ": name images with --data"),
        ("evaluate", ": name images with --data"),
    ]:
        assert main([command, str(run)]) == 2
        wanted = f"ddim: run {run} was imported and has no images of its own{otherwise}\n"
        assert capsys.readouterr().err == wanted
    assert not opened


def test_an_imported_run_is_judged_by_images_that_are_named(tmp_path, capsys):
    export_to_diffusers(load(run_of(recipe(data__size="32"), tmp_path / "run")), tmp_path / "out")
    run = import_from_diffusers(tmp_path / "out", tmp_path / "back")
    words = ["likelihood", str(run), "--data", "blossoms:40", "-n", "2", "--steps", "2"]
    assert main(words) == 0
    assert "bits per dimension" in capsys.readouterr().out
    found = evaluate(run, Pictures(n=20, steps=1), Reference("blossoms:40"), extractor=stub())
    assert found.value("kid") is not None


@pytest.mark.parametrize("command", ["export", "import"])
def test_what_cannot_be_is_one_sentence_and_exit_code_2(command, tmp_path, capsys):
    argv = [command, str(tmp_path / "none")] + [str(tmp_path / "out")] * (command == "export")
    assert main(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
