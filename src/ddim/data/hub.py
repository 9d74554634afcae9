"""Parse names of repositories on the Hugging Face Hub, download files, and explain errors in one sentence.

This needs the extra `hub`. Strangers write the content of a repository. So only files that the caller names
are downloaded, with a limit of size, into the cache of `huggingface_hub`. No code in them runs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

from ddim.errors import UserError, is_full_disk, warn_user

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hub:"
"""The prefix that tells the name of a repository from a path."""

# The rules of the Hub, without its lengths. The name and the revision become parts of paths in the cache.
_WORD = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_NAME = re.compile(
    rf"(?:{PREFIX})?(?P<owner>{_WORD})/(?P<name>{_WORD})(?:@(?P<revision>[A-Za-z0-9_][\w./-]*))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOUNS = {"model": "model", "dataset": "data set"}
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(UserError):
    """The Hub refused a request or failed. The message says why."""


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        owner: the user or organisation.
        name: the name of the repository, without its owner.
        revision: a branch, tag or commit; None for the main branch.
        kind: what the repository holds, in the words of the Hub.
    """

    owner: str
    name: str
    revision: str | None = None
    kind: Literal["model", "dataset"] = "model"

    @property
    def path(self) -> str:
        """The path of the repository on the Hub, such as datasets/OWNER/NAME."""
        return self.id if self.kind == "model" else f"datasets/{self.id}"

    @property
    def id(self) -> str:
        """The name of the repository on the Hub, OWNER/NAME."""
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        return f"{PREFIX}{self.id}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Listing:
    """A commit of a repository, and the sizes of its files in bytes, keyed by name."""

    commit: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class HubFile:
    """A downloaded file, and the commit of the repository that it belongs to."""

    path: Path
    commit: str


def names_repository(run: str | Path) -> bool:
    """Return whether the name of a run or data set begins with "hub:"."""
    return str(run).startswith(PREFIX)


def is_commit(revision: str) -> bool:
    """Return whether a revision is the full hash of a commit; the files of a commit never change."""
    return _COMMIT.fullmatch(revision) is not None


def parse_repository(text: str | Path, kind: Literal["model", "dataset"] = "model") -> Repository:
    """Return the repository that OWNER/NAME or OWNER/NAME@REVISION names; "hub:" may stand before it.

    Raises:
        UserError: if the name has another form.
    """
    shown = text.as_posix() if isinstance(text, PurePath) else text
    found = _NAME.fullmatch(str(shown))
    if not found or ".." in shown or "--" in found["owner"] + "/" + found["name"]:
        raise UserError(
            "a repository on the Hub is named hub:OWNER/NAME or hub:OWNER/NAME@REVISION, such as "
            f"hub:ada/flowers, got {shown!r}"
        )
    return Repository(found["owner"], found["name"], found["revision"], kind)


def connect_to_hub(purpose: str) -> HfApi:
    """Return a client for the Hub.

    Args:
        purpose: the subject of the message, such as "pushing a run".

    Raises:
        UserError: if the package `huggingface_hub` is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(f'{purpose} needs huggingface_hub: pip install "ddim[hub]" ({error})') from None
    return HfApi(library_name="ddim", library_version=version("ddim"))


def check_login(purpose: str) -> None:
    """Check that the user has a token for the Hub.

    Raises:
        HubError: if there is no token.
    """
    if not _has_token():
        raise HubError(f"{purpose} needs a token with the right to write: {_LOGIN}")


def find_file(repository: Repository, file: str, largest: int) -> HubFile:
    """Download a small file that marks what a repository is, and return it with the commit.

    If the Hub cannot be reached or refuses, the copy of an earlier download is used, with a warning. With
    HF_HUB_OFFLINE=1 or another such setting, the copy is used without a warning. If
    `repository.revision` is a commit, no connection is needed after the first download.

    Args:
        repository: the repository.
        file: the name of the file.
        largest: the largest size in bytes.

    Raises:
        HubError: if there is no such repository, revision or file, or no connection and no copy.
        UserError: if the file is larger than `largest`, its size is unknown, or the package `huggingface_hub`
            is not installed.
    """
    api = connect_to_hub(str(repository))
    from huggingface_hub import try_to_load_from_cache

    revision = repository.revision or "main"
    known = try_to_load_from_cache(repository.id, file, revision=revision)
    copy = HubFile(Path(known), Path(known).parent.name) if isinstance(known, str) else None
    if copy is not None and is_commit(revision):
        return copy
    try:
        with explain_errors(repository):
            _check_size(api, repository, file, revision, largest)
            # The branch is named, not the commit, so that the cache stores which commit the branch had.
            path = Path(api.hf_hub_download(repository.id, file, revision=revision))
    except HubError as error:
        if copy is None:
            raise
        warn_of_copy(error, copy.commit)
        return copy
    return HubFile(path, path.parent.name)


def warn_of_copy(error: HubError, commit: str) -> None:
    """Warn that a local copy of a commit is used, and name the error that is the reason.

    There is no warning in the offline mode of `huggingface_hub`, which the user has chosen.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not isinstance(error.__cause__, OfflineModeIsEnabled):
        warn_user(f"{error}; the local copy of commit {commit[:12]} is used")


