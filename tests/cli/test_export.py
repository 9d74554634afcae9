import diffusers
import pytest

from ddim.cli import main
from untrained import recipe, run_of


def test_a_run_goes_to_diffusers_and_back_by_two_commands(tmp_path, capsys):
    run_of(recipe(), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "a DDIMPipeline of diffusers" in capsys.readouterr().out
    assert diffusers.UNet2DModel.load_config(tmp_path / "out" / "unet")["norm_num_groups"] == 8
    assert main(["import", str(tmp_path / "out"), "--out", str(tmp_path / "back")]) == 0
    assert "a run to sample" in capsys.readouterr().out
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


@pytest.mark.parametrize("command", ["export", "import"])
def test_what_cannot_be_is_one_sentence_and_exit_code_2(command, tmp_path, capsys):
    argv = [command, str(tmp_path / "none")] + [str(tmp_path / "out")] * (command == "export")
    assert main(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
