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
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from ddim.runs.manifest import MANIFEST, write_parts
from ddim.runs.pipeline import load
from ddim.runs.publishing import write_published

TOKEN = "hf_of_ada"


@dataclass
class Repository:
    """The commits of a repository: files by name, the newest commit last."""

    commits: dict = field(default_factory=dict)
    private: bool = False
    gated: bool = False

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
    """The repositories, the requests so far, and how the Hub misbehaves."""

    address: str = ""
    repositories: dict = field(default_factory=dict)
    objects: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    sizes: dict = field(default_factory=dict)  # sizes that are stated for files instead of their own
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

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self, name, writing=False):
        """Return the repository; return None if an error was sent.

        Like the Hub, answer "RepoNotFound" if the repository is private and no token is given.
        """
        found, token = self.hub.repositories.get(name), self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif found is None or (found.private and token is None):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif writing and token is None:
            self.refuse(401, "", "Unauthorized")
        elif writing and not name.startswith("ada/"):
            self.refuse(403, "", "You don't have the rights to do this")
        elif found.gated and not writing:
            self.refuse(403, "GatedRepo", "Access is restricted")
        else:
            return found
        return None

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if self.hub.status:
            self.body()
            self.answer(self.hub.status, {"error": "out of order"})
            return
        for pattern, act in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                act(self, **found.groupdict())
                return
        self.body()
        self.refuse(404, "", f"no such page {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 (names of the standard library)

    def create(self):
        asked = json.loads(self.body())
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif asked["organization"] != "ada":
            self.refuse(403, "", "You don't have the rights to create a model under this namespace")
        elif name in self.hub.repositories:
            self.answer(409, {"url": f"{self.hub.address}/{name}", "error": "You already created it"})
        else:
            # Version 1 of huggingface_hub says private, version 2 visibility.
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repository(name, private=bool(private))
            self.answer(200, {"url": f"{self.hub.address}/{name}"})

    def validate(self):
        self.body()
        self.answer(200, {"errors": [], "warnings": []})

    def describe(self, name, revision, kind="models"):
        if kind == "datasets":
            name = f"datasets/{name}"
        if found := self.allowed(name):
            commit = found.find(revision or "main")
            if commit is None:
                self.refuse(404, "RevisionNotFound", "Revision not found")
                return
            files = found.commits[commit]
            sizes = {file: self.hub.sizes.get(file, len(content)) for file, content in files.items()}
            siblings = [{"rfilename": file, "size": size} for file, size in sizes.items()]
            self.answer(200, {"id": name, "sha": commit, "private": found.private, "siblings": siblings})

    def paths(self, name, revision):
        names = parse_qs(self.body().decode())["paths"]
        if found := self.allowed(name):
            files = found.commits[found.find(revision)]
            known = [file for file in names if file in files]
            entries = [{"type": "file", "path": f, "size": len(files[f]), "oid": "0" * 40} for f in known]
            self.answer(200, entries)

    def preupload(self, name, revision):
        paths = [file["path"] for file in json.loads(self.body())["files"]]
        modes = {path: "lfs" if path.endswith((".safetensors", ".png")) else "regular" for path in paths}
        files = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
        if self.allowed(name, writing=True):
            self.answer(200, {"files": files})

    def batch(self, name):
        asked = json.loads(self.body())["objects"]
        places = [{"href": f"{self.hub.address}/objects/{one['oid']}"} for one in asked]
        objects = [{**one, "actions": {"upload": place}} for one, place in zip(asked, places, strict=True)]
        if self.allowed(name, writing=True):
            self.answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid):
        content = self.body()
        good = hashlib.sha256(content).hexdigest() == oid
        if good:
            self.hub.objects[oid] = content
        self.answer(200 if good else 400)

    def commit(self, name, revision):
        lines = [json.loads(line) for line in self.body().splitlines()]
        if found := self.allowed(name, writing=True):
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                if line["key"] == "file"
                else self.hub.objects[line["value"]["oid"]]
                for line in lines
                if line["key"] not in ("header", "deletedFile")
            }
            removed = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
            oid = found.add(files, removed)
            self.answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, name, revision, file):
        if not (found := self.allowed(name)):
            return
        commit = found.find(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", "Revision not found")
        elif file not in found.commits[commit]:
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            content = found.commits[commit][file]
            etag = hashlib.sha256(content).hexdigest()
            more = {"X_Linked_Size": self.hub.sizes[file]} if file in self.hub.sizes else {}
            self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit, **more)


_NAME, _REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>[\w./-]+)"
_ROUTES = [
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (rf"POST /api/models/{_NAME}/paths-info/{_REVISION}", _Handler.paths),
    (rf"POST /api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (rf"GET /api/(?P<kind>models|datasets)/{_NAME}(/revision/{_REVISION})?", _Handler.describe),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /objects/(?P<oid>\w+)", _Handler.put),
    (
        r"(GET|HEAD) /(?P<name>(datasets/)?[\w.-]+/[\w.-]+)/resolve/(?P<revision>[\w.-]+)/(?P<file>.+)",
        _Handler.resolve,
    ),
]


@contextmanager
def serve_hub():
    """Serve an empty Hub for a block, and yield it."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hub_in_use(home):
    """Serve a Hub for a block; `huggingface_hub` talks to it, with its cache in the folder `home`."""
    from huggingface_hub import constants

    with serve_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.address)
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
        yield hub


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
        write_parts(sealed, 3, False, files.items())
        files[MANIFEST] = (sealed / MANIFEST).read_bytes()
        return hub.repository(name, files, **options)
