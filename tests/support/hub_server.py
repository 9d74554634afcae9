"""A stand-in for the Hugging Face Hub: what `huggingface_hub` asks for when it uploads or downloads."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from ddim.exchange.hub import write_published
from ddim.runs.checkpoint import MANIFEST
from ddim.sampling.pipeline import load
from forging import forge_checkpoint

TOKEN = "hf_of_ada"
ADDRESS = "https://huggingface.co"
# Version 2 of huggingface_hub has a package of its own in place of httpx.
httpx = getattr(_http, "httpx2", None) or _http.httpx


@dataclass
class Repository:
    """The commits of a repository: files by name, the newest commit last."""

    commits: dict = field(default_factory=dict)
    private: bool = False

    def add(self, files, removed=()):
        """Add a commit with more or other files, and without some; return its name."""
        before = list(self.commits.values())[-1] if self.commits else {}
        newest = {**{name: before[name] for name in before if name not in removed}, **files}
        text = json.dumps([len(self.commits), *((k, hashlib.sha1(v).hexdigest()) for k, v in newest.items())])
        self.commits[commit := hashlib.sha1(text.encode()).hexdigest()] = newest
        return commit

    def find(self, revision):
        """Return the name of a commit, or None."""
        if revision == "main":
            return list(self.commits)[-1]
        return revision if revision in self.commits else None


@dataclass
class Hub:
    """The repositories, the requests so far, and whether the Hub is out of order."""

    repositories: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    status: int | None = None  # answered to every request

    def repository(self, name, files=(), **options):
        """Create a repository with files, and return it."""
        self.repositories[name] = made = Repository(**options)
        made.add({".gitattributes": b"", **dict(files)})
        return made


class _RefusedError(Exception):
    """The answer of the Hub to a request that it refuses."""

    def __init__(self, status, text, code=""):
        headers = {"X-Error-Code": code, "X-Error-Message": text}
        self.response = httpx.Response(status, json={"error": text}, headers=headers)


def _answer(hub, request):
    path, token = request.url.path, request.headers.get("Authorization")
    hub.requests.append((request.method, path))
    try:
        if hub.status:
            raise _RefusedError(hub.status, "out of order")
        if token not in (None, f"Bearer {TOKEN}"):
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        for pattern, act in _ROUTES:
            if match := re.fullmatch(pattern, f"{request.method} {path}"):
                found = act(hub, request, **match.groupdict())
                return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)
        raise _RefusedError(404, f"no such page {path}")
    except _RefusedError as refused:
        return refused.response


def _create(hub, request):
    asked = json.loads(request.content)
    name = f"{asked['organization']}/{asked['name']}"
    if asked["organization"] != "ada":
        raise _RefusedError(403, "You don't have the rights to create a model under this namespace")
    if name in hub.repositories:
        return httpx.Response(409, json={"url": f"{ADDRESS}/{name}", "error": "You already created it"})
    # Version 1 of huggingface_hub says private, version 2 visibility.
    hub.repository(name, private=bool(asked.get("private") or asked.get("visibility") == "private"))
    return {"url": f"{ADDRESS}/{name}"}


def _find(hub, request, name, revision):
    """Return a repository, a commit and its files; a private one is not found if no token is given."""
    repository, token = hub.repositories.get(name), "Authorization" in request.headers
    if repository is None or (repository.private and not token):
        raise _RefusedError(404 if token else 401, "Repository not found", "RepoNotFound")
    commit = repository.find(revision or "main")
    if commit is None:
        raise _RefusedError(404, "Revision not found", "RevisionNotFound")
    return repository, commit, repository.commits[commit]


def _describe(hub, request, name, revision):
    repository, commit, files = _find(hub, request, name, revision)
    names = [{"rfilename": file} for file in files]
    return {"id": name, "sha": commit, "private": repository.private, "siblings": names}


def _list_files(hub, request, name, revision):
    *_, files = _find(hub, request, name, revision)
    wanted = parse_qs(request.content.decode()).get("paths", files)
    known = {"type": "file", "oid": "0" * 40}
    return [{**known, "path": file, "size": len(files[file])} for file in files if file in wanted]


def _prepare(hub, request, name, revision):
    paths = [file["path"] for file in json.loads(request.content)["files"]]
    return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}


def _commit(hub, request, name, revision):
    files, removed = {}, set()
    for line in map(json.loads, request.content.splitlines()):
        if line["key"] == "file":
            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        elif line["key"] == "deletedFile":
            removed.add(line["value"]["path"])
    oid = hub.repositories[name].add(files, removed)
    return {"commitUrl": f"{ADDRESS}/{name}/commit/{oid}", "commitOid": oid}


def _resolve(hub, request, name, revision, file):
    _, commit, files = _find(hub, request, name, revision)
    etag = hashlib.sha256(files[file]).hexdigest()
    return httpx.Response(200, content=files[file], headers={"ETag": f'"{etag}"', "X-Repo-Commit": commit})


_NAME, _REVISION = r"(models/)?(?P<name>(datasets/)?[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
_ROUTES = [
    ("GET /api/whoami-v2", lambda hub, request: {"name": "ada"}),
    ("POST /api/repos/create", _create),
    ("POST /api/validate-yaml", lambda hub, request: {"errors": [], "warnings": []}),
    (rf"POST /api/{_NAME}/preupload/{_REVISION}", _prepare),
    (rf"POST /api/{_NAME}/commit/{_REVISION}", _commit),
    (rf"POST /api/{_NAME}/paths-info/{_REVISION}", _list_files),
    (rf"GET /api/{_NAME}/tree/{_REVISION}", _list_files),
    (rf"GET /api/{_NAME}(/revision/{_REVISION})?", _describe),
    (rf"(GET|HEAD) /{_NAME}/resolve/{_REVISION}/(?P<file>.+)", _resolve),
]


@contextmanager
def hub_in_use(home):
    """Let `huggingface_hub` talk to an empty Hub in a block, with its cache in the folder `home`."""
    hub = Hub()
    with pytest.MonkeyPatch.context() as patch:
        # It asks a Hub that is out of order again, after pauses of up to 8 s.
        patch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
        for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "AGENT_HARNESSES_PATH"):
            patch.setattr(constants, name, str(home / name), raising=False)
        for name, value in {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            patch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("DDIM_CACHE", str(home / "ddim"))
        options = {"transport": httpx.MockTransport(lambda request: _answer(hub, request))}
        # The hook refuses all requests if HF_HUB_OFFLINE is set.
        options["event_hooks"] = {"request": [_http.hf_request_event_hook]}
        _http.set_client_factory(lambda: httpx.Client(**options, follow_redirects=True))
        try:
            yield hub
        finally:
            _http.set_client_factory(_http.default_client_factory)


def publish(hub, name, run, weights="ema", change=None, **options):
    """Put a published run into a repository, and return the repository.

    `change` may change the files, a dictionary of bytes by name, before they are sealed by their manifest.
    """
    with TemporaryDirectory() as temporary:
        made, sealed = Path(temporary, "made"), Path(temporary, "sealed")
        made.mkdir()
        sealed.mkdir()
        write_published(load(run, weights), made)
        files = {path.name: path.read_bytes() for path in made.iterdir() if path.name != MANIFEST}
        if change is not None:
            change(files)
        forge_checkpoint(sealed, files, step=3)
        files[MANIFEST] = (sealed / MANIFEST).read_bytes()
        return hub.repository(name, files, **options)
