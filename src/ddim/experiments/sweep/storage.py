"""Connect to Optuna's storage of a sweep: a SQLite file, or a PostgreSQL or MySQL database.

An address has the form of SQLAlchemy, such as ``postgresql+psycopg://user@host/database``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim.errors import NoSpace, UserError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

TIMEOUT = 60
"""Seconds that a worker waits for the transaction of another worker.

PostgreSQL ends the transaction of a frozen worker after this time.
"""


def check_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        UserError: if Optuna is not installed.
    """
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UserError('`ddim sweep` needs Optuna, which is not installed: pip install "ddim[sweep]"')


def check_address(address: str) -> None:
    """Check that the storage at an address can be opened.

    Raises:
        UserError: if Optuna or a driver is not installed, the address is malformed, or nothing answers there.
        NoSpace: if the disk is full.
    """
    check_optuna()
    _open(address, heartbeat=1, grace=2).remove_session()


def sqlite_address(file: Path) -> str:
    """Return the address of a SQLite file."""
    from sqlalchemy import URL

    address = URL.create("sqlite", database=str(file.absolute())).render_as_string()
    # Optuna formats addresses with str.format, so braces are doubled.
    return address.replace("{", "{{").replace("}", "}}")


def is_file_address(address: str | None) -> bool:
    """Return whether an address is that of a SQLite file."""
    return address is not None and address.startswith("sqlite")


def without_password(address: str) -> str:
    """Return an address with its password removed.

    Raises:
        UserError: if Optuna is not installed or the address is malformed.
    """
    check_optuna()
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
        # `URL.set` cannot remove a part, so a new URL is created.
        kept = URL.create(url.drivername, url.username, None, url.host, url.port, url.database, url.query)
        return kept.render_as_string(hide_password=False)
    except ArgumentError:
        raise UserError(
            "--storage must be an address such as postgresql+psycopg://user@host/database, got an address "
            "that SQLAlchemy cannot parse"
        ) from None


def connect(address: str, study: str, heartbeat: int, grace: int) -> tuple[RDBStorage, Study]:
    """Return a storage and a study in it; create the study if it does not exist.

    Args:
        address: the address of the storage.
        study: the name of the study, which minimises its objective.
        heartbeat: seconds between two heartbeats of a running trial.
        grace: seconds without a heartbeat after which the worker of a running trial counts as dead.

    Raises:
        UserError: if Optuna or a driver is not installed, or the storage cannot be reached.
        NoSpace: if the disk is full.
    """
    check_optuna()
    import optuna

    storage = _open(address, heartbeat, grace)
    return storage, optuna.create_study(study_name=study, storage=storage, load_if_exists=True)


def storage_errors() -> tuple[type[Exception], ...]:
    """Return the types of exceptions that are raised if the database does not answer in time."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


def is_full(error: BaseException) -> bool:
    """Return whether an error of the storage says that the disk of its SQLite file is full."""
    import sqlite3

    # Optuna wraps the error of SQLAlchemy, which wraps that of the driver.
    causes = (error, error.__cause__, error.__context__)
    found = [getattr(cause, "orig", None) for cause in causes]
    return any(getattr(one, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL for one in found)


def _open(address: str, heartbeat: int, grace: int) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy import make_url

    shown = without_password(address)
    kind = make_url(shown).get_backend_name()
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        options = {"connect_args": {"timeout": TIMEOUT}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its heartbeat experimental.
            storage = RDBStorage(address, options, heartbeat_interval=heartbeat, grace_period=grace)
    except ImportError as error:
        extra = ': pip install "ddim[postgres]"' if kind == "postgresql" else f" ({error})"
        raise UserError(f"--storage needs a driver for {kind}, which is not installed{extra}") from None
    except storage_errors() as error:
        if is_full(error):
            raise NoSpace(f"{shown}: the disk is full: make room, then join the sweep again") from None
        reason = str(getattr(error, "orig", None) or error)
        raise UserError(f"storage {shown} cannot be opened: {' '.join(reason.split())}") from None
    _guard_transactions(storage, kind)
    return storage


def _guard_transactions(storage: RDBStorage, kind: str) -> None:
    """Make transactions atomic in SQLite, and end the transactions of frozen workers in PostgreSQL."""
    from sqlalchemy import event

    def set_up(connection: Any, record: object) -> None:  # noqa: ANN401  (a connection of any driver)
        if kind == "sqlite":
            # By default, Python's driver begins a transaction only at the first write, so other workers could
            # change data that this worker has just read. With None, the listener for "begin" below starts the
            # transaction before the first read, as the SQLAlchemy documentation recommends.
            connection.isolation_level = None
        elif kind == "postgresql":
            cursor = connection.cursor()
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{TIMEOUT}s'")
            cursor.close()
            connection.commit()

    event.listen(storage.engine, "connect", set_up)
    if kind == "sqlite":
        event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    # Connections that were opened before these listeners existed are closed, so none is left without them.
    storage.engine.dispose()
