"""A Hub on loopback: the endpoints that huggingface_hub uses for a model or dataset repository, with faults on demand.

with HubServer() as hub:
    hub.fail("POST", r"/commit/", 500)            # the next such request
    hub.fail("PUT", r"/lfs/", CUT)                # the connection ends without an answer
    hub.fail("POST", r"/commit/", LOST)           # done, but the answer never arrives
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

CUT, LOST = "cut", "lost"
LFS_SUFFIXES = (".safetensors", ".png", ".bin")


@dataclass
class Pull:
    """A pull request: the commits of its branch."""

    title: str
    author: str
    commits: list[dict[str, bytes]]
    status: str = "open"


@dataclass
class Repo:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.safetensors lfs\n"}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)

    def sha(self, n: int = -1, branch: str = "") -> str:
        return hashlib.sha1(f"{branch}{n % len(self.branch(branch))}".encode()).hexdigest()

    def branch(self, name: str) -> list[dict[str, bytes]]:
        """The commits of main or of refs/pr/N."""
        found = re.fullmatch(r"refs/pr/(\d+)", name)
        return self.pulls[int(found[1]) - 1].commits if found else self.commits

    def merge(self, number: int) -> None:
        pull = self.pulls[number - 1]
        pull.status = "merged"
        self.commits.append(pull.commits[-1])
        self.messages.append(pull.title)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a branch, a tag or a commit."""
        revision = self.tags.get(revision, revision)
        branches = {"": self.commits, **{f"refs/pr/{n}": pull.commits for n, pull in enumerate(self.pulls, 1)}}
        if (branch := "" if revision == "main" else revision) in branches:
            return self.sha(-1, branch), branches[branch][-1]
        known = {self.sha(n, branch): files for branch, held in branches.items() for n, files in enumerate(held)}
        return (revision, known[revision]) if revision in known else None


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients are killed, too
            super().handle_error(request, client_address)


