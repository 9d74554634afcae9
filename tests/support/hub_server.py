"""A stand-in for the Hugging Face Hub: what `huggingface_hub` asks for when it uploads or downloads."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from ddim.exchange.hub import write_published
from ddim.runs.checkpoint import MANIFEST
from ddim.sampling.pipeline import load
from forging import forge_checkpoint

TOKEN = "hf_of_ada"


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

    address: str = ""
    repositories: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    status: int | None = None  # answered to every request

    def repository(self, name, files=(), **options):
        """Create a repository with files, and return it."""
        self.repositories[name] = made = Repository(**options)
        made.add({".gitattributes": b"", **dict(files)})
        return made


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *words):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status, code, text=""):
        self.answer(status, {"error": text}, X_Error_Code=code, X_Error_Message=text)

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = self.headers.get("Authorization")
        if self.hub.status:
            self.answer(self.hub.status, {"error": "out of order"})
        elif self.token not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        else:
            for pattern, act in _ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    act(self, **match.groupdict())
                    return
            self.refuse(404, "", f"no such page {path}")

    do_GET = do_HEAD = do_POST = handle_any  # noqa: N815 (names of the standard library)

    def create(self):
        asked = json.loads(self.content)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "ada":
            self.refuse(403, "", "You don't have the rights to create a model under this namespace")
        elif name in self.hub.repositories:
            self.answer(409, {"url": f"{self.hub.address}/{name}", "error": "You already created it"})
        else:
            # Version 1 of huggingface_hub says private, version 2 visibility.
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repository(name, private=bool(private))
            self.answer(200, {"url": f"{self.hub.address}/{name}"})

    def find(self, name, revision):
        """Return a commit and its files, or None after a refusal.

        Like the Hub, answer "RepoNotFound" if the repository is private and no token is given.
        """
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and self.token is None):
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
        elif (commit := repository.find(revision or "main")) is None:
            self.refuse(404, "RevisionNotFound", "Revision not found")
        else:
            return commit, repository.commits[commit]
        return None

    def describe(self, name, revision):
        if found := self.find(name, revision):
            private = self.hub.repositories[name].private
            names = [{"rfilename": file} for file in found[1]]
            self.answer(200, {"id": name, "sha": found[0], "private": private, "siblings": names})

    def list_files(self, name, revision):
        wanted = parse_qs(self.content.decode()).get("paths")
        if found := self.find(name, revision):
            files = [file for file in found[1] if wanted is None or file in wanted]
            known = {"type": "file", "oid": "0" * 40}
            self.answer(200, [{**known, "path": file, "size": len(found[1][file])} for file in files])

    def prepare(self, name, revision):
        paths = [file["path"] for file in json.loads(self.content)["files"]]
        files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
        self.answer(200, {"files": files})

    def commit(self, name, revision):
        lines = [json.loads(line) for line in self.content.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        removed = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        oid = self.hub.repositories[name].add(files, removed)
        self.answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, name, revision, file):
        if found := self.find(name, revision):
            content = found[1][file]
            etag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=found[0])


_NAME, _REVISION = r"(models/)?(?P<name>(datasets/)?[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
_ROUTES = [
    ("GET /api/whoami-v2", lambda handler: handler.answer(200, {"name": "ada"})),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", lambda handler: handler.answer(200, {"errors": [], "warnings": []})),
    (rf"POST /api/{_NAME}/preupload/{_REVISION}", _Handler.prepare),
    (rf"POST /api/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (rf"POST /api/{_NAME}/paths-info/{_REVISION}", _Handler.list_files),
    (rf"GET /api/{_NAME}/tree/{_REVISION}", _Handler.list_files),
    (rf"GET /api/{_NAME}(/revision/{_REVISION})?", _Handler.describe),
    (rf"(GET|HEAD) /{_NAME}/resolve/{_REVISION}/(?P<file>.+)", _Handler.resolve),
]


@contextmanager
def hub_in_use(home):
    """Serve an empty Hub for a block; `huggingface_hub` talks to it, with its cache in the folder `home`."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        patch.setattr(constants, "ENDPOINT", hub.address)
        # It asks a Hub that is out of order again, after pauses of up to 8 s.
        patch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        if hasattr(constants, "AGENT_HARNESSES_PATH"):
            patch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "agents.json"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("DDIM_CACHE", str(home / "ddim"))
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


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
