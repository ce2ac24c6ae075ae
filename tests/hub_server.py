"""Hugging Face's and ModelScope's hub on loopback, speaking their protocols, with the faults that networks have.

Large files of Hugging Face are redirected to a second server, as to a CDN. That it is the protocol is shown by the real
huggingface_hub, which fetches from it in tests/sources/test_huggingface.py; modelscope 1.40.2 does too, which no test shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", "tokenizer.json")  # what is kept in LFS
BRANCHES = ("main", "master")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a server was asked."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with requests whose path contains `path`, `times` times.

    Attributes:
        cut: The connection is reset after this many bytes of the body.
        stall_after: After this many bytes of the body nothing more comes, and the connection stays open.
        status: The answer's status in place of the real one, with `headers`.
        change: The body is changed.
        ignore_range: The whole body is sent whatever is asked for.
        then: Called when the fault has happened.
    """

    path: str
    times: int = 1
    cut: int | None = None
    stall_after: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    change: Callable[[bytes], bytes] | None = None
    ignore_range: bool = False
    then: Callable[[], None] = lambda: None


class HubServer:
    """Models by name, with their commits and branches, and everything that was asked."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.gated: set[str] = set()
        self.gives_digests = self.gives_sizes = True
        self.extra_paths: tuple[str, ...] = ()
        self.url = self.cdn_url = ""

    def push(self, repo: str, files: dict[str, bytes], *branches: str) -> str:
        """Add a commit and move branches to it; both default branches when none is named."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path, data in sorted(files.items()):
            digest.update(f"{path}\0".encode() + data)
        commit = digest.hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        for branch in branches or BRANCHES:
            self.branches[repo, branch] = commit
        return commit

    def paths(self, server: str = "hub", method: str = "GET") -> list[str]:
        """Give the paths that were asked of a server."""
        return [seen.path for seen in self.requests if seen.server == server and seen.method == method]

    def fault(self, path: str) -> Fault | None:
        """Give the next fault for a path, and count it."""
        for fault in self.faults:
            if fault.times > 0 and fault.path in path:
                fault.times -= 1
                return fault
        return None

    def resolve(self, repo: str, revision: str) -> str | None:
        """Give the commit of a revision."""
        if revision in self.commits.get(repo, {}):
            return revision
        return self.branches.get((repo, revision))


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    hub: HubServer
    name: str

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(server=self.name, method=self.command, path=self.path, headers=headers))
        fault = self.hub.fault(f"{self.name} {self.path}")
        if fault is not None and fault.status is not None:
            self._send(fault.status, b"", fault.headers)
        else:
            self._route(fault)
        if fault is not None:
            fault.then()

    def _route(self, fault: Fault | None) -> None:
        parts, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        path = unquote(parts.path)
        if found := re.fullmatch(r"/cdn/(\w+)", path):
            every = (f for commits in self.hub.commits.values() for files in commits.values() for f in files.values())
            self._body(next(data for data in every if sha256(data) == found[1]), {}, fault)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+|refs/pr/\d+))?", path):
            self._hugging_face_api(found[1], found[2] or "revision", unquote(found[3] or "main"), fault)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._hugging_face_file(found[1], found[2], found[3], fault)
        elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo(/files)?", path):
            revision = query.get("Revision", ["master"])[0]
            if found[2]:
                self._modelscope_list(found[1], revision, query["Recursive"] == ["True"], fault)
            else:
                self._modelscope_file(found[1], revision, query["FilePath"][0], fault)
        else:
            self._send(404, b"{}", {})

    # --- Hugging Face

    def _hugging_face_api(self, repo: str, what: str, revision: str, fault: Fault | None) -> None:
        commit = self._hugging_face_commit(repo, revision)
        if commit is None:
            return
        files = [*self.hub.commits[repo][commit].items(), *((path, b"x") for path in self.hub.extra_paths)]
        if what == "tree":
            self._json([self._tree_entry(path, data) for path, data in files], fault)
        else:
            siblings = [self._sibling(path, data) for path, data in files]
            info = {"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            self._json(info, fault)

    def _hugging_face_commit(self, repo: str, revision: str) -> str | None:
        if repo not in self.hub.commits:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif (commit := self.hub.resolve(repo, revision)) is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return commit
        return None

    def _hugging_face_file(self, repo: str, revision: str, path: str, fault: Fault | None) -> None:
        commit = self._hugging_face_commit(repo, revision)
        if commit is None:
            return
        if repo in self.hub.gated and self.headers.get("Authorization") != "Bearer hf_allowed":
            self._send(
                403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}
            )
            return
        data = self.hub.commits[repo][commit].get(path)
        if data is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": commit}
        if path.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", headers | {"Location": f"{self.hub.cdn_url}/cdn/{sha256(data)}"})
        else:
            self._body(data, headers | {"ETag": f'"{git_sha1(data)}"'}, fault)

    def _sibling(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": path, "size": len(data)}
        if not self.hub.gives_digests:
            return entry
        entry["blobId"] = git_sha1(data)
        if path.endswith(LARGE):
            entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
        return entry

    def _tree_entry(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return entry

    # --- ModelScope

    def _modelscope_list(self, repo: str, revision: str, recursive: bool, fault: Fault | None) -> None:
        if repo not in self.hub.commits:
            self._json({"Code": 10010205001, "Message": "record not found", "Success": False}, status=404)
            return
        commit = self.hub.resolve(repo, revision)
        data: dict[str, object] = {"Files": None, "IsVisual": 0, "LatestCommitter": None}
        if commit is not None:
            entries: list[dict[str, object]] = [
                {"Path": path, "Type": "blob", "Size": 1} for path in self.hub.extra_paths
            ]
            entries += [self._modelscope_entry(repo, commit, path) for path in self.hub.commits[repo][commit]]
            data["Files"] = [entry for entry in entries if recursive or "/" not in str(entry["Path"])][:3000]
            data["LatestCommitter"] = {"Id": "", "ShortId": commit[:8]}
        self._json({"Code": 200, "Data": data, "Message": "success", "RequestId": "1", "Success": True}, fault)

    def _modelscope_entry(self, repo: str, commit: str, path: str) -> dict[str, object]:
        data = self.hub.commits[repo][commit][path]
        earlier = [c for c, files in self.hub.commits[repo].items() if files.get(path) == data]
        digest = sha256(data) if self.hub.gives_digests else None
        return {
            "Path": path, "Name": path.rsplit("/", 1)[-1], "Type": "blob", "Sha256": digest,
            "Size": len(data) if self.hub.gives_sizes else 0,
            "Revision": earlier[0], "CommittedDate": 1700000000, "IsLFS": path.endswith(LARGE),
        }  # fmt: skip

    def _modelscope_file(self, repo: str, revision: str, path: str, fault: Fault | None) -> None:
        commit = self.hub.resolve(repo, revision)
        if repo in self.hub.gated and "Authorization" not in self.headers:
            self._json({"Code": 10010205002, "Message": "no permission", "Success": False}, status=403)
        elif commit is None or path not in self.hub.commits[repo][commit]:
            self._json({"Code": 10010205001, "Message": "no such file", "Success": False}, status=404)
        else:
            self._body(self.hub.commits[repo][commit][path], {}, fault)

    # --- both

    def _json(self, value: object, fault: Fault | None = None, *, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"}, fault)

    def _body(self, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
        status, total, start = 200, len(data), 0
        if fault is not None and fault.change is not None:
            data = fault.change(data)
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if ranged and not (fault is not None and fault.ignore_range):
            status, start = 206, int(ranged[1])
            headers |= {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        self._send(status, data[start:], headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        cut, stall = (None, None) if fault is None else (fault.cut, fault.stall_after)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body[: stall if cut is None else cut])
        if stall is not None:
            with contextlib.suppress(ConnectionResetError):
                self.rfile.read(1)  # until the other side goes away
        self.close_connection = cut is not None or stall is not None


@contextlib.contextmanager
def running_hub() -> Iterator[HubServer]:
    """Run the hub and its CDN, each on a port of its own, until the block ends."""
    hub = HubServer()
    servers = []
    for name in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def checkpoint_files(weights_bytes: int = 300_000) -> dict[str, bytes]:
    """Give a model's files in name and form, two shards among them, with everything that a build does not need."""
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    needed = {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "tokenizer.json": b'{"model": {"type": "BPE"}}' * 500,
        "tokenizer_config.json": b"{}",
        "generation_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
        "README.md": b"---\nlicense: mit\n---\n",
        "LICENSE": b"MIT",
        "model.safetensors.index.json": index,
        shards[0]: bytes(range(256)) * (weights_bytes // 256),
        shards[1]: bytes(reversed(range(256))) * (weights_bytes // 256),
    }
    return needed | dict.fromkeys(NOT_NEEDED, b"not needed")


NOT_NEEDED = (
    ".gitattributes", "pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.bin", "optimizer.pt",
    "consolidated.safetensors", "model-q4.gguf", "onnx/model.onnx", "tf_model.h5", "flax_model.msgpack", "modeling_x.py",
    "original/params.json", "trainer_state.json",
)  # fmt: skip
