"""A stand-in for the Hugging Face Hub on a loopback port, and a script that asks it.

The library reads its environment when it is imported: whoever asks imports it anew.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.in_process import call_here
from tests.support.waiting import DEADLINE_S


class HubHandler(BaseHTTPRequestHandler):
    """How the stand-in speaks; what there is to have is the business of `reply`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""

    def do_HEAD(self) -> None:
        self.reply()

    def do_GET(self) -> None:
        self.reply()

    def reply(self) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a reply; without its body to a HEAD."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.write(body)

    def write(self, body: bytes) -> None:
        """Send a body."""
        self.wfile.write(body)

    def refuse(self, status: int, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send a status and the code by which the library knows the reason."""
        self.answer(status, b"", {**({"X-Error-Code": code} if code else {}), **(headers or {})})


@contextmanager
def hub_at(handler: type[HubHandler], hub: object) -> Iterator[str]:
    """The address at which `handler` answers, with `hub` as its attribute of that name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask_hub(
    script: str, wishes: object, *, home: Path, address: str, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a script prints as JSON; it is given `wishes` and may print nothing else."""
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **(env or {}),
    }
    program = compile(script, "<script>", "exec")
    _, out, err = call_here(
        lambda: exec(program, {"__name__": "__main__"}),
        ["-c", json.dumps(wishes)],
        directory=home,
        environment=environment,
        timeout_s=2 * DEADLINE_S,
    )
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    assert "\n" not in found.get("message", "")
    return found
