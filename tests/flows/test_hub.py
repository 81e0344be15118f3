"""`tutelage export --push`: the real client against a hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.flows.projects import REPOSITORY
from tests.flows.registered import register_model

pytestmark = pytest.mark.slow


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload of small files needs; remembers what it was given."""

    files: ClassVar[dict[str, bytes]] = {}
    created: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    @property
    def _own(self) -> str:
        return f"http://{self.headers['Host']}"

    def do_GET(self) -> None:
        self._json(404, {"error": "not here"})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._json(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(data))
            self._json(200, {"url": f"{self._own}/ada/model", "name": "ada/model", "id": "1"})
        elif "/preupload/" in self.path:
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in _files(data)]
            self._json(200, {"files": modes})
        else:
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._json(200, {"commitUrl": f"{self._own}/ada/model/commit/abc", "commitOid": "abc", "success": True})

    def _json(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _files(data: bytes) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(data)["files"]
    return files


@pytest.fixture
def hub() -> Iterator[str]:
    _Hub.files.clear()
    _Hub.created.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pushed(home: Path, target: Path, repository: str, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = ["export", "candidate", "--to", str(target), "--home", str(home), "--push", repository]
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_right", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_arrives_is_what_was_exported_in_a_private_repository(tmp_path: Path, hub: str) -> None:
    register_model(tmp_path, "one")
    target = tmp_path / "out"
    result = pushed(tmp_path, target, "ada/model", HF_ENDPOINT=hub)
    assert result.returncode == 0, result.stderr
    assert f"{hub}/ada/model/commit/abc" in result.stdout
    exported = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert _Hub.files == exported
    assert _Hub.created[0]["visibility"] == "private"


@pytest.mark.parametrize(
    ("repository", "environment", "code", "said"),
    [
        ("ada/model", {"HF_TOKEN": "hf_wrong"}, 10, "hf upload ada/model"),
        ("a/b/c", {}, 2, "valid: owner/name"),
        ("ada/model", {"HF_HUB_OFFLINE": "1"}, 10, "HF_HUB_OFFLINE is set"),
    ],
    ids=["token", "name", "offline"],
)
def test_what_the_hub_does_not_take_is_said_and_the_export_stays(
    tmp_path: Path, hub: str, repository: str, environment: dict[str, str], code: int, said: str
) -> None:
    register_model(tmp_path, "one")
    result = pushed(tmp_path, tmp_path / "out", repository, **{"HF_ENDPOINT": hub, **environment})
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "out" / "tutelage-export.json").is_file()
