"""A stand-in for a Ray cluster's Jobs server, on a real socket: it runs the entrypoints that it is sent."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

_PATH = "/api/jobs/"


class JobsServer:
    """The part of Ray's REST API that a sweep needs. Jobs run in `home`, with `environment` and their own.

    `stopped` are the jobs that somebody else has ended.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.stopped: set[str] = set()
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = dict(environment)
        server = self

        class Replies(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self._send(server._start(json.loads(self.rfile.read(int(self.headers["content-length"])))))

            def do_GET(self) -> None:
                name, _, what = self.path.removeprefix(_PATH).partition("/")
                if name not in server.jobs:
                    self._send(f"Job {name} does not exist", 404)
                else:
                    self._send(server._log(name) if what == "logs" else server._state(name))

            def _send(self, said: str | dict[str, Any], status: int = 200) -> None:
                body = (said if isinstance(said, str) else json.dumps(said)).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> JobsServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.jobs.values():
            process.kill()
            process.wait()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _start(self, job: dict[str, Any]) -> dict[str, Any]:
        name = job["submission_id"]
        with (self.home / f"{name}.log").open("wb") as log:
            self.jobs[name] = subprocess.Popen(
                ["/bin/sh", "-c", job["entrypoint"]],
                env={**self._environment, "HOME": str(self.home), **job["runtime_env"]["env_vars"]},
                cwd="/",
                stdout=log,
                stderr=log,
            )
        return {"submission_id": name}

    def _log(self, name: str) -> dict[str, Any]:
        return {"logs": (self.home / f"{name}.log").read_text()}

    def _state(self, name: str) -> dict[str, Any]:
        code = self.jobs[name].poll()
        ended = "STOPPED" if name in self.stopped else "FAILED" if code else "SUCCEEDED"
        return {"status": "RUNNING" if code is None else ended, "driver_exit_code": code}
