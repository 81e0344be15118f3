"""How pip's settings reach uv, and how uv's answer becomes a lock file without a trace of them."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def regenerate() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "locks" / "regenerate.py"))


def test_pip_settings_become_uv_settings(regenerate: dict[str, Any]) -> None:
    listing = "\n".join(
        [
            ":env:.find-links='/wheels'",
            "global.cert='/certificates.pem'",
            "global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'",
            "global.find-links='/other /wheels'",
            "global.index-url='https://main.example/simple'",
            "global.timeout='60'",
        ]
    )

    assert regenerate["pip_settings"](listing) == {
        "UV_DEFAULT_INDEX": "https://main.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/certificates.pem",
    }


def test_a_lock_loses_build_labels_sources_and_comments(regenerate: dict[str, Any]) -> None:
    resolved = "\n".join(
        [
            "--index-url https://main.example/simple",
            "--find-links /wheels",
            "# via something",
            "",
            "numpy==2.3.5",
            "torch==2.13.0+cpu ; sys_platform == 'linux'",
        ]
    )

    assert regenerate["normalise"](resolved, ("One.", "Two.")) == (
        "# One.\n# Two.\nnumpy==2.3.5\ntorch==2.13.0 ; sys_platform == 'linux'\n"
    )


def test_an_unknown_lock_is_refused_with_the_valid_names(
    regenerate: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        regenerate["main"](["tpu"])

    assert "unknown lock 'tpu'; valid: cpu, gpu" in capsys.readouterr().err


class Installation:
    """locks/install.sh with a Python that only writes down what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.python = folder / "a python"
        self.python.write_text(
            '#!/bin/sh\necho "$*" >> "$CALLS"\n'
            'case "$*" in *"$REFUSED"*) echo "ERROR: $REASON" >&2; exit 1;; esac\n'
            'echo "Collecting one"\n'
        )
        self.python.chmod(0o755)

    def run(
        self, *, refused: str = "nothing", reason: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the script; pip commands that hold `refused` fail with `reason`."""
        return subprocess.run(
            [ROOT / "locks" / "install.sh", self.python],
            env={
                "PATH": f"{self.python.parent}/bin:/usr/bin:/bin",
                "CALLS": str(self.calls),
                "REFUSED": refused,
                "REASON": reason,
                **environment,
            },
            capture_output=True,
            text=True,
        )

    @property
    def installed(self) -> list[str]:
        """The arguments of each pip call from the first that differs."""
        shared = "-m pip install --disable-pip-version-check --no-input --no-deps "
        return [line.removeprefix(shared) for line in self.calls.read_text().splitlines()]


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    folder = tmp_path / "with space"
    (folder / "bin").mkdir(parents=True)
    # The tests stand for Linux wherever they run.
    (folder / "bin" / "uname").write_text("#!/bin/sh\necho Linux\n")
    (folder / "bin" / "uname").chmod(0o755)
    return Installation(folder)


TORCH = next(line for line in (ROOT / "locks" / "cpu.txt").read_text().splitlines() if line.startswith("torch=="))


def test_torch_comes_from_the_configured_indexes_where_they_have_it(installation: Installation) -> None:
    assert installation.run().returncode == 0
    assert installation.installed[0] == f"--quiet {TORCH}+cpu"
    assert installation.installed[1].endswith("locks/cpu.txt")
    assert len(installation.installed) == 2


def test_torch_comes_from_pytorch_where_the_configured_indexes_have_none(installation: Installation) -> None:
    result = installation.run(refused="+cpu", reason="No matching distribution found for torch")

    assert result.returncode == 0
    assert installation.installed[1] == f"--quiet --index-url https://download.pytorch.org/whl/cpu {TORCH}"
    assert installation.installed[2].endswith("locks/cpu.txt")


def test_another_failure_of_the_first_try_ends_with_pips_own_words(installation: Installation) -> None:
    result = installation.run(refused="+cpu", reason="No space left on device")

    assert result.returncode != 0
    assert "No space left on device" in result.stderr
    assert len(installation.installed) == 1


def test_torch_index_is_the_only_place_when_it_is_set(installation: Installation) -> None:
    assert installation.run(TORCH_INDEX="https://mirror.example/cpu").returncode == 0
    assert installation.installed[0] == f"--quiet --index-url https://mirror.example/cpu {TORCH}"


def test_a_torch_that_nobody_has_names_the_variable(installation: Installation) -> None:
    result = installation.run(refused="torch==", reason="No matching distribution found for torch")

    assert result.returncode != 0
    assert "make setup TORCH_INDEX=URL" in result.stderr
    assert not any("cpu.txt" in call for call in installation.installed)


def test_a_failure_in_the_closure_is_not_swallowed(installation: Installation) -> None:
    result = installation.run(refused="cpu.txt", reason="broken wheel")

    assert result.returncode != 0
    assert "broken wheel" in result.stderr
