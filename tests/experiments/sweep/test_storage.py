"""The storage of a sweep's queue, by its address."""

import json

import pytest

from ddim.errors import UserError
from ddim.experiments.sweep.folder import begin_sweep
from ddim.experiments.sweep.plan import SweepRequest
from ddim.experiments.sweep.storage import without_password
from ddim.experiments.sweep.trial_queue import TrialQueue

REQUEST = SweepRequest(recipe="smoke", fields={"seed": "[0,1]"})


@pytest.mark.parametrize(
    "address, reason",
    [
        ("queue.db", "--storage must be an address such as postgresql"),
        ("sqlite:////nowhere/queue.db", "cannot be opened: unable to open database file"),
        ("mysql+pymysql://host/database", "needs a driver for mysql, which is not installed"),
        (
            "postgresql+psycopg://ada:secret@127.0.0.1:1/x",
            "ada@127.0.0.1:1/x cannot be opened: connection failed",
        ),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_before_there_is_a_folder(tmp_path, address, reason):
    if "psycopg" in address:
        pytest.importorskip("psycopg")
    with pytest.raises(UserError) as error:
        begin_sweep(REQUEST, tmp_path / "sweep", address)
    assert reason in str(error.value)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_has_its_queue_in_its_folder_or_at_an_address(tmp_path):
    TrialQueue(begin_sweep(REQUEST, tmp_path / "own {braces}"))
    assert (tmp_path / "own {braces}" / "study.db").is_file()
    address = f"sqlite:///{tmp_path}/queue.db"
    sweep = begin_sweep(REQUEST, tmp_path / "shared", address)
    TrialQueue(sweep).refill()
    assert not (tmp_path / "shared" / "study.db").exists()
    assert begin_sweep(None, tmp_path / "shared", address) == sweep
    assert TrialQueue(begin_sweep(None, tmp_path / "shared", address)).take().trial == sweep.trials[0]
    # Whoever joins names this file, because sweep.json could name any file of the user.
    for other in ("sqlite:///other.db", None):
        with pytest.raises(UserError, match="has its storage at sqlite:.*queue.db: give it as --storage"):
            begin_sweep(None, tmp_path / "shared", other)


def test_sweeps_may_share_a_database(tmp_path):
    address = f"sqlite:///{tmp_path}/queue.db"
    queues = [TrialQueue(begin_sweep(REQUEST, tmp_path / name / "sweep", address)) for name in "ab"]
    for queue in queues:
        queue.refill()
        assert [queue.take().trial.name for _ in range(2)] == ["1-0", "2-1"]
        assert queue.take() is None


def test_sweep_json_has_no_password(tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.experiments.sweep.folder.check_address", lambda address: None)
    address = "postgresql+psycopg://ada:secret@host/database"
    begin_sweep(REQUEST, tmp_path / "sweep", address)
    text = (tmp_path / "sweep" / "sweep.json").read_text()
    assert "secret" not in text
    assert (
        json.loads(text)["storage"] == without_password(address) == "postgresql+psycopg://ada@host/database"
    )
