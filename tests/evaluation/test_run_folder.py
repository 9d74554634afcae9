"""Folders of results are complete or absent."""

from types import SimpleNamespace

import numpy as np
import pytest

from ddim.evaluation import run_folder
from ddim.evaluation.run_folder import write_result
from ddim.runs.folder import check_unused

PICTURES = {"figure.png": np.zeros((2, 2, 3), np.uint8)}


def run_in(folder):
    state = SimpleNamespace(step=1)
    return SimpleNamespace(checkpoint=SimpleNamespace(run=folder, state=state))


@pytest.mark.parametrize("named", [True, False])
def test_a_result_that_is_stopped_leaves_no_folder(named, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    where = run_in(tmp_path / "run"), "diagnostics", tmp_path / "out" if named else None
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_png", stop)
        with pytest.raises(KeyboardInterrupt):
            write_result(*where, {}, PICTURES)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    found = write_result(*where, {}, PICTURES)
    assert found == (tmp_path / "out" if named else tmp_path / "run" / "diagnostics" / "1")
    assert sorted(path.name for path in found.iterdir()) == ["figure.png", "record.json"]


@pytest.mark.parametrize("there", [True, False])
def test_a_result_is_written_to_the_folder_that_a_link_leads_to(there, tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "drive" / "new")
    if there:
        (tmp_path / "drive" / "new").mkdir()
    check_unused(tmp_path / "out")
    assert write_result(run_in(tmp_path), "diagnostics", tmp_path / "out", {}) == tmp_path / "out"
    assert [path.name for path in (tmp_path / "drive").rglob("*")] == ["new", "record.json"]
