"""Folders of results are complete or absent."""

from types import SimpleNamespace

import pytest

from ddim.errors import UserError, explain_error
from ddim.evaluation.run_folder import write_results


@pytest.mark.parametrize("named", [True, False])
def test_a_result_that_is_stopped_leaves_no_folder(named, tmp_path):
    run = SimpleNamespace(checkpoint=SimpleNamespace(run=tmp_path / "run"))
    out = tmp_path / "out" if named else None

    def stop(folder):
        (folder / "figure.png").write_bytes(b"")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(run, "diagnostics", out, stop)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    found = write_results(run, "diagnostics", out, lambda folder: (folder / "figure.png").write_bytes(b""))
    assert found == (tmp_path / "out" if named else tmp_path / "run" / "diagnostics" / "1")
    assert [path.name for path in found.iterdir()] == ["figure.png"]


def test_two_results_do_not_get_one_folder(tmp_path):
    run = SimpleNamespace(checkpoint=SimpleNamespace(run=tmp_path))

    def overtaken(folder):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "record.json").write_bytes(b"other")
        (folder / "record.json").write_bytes(b"")

    with pytest.raises(OSError, match="not empty") as caught:
        write_results(run, "diagnostics", tmp_path / "out", overtaken)
    assert isinstance(explain_error(caught.value), UserError)
    assert (tmp_path / "out" / "record.json").read_bytes() == b"other"
