"""Folders of results are complete or absent."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddim.evaluation import run_folder
from ddim.evaluation.run_folder import find_home, write_result


def test_results_of_a_checkpoint_are_added_to_its_run(tmp_path):
    step = tmp_path / "run" / "checkpoints" / "step-000000001"
    step.mkdir(parents=True)
    (step / "MANIFEST.json").write_text("{}")
    for run in (tmp_path / "run", tmp_path / "run" / "best", step):
        assert find_home(run, "diagnostics") == (tmp_path / "run" / "diagnostics", "")
    alone = step.rename(tmp_path / "alone")
    assert find_home(alone, "diagnostics") == (Path("diagnostics"), "alone-")


@pytest.mark.parametrize("named", [True, False])
def test_a_result_that_is_stopped_leaves_no_folder(named, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    run = SimpleNamespace(checkpoint=SimpleNamespace(run=tmp_path / "run"))
    where = "diagnosis", run, "diagnostics", tmp_path / "out" if named else None, {}
    figure = np.zeros((2, 2, 3), np.uint8)
    monkeypatch.setattr(run_folder, "make_record", lambda kind, *_: {"kind": kind})
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_png", stop)
        with pytest.raises(KeyboardInterrupt):
            write_result(*where, figure=figure)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    _, found = write_result(*where, figure=figure)
    assert found == (tmp_path / "out" if named else tmp_path / "run" / "diagnostics" / "1")
    assert sorted(path.name for path in found.iterdir()) == ["figure.png", "record.json"]