class HubServer:
    def __init__(self, *, user: str = "me", token: str = "hf_" + "t" * 34) -> None:
        self.user, self.token = user, token
        self.role, self.orgs, self.scopes = "write", [], []
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.readonly: set[str] = set()
        self.licences: dict[str, str] = {}
        self.served: dict[str, bytes] = {}
        """Contents that are given out in place of those that were pushed."""
        self._faults: list[tuple[str, str, object]] = []
        self._lock = threading.RLock()
        server = self

        class Handler(_Handler):
            hub = server

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fail(self, method: str, pattern: str, how: object, times: int = 1) -> None:
        self._faults += [(method, pattern, how)] * times

    def fault(self, method: str, path: str) -> object:
        with self._lock:
            for n, (m, pattern, how) in enumerate(self._faults):
                if m == method and re.search(pattern, path):
                    del self._faults[n]
                    return how
        return None

    def add(self, repo: str, folder: Path) -> None:
        """A public repository with the files of a folder."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repos[repo] = Repo(private=False, commits=[files])

    def sent(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: 40 ms a request, otherwise
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle("GET")

    def do_HEAD(self) -> None:
        self._handle("HEAD")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, method: str) -> None:
        path, self.query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        self.hub.requests.append(f"{method} {path}")
        how = self.hub.fault(method, path)
        if how == CUT:
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(how, int):
            self._send(how, {"error": "injected"}, {"X-Error-Message": "injected"})
            return
        with self.hub._lock:
            code, value, headers = self._route(method, path, body)
        if how == LOST:
            self.close_connection = True
            self.connection.close()
            return
        self._send(code, value, headers)

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return b""
        out = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def _send(self, code: int, value: object, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _route(self, method: str, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        hub = self.hub
        if path.startswith("/lfs/") and method == "PUT":
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != oid:
                return 400, {"error": "content and oid differ"}, {}
            hub.lfs[oid] = body
            return 200, {}, {}
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        if self.headers.get("Authorization") != f"Bearer {hub.token}" and not path.startswith("/api/models"):
            return (
                401,
                {"error": "Invalid credentials"},
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )
        if path == "/api/whoami-v2":
            token = {"displayName": "ci", "role": hub.role, "fineGrained": {"scoped": hub.scopes}}
            return 200, {"name": hub.user, "orgs": hub.orgs, "auth": {"accessToken": token}}, {}
        if path == "/api/validate-yaml":
            bad = "license: nonsense" in json.loads(body)["content"]
            return (
                (400, {"errors": [{"message": '"license" must be one of …'}]}, {})
                if bad
                else (200, {"warnings": []}, {})
            )
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or hub.user}/{asked['name']}"
            known = name in hub.repos
            if not known:
                hub.repos[name] = Repo(private=asked.get("visibility") == "private")
            return 409 if known else 200, {"url": f"{hub.url}/{name}", "name": name}, {}
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                o if o["oid"] in hub.lfs else {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return 200, {"objects": objects}, {}
        if found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+?)(?:/(.*))?", path):
            return self._model(method, found[1], found[2] or "", body)
        return 404, {"error": f"no such endpoint: {method} {path}"}, {}

    def _model(self, method: str, name: str, rest: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        repo = self.hub.repos.get(name)
        mine = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repo is None or (repo.private and not mine):
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        verb, _, revision = rest.partition("/")
        if verb == "auth-check":
            refused = name in self.hub.readonly and revision == "write"
            return (403, {"error": "no"}, {}) if refused else (200, {}, {})
        if verb in ("", "revision"):
            known = repo.at(revision or "main")
            if known is None:
                return 404, {}, {"X-Error-Code": "RevisionNotFound"}
            info = {"id": name, "sha": known[0], "private": repo.private, "tags": []}
            if name in self.hub.licences:
                info["cardData"] = {"license": self.hub.licences[name]}
            return 200, {**info, "siblings": [{"rfilename": f} for f in known[1]]}, {}
        if verb == "refs":
            head = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha()}
            tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in repo.tags.items()]
            return 200, {"branches": [head], "converts": [], "tags": tags}, {}
        if verb == "tree":
            return 200, [_entry(path, content) for path, content in (repo.at(revision) or ("", {}))[1].items()], {}
        if verb == "discussions":
            return 200, self._discussions(name, repo), {}
        if name in self.hub.readonly and "create_pr" not in self.query and not revision.startswith("refs/pr/"):
            return 403, {"error": "Forbidden"}, {"X-Error-Message": "no write permission"}
        if verb == "preupload":
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(f["path"], repo.files[f["path"]]) if f["path"] in repo.files else None,
                }
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}, {}
        if verb == "tag":
            asked = json.loads(body)["tag"]
            if asked in repo.tags:
                return 409, {"error": "tag exists"}, {}
            repo.tags[asked] = repo.sha() if revision == "main" else revision
            return 200, {}, {}
        if verb == "commit":
            return self._commit(name, repo, revision, body)
        return 404, {"error": f"{method} {rest}"}, {}

    def _discussions(self, name: str, repo: Repo) -> dict[str, object]:
        asked = {key: values[0] for key, values in self.query.items()}
        found = [
            {
                "title": pull.title,
                "num": number,
                "author": {"name": pull.author},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "status": pull.status,
                "repo": {"name": name, "type": "model"},
                "isPullRequest": True,
            }
            for number, pull in enumerate(repo.pulls, 1)
            if asked.get("status") in (None, pull.status) and asked.get("author") in (None, pull.author)
        ]
        return {"discussions": found, "count": len(found), "start": 0}

    def _commit(self, name: str, repo: Repo, revision: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        branch = "" if revision == "main" else revision
        if header.get("parentCommit") not in (None, repo.sha(-1, branch)):
            return 412, {"error": "the branch has moved"}, {}
        files = dict(repo.branch(branch)[-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return 404, {"error": "A file with this name doesn't exist"}, {"X-Error-Code": "EntryNotFound"}
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    return 400, {"error": "unknown LFS object"}, {}
                files[value["path"]] = self.hub.lfs[value["oid"]]
        answer = {}
        if "create_pr" in self.query:
            repo.pulls.append(Pull(header["summary"], self.hub.user, [files]))
            branch = f"refs/pr/{len(repo.pulls)}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{len(repo.pulls)}"
        else:
            repo.branch(branch).append(files)
            if not branch:
                repo.messages.append(header["summary"])
        sha = repo.sha(-1, branch)
        return 200, {**answer, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha}, {}

    def _file(self, name: str, revision: str, path: str) -> tuple[int, object, dict[str, str]]:
        repo = self.hub.repos.get(name)
        mine = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repo is None or (repo.private and not mine):
            return 404, b"", {"X-Error-Code": "RepoNotFound"}
        commit, files = repo.at(revision) or (repo.sha(), {})
        if path not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        content = self.hub.served.get(path, files[path])
        return 200, content, {"ETag": f'"{_oid(path, files[path])}"', "X-Repo-Commit": commit}


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LFS_SUFFIXES) else _git(content)


def _entry(path: str, content: bytes) -> dict:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git(content)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": _oid(path, content), "size": len(content), "pointerSize": 134}
    return entry
