"""A server that answers like Ollama and then does what a real one does only on a bad day."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHOW = {
    "modelfile": "# Modelfile\n\nFROM /store/blobs/sha256-" + "a" * 64 + "\nTEMPLATE {{ .Prompt }}\n",
    "template": "{{ messages }}",
    "parameters": "",
    "model_info": {},
}


@dataclass(kw_only=True)
class Fault:
    """What the server does. A reply is a JSON value, or bytes that are sent as they are.

    Attributes:
        version: What `/api/version` says.
        replies: Path to status and reply.
        lines: Path to the lines of a stream.
        breaks: The connection is reset after this many lines of a stream.
        reset_upload_after: Bytes of an upload that are read before the connection is reset.
        resets: How often an upload is reset before one goes through.
        blob_status: What HEAD on a blob answers.
        endless: Path that sends bytes without a line end until the client leaves.
        requests: `METHOD path` of everything that came, and the bodies of JSON requests.
    """

    version: object = "0.34.0"
    replies: dict[str, tuple[int, object]] = field(default_factory=dict)
    lines: dict[str, list[object]] = field(default_factory=dict)
    breaks: int | None = None
    reset_upload_after: int = 0
    resets: int = 0
    blob_status: int = 404
    endless: str = ""
    requests: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def faulty(fault: Fault) -> Iterator[str]:
    """Serve a fault on a free port of the loopback; gives the URL."""

    class Handler(_Handler):
        pass

    Handler.fault = fault
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    fault: Fault

    def do_GET(self) -> None:
        self._note()
        self._reply({"version": self.fault.version} if self.path == "/api/version" else {})

    def do_HEAD(self) -> None:
        self._note()
        self.send_response(self.fault.blob_status)
        self.end_headers()

    def do_DELETE(self) -> None:
        self._note()
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        self._note()
        if self.path.startswith("/api/blobs/") and self.fault.resets > 0:
            self.fault.resets -= 1
            self.rfile.read(self.fault.reset_upload_after)
            self._reset()
            return
        self.fault.bodies.append(self._body())
        if self.path == self.fault.endless:
            self._endless()
        elif self.path in self.fault.lines:
            self._stream(self.fault.lines[self.path])
        else:
            self._reply({})

    def _body(self) -> Any:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return json.loads(data) if self.headers.get("Content-Type") == "application/json" else len(data)

    def _reply(self, default: object) -> None:
        status, reply = self.fault.replies.get(self.path, (200, default))
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: list[object]) -> None:
        self.send_response(200)
        self.end_headers()
        for number, line in enumerate(lines):
            if self.fault.breaks == number:
                self._reset()
                return
            self.wfile.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 65536)
        except OSError:
            self.close_connection = True

    def _reset(self) -> None:
        """Close with RST, as a killed server's system does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _note(self) -> None:
        self.fault.requests.append(f"{self.command} {self.path}")
        self.fault.headers.append({key.lower(): value for key, value in self.headers.items()})

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:  # the connection was reset on purpose
            return

    def log_message(self, *_: object) -> None:
        """Say nothing."""
