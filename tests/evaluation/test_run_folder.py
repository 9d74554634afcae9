"""Folders of results are complete or absent."""

from types import SimpleNamespace

import pytest

from ddim.errors import UserError, explain_error
from ddim.evaluation.run_folder import write_results
from ddim.runs.folder import check_unused


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


@pytest.mark.parametrize("there", [True, False])
def test_a_result_is_written_to_the_folder_that_a_link_leads_to(there, tmp_path):
    run = SimpleNamespace(checkpoint=SimpleNamespace(run=tmp_path / "run"))
    (tmp_path / "drive").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "drive" / "new")
    if there:
        (tmp_path / "drive" / "new").mkdir()
    check_unused(tmp_path / "out")
    found = write_results(run, "diagnostics", tmp_path / "out", lambda folder: (folder / "a").touch())
    assert found == tmp_path / "out"
    assert [path.name for path in (tmp_path / "drive").rglob("*")] == ["new", "a"]


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
