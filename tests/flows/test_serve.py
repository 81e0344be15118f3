"""The parts of `tutelage serve` that need no Prefect server, and what it refuses before it starts one."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.errors import ConfigError, MachineError
from flows.commands.serve import serve
from flows.config import ScheduleSpec
from flows.server import (
    Address,
    check_port,
    cron,
    prefect_address,
    prefect_server,
    prefect_settings,
    report_site,
    serve_lock,
)
from flows.vllm import free_port


@contextmanager
def http_server(status: int, body: bytes) -> Iterator[int]:
    """Answer every GET on a free loopback port with one thing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_given_api_url_is_used_and_a_server_of_our_own_otherwise() -> None:
    given = prefect_address("127.0.0.1", 4200, {"PREFECT_API_URL": "http://10.0.0.2:4200/api/"})
    assert given == Address("http://10.0.0.2:4200/api", own=False)
    assert given.ui == "http://10.0.0.2:4200"
    assert prefect_address("127.0.0.1", 4321, {}) == Address("http://127.0.0.1:4321/api", own=True)


def test_own_server_stays_in_the_home_and_a_shared_one_keeps_its_profile(tmp_path: Path) -> None:
    own = prefect_settings(tmp_path, Address("http://127.0.0.1:4321/api", own=True))
    assert own["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert own["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert own["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4321"
    shared = prefect_settings(tmp_path, Address("http://10.0.0.2:4200/api", own=False))
    assert "PREFECT_HOME" not in shared
    assert shared["PREFECT_RESULTS_LOCAL_STORAGE_PATH"].startswith(str(tmp_path))


def test_a_taken_port_names_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.close()
    with http_server(404, b"") as port, pytest.raises(MachineError, match=r"can't be used[\s\S]*--port"):
        check_port("127.0.0.1", port)
    check_port("127.0.0.1", free_port())


def test_a_port_with_a_prefect_server_says_how_to_use_that_one() -> None:
    with http_server(200, b"true") as port, pytest.raises(MachineError, match="PREFECT_API_URL=http"):
        check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(MachineError, match=r"192\.0\.2\.1"):
        check_port("192.0.2.1", 4200)


def test_an_api_url_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    address = Address(f"http://127.0.0.1:{free_port()}/api", own=False)
    with pytest.raises(MachineError, match="no Prefect server answers"), prefect_server(address, tmp_path):
        pass


def test_a_second_serve_of_a_project_is_told_where_the_first_is(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from flows.server import serve_lock\n"
        "with serve_lock(Path(sys.argv[1]), 'UI at http://127.0.0.1:4200'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        expected = rf"process {other.pid}: UI at http://127.0.0.1:4200[\s\S]*kill {other.pid}"
        with pytest.raises(MachineError, match=expected), serve_lock(tmp_path, "mine"):
            pass
        other.kill()
    with serve_lock(tmp_path, "mine"):  # the kill left nothing stale behind
        pass


def test_report_site_shows_reports_and_nothing_above_them(tmp_path: Path) -> None:
    (tmp_path / "catalogue.duckdb").write_text("secret")
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "run 1.html").write_text("<p>learned</p>")
    with report_site(reports, "127.0.0.1") as site:
        with urllib.request.urlopen(f"{site}/run%201.html") as answer:
            assert answer.read() == b"<p>learned</p>"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{site}/..%2fcatalogue.duckdb")
        refused.value.close()
        assert refused.value.code == 404


def test_no_cron_means_no_schedule() -> None:
    assert cron(ScheduleSpec()) is None


def test_cron_and_zone_reach_the_schedule() -> None:
    schedule = cron(ScheduleSpec(refresh_cron="0 3 * * *", timezone="Asia/Shanghai"))
    assert schedule is not None
    assert (schedule.cron, schedule.timezone) == ("0 3 * * *", "Asia/Shanghai")


@pytest.mark.parametrize(("expression", "zone"), [("every night", "UTC"), ("61 3 * * *", "UTC"), ("0 3 * * *", "Mars")])
def test_a_bad_schedule_is_a_configuration_error(expression: str, zone: str) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        cron(ScheduleSpec(refresh_cron=expression, timezone=zone))


def test_missing_configuration_ends_before_anything_starts(tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, [str(tmp_path / "none.yaml")])
    assert isinstance(result.exception, ConfigError)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_is_json_for_whoever_asks(tmp_path: Path) -> None:
    with serve_lock(tmp_path, "UI at x"):
        assert json.loads((tmp_path / "serve.lock").read_text()) == {"pid": os.getpid(), "note": "UI at x"}