def list_files(repository: Repository) -> Listing:
    """Return the commit of a data set and the sizes of its files.

    Raises:
        HubError: if there is no such repository or revision, or no connection.
        UserError: if the package `huggingface_hub` is not installed.
    """
    api = connect_to_hub(str(repository))
    with explain_errors(repository):
        found = api.dataset_info(repository.id, revision=repository.revision, files_metadata=True)
    sizes = {file.rfilename: file.size for file in found.siblings or () if file.size is not None}
    return Listing(str(found.sha), sizes)


def download_listed(repository: Repository, commit: str, file: str, size: int) -> Path:
    """Return the path of a file of a data set in the cache of `huggingface_hub`; download it if necessary.

    Raises:
        HubError: if the file cannot be downloaded, or its size is not `size`.
        UserError: if the package `huggingface_hub` is not installed.
    """
    api = connect_to_hub(str(repository))
    with explain_errors(repository):
        path = Path(api.hf_hub_download(repository.id, file, repo_type=repository.kind, revision=commit))
    if path.stat().st_size != size:
        raise HubError(f"{file} of {repository} is refused: it has another size than the Hub says")
    return path


def copy_file(path: Path, target: Path) -> None:
    """Create a hard link `target` to a file in the cache of `huggingface_hub`, or copy the file.

    If `path` is a symbolic link, the file to which the link leads is used.
    """
    real = os.path.realpath(path)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def download_part(
    repository: Repository, commit: str, file: str, largest: int, *, again: bool = False
) -> Path:
    """Return the path of a file of a commit in the cache of `huggingface_hub`; download it if necessary.

    Args:
        repository: the repository.
        commit: the commit.
        file: the name of the file.
        largest: the largest size in bytes.
        again: whether to download the file even if there is a copy, which may be damaged.

    Raises:
        HubError: if the file cannot be downloaded.
        UserError: if the file is larger than `largest`, its size is unknown, or the package `huggingface_hub`
            is not installed.
    """
    api = connect_to_hub(str(repository))
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repository.id, file, revision=commit)
    if isinstance(known, str) and not again:
        return Path(known)
    with explain_errors(repository):
        _check_size(api, repository, file, commit, largest)
        return Path(api.hf_hub_download(repository.id, file, revision=commit, force_download=again))


@contextmanager
def explain_errors(repository: Repository) -> Generator[None]:
    """Turn all errors of the Hub and of the network in a block into a `HubError`.

    A full disk stays an OSError.
    """
    from huggingface_hub import errors

    # Versions 1 and 2 have different HTTP errors of the same name.
    http: Any = errors.HTTPError  # type: ignore[attr-defined]
    others = errors.EntryNotFoundError, errors.XetDownloadError
    try:
        yield
    except UserError:
        raise
    except (http, OSError, ValueError, RuntimeError, *others) as error:
        # A failed upload is a RuntimeError, whose cause is the error of HTTP.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        if is_full_disk(cause):
            raise
        raise HubError(_explain(cause, repository)) from cause


def _explain(error: BaseException, repository: Repository) -> str:  # noqa: PLR0911 (one for each kind of error)
    from huggingface_hub import errors

    name = repository.id
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {name} cannot be looked up on the Hub: unset it"
    if isinstance(error, errors.GatedRepoError):
        place = f"https://huggingface.co/{repository.path}"
        return f"{name} is gated: accept its conditions at {place}, then {_LOGIN}"
    if isinstance(error, errors.DisabledRepoError):
        return f"the Hub has disabled {name}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no branch, tag or commit {repository.revision or 'main'}"
    if isinstance(error, errors.RepositoryNotFoundError):
        noun = _NOUNS[repository.kind]
        if _has_token():
            return f"the Hub has no {noun} {name} that your token can read"
        return f"the Hub has no public {noun} {name}; if it is private, {_LOGIN}"
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        return f"{name} is not a run of ddim: it has no {_last_part(error)}; `ddim push` uploads runs"
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error.response.status_code, error, name)
    # Of several sentences, the later ones are advice about the functions of huggingface_hub.
    reason = " ".join(str(error).split()).split(". ")[0][:300]
    if isinstance(error, errors.HTTPError):  # type: ignore[attr-defined]
        return f"the Hub cannot be reached for {name}: {reason or type(error).__name__}"
    return f"{name} cannot be downloaded or uploaded: {reason or type(error).__name__}"


def _explain_status(status: int, error: BaseException, name: str) -> str:
    if status == 401:
        return f"the Hub does not know your token: {_LOGIN}"
    if status == 403:
        return f"your token may not do this with {name}: a token with the right to write is needed"
    if status == 429:
        return "the Hub takes no more requests from you for now (429): wait some minutes"
    said = getattr(error, "server_message", None) or f"status {status}"
    return f"the Hub answered with an error for {name}: {' '.join(str(said).split())[:300]}"


def _last_part(error: Any) -> str:  # noqa: ANN401 (an error with a response)
    return str(error.response.url).split("?")[0].rsplit("/", 1)[-1]


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _check_size(api: HfApi, repository: Repository, file: str, revision: str, largest: int) -> None:
    """Check the size that the Hub states for a file, before it is downloaded."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repository.id, file, revision=revision, endpoint=api.endpoint)
    size = api.get_hf_file_metadata(url=url).size
    if size is None or size > largest:
        shown = "an unknown size" if size is None else f"{size:,} bytes"
        raise UserError(f"{file} of {repository} is refused: it has {shown}, at most {largest:,} are allowed")
