"""Training processes: what they write, how they end, and that killing them loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_catalog.records import Message, Request, Sampling
from tests.training.tiny import identical, payloads, train_job
from training.environment import worker_environment
from training.host import refuse_threads
from training.specs import CompleteJob, CompleteResult, GrpoSpec, JobFailure, SftSpec, TrainJob, TrainResult
from training.worker import main

ENVIRONMENT = {**os.environ, **worker_environment()}
SPEC = SftSpec.model_validate(
    {"method": "lora", "learning_rate": 1e-2, "epochs": 10, "batch_size": 4, "max_length": 128}
    | {"checkpoint_steps": 5, "log_steps": 1}
)


def write(job: TrainJob | CompleteJob, folder: Path) -> tuple[Path, Path]:
    """Write a job file; return it and the place of its result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.json"
    path.write_text(job.model_dump_json())
    return path, folder / "result.json"


def lines_until(stream: Any, event: str, **values: Any) -> list[dict[str, Any]]:
    """Read progress lines up to the one that is asked for."""
    seen = []
    for line in stream:
        seen.append(json.loads(line))
        if seen[-1]["event"] == event and all(seen[-1].get(name) == value for name, value in values.items()):
            return seen
    raise AssertionError(f"the stream ended without {event} {values}: {seen}")


def gone(pid: int, seconds: float) -> bool:
    """Whether a process has ended (a zombie has) within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


class HostClient:
    """A running `training.host`, as a caller sees it."""

    def __init__(self, log: Path) -> None:
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "training.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env=ENVIRONMENT,
                text=True,
                start_new_session=True,
            )
        self.ready = lines_until(self.process.stdout, "ready")[-1]

    def start(self, job: Path, result: Path) -> int:
        """Start a job; return the pid of its process."""
        assert self.process.stdin
        order = {"job": str(job), "result": str(result), "log": str(job.with_name("log"))}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(lines_until(self.process.stdout, "started", job=str(job))[-1]["pid"])

    def until(self, event: str, **values: Any) -> list[dict[str, Any]]:
        return lines_until(self.process.stdout, event, **values)


@contextmanager
def running_host(log: Path) -> Iterator[HostClient]:
    client = HostClient(log)
    try:
        yield client
    finally:
        assert client.process.stdin
        client.process.stdin.close()
        assert client.process.wait(timeout=60) == 0
        assert client.process.stdout
        client.process.stdout.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostClient]:
    with running_host(tmp_path_factory.mktemp("host") / "log") as client:
        yield client


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainJob, TrainResult, list[dict[str, Any]]]:
    """A job done by a plain worker, without interruption."""
    folder = tmp_path_factory.mktemp("plain")
    job = train_job(folder, base, SPEC, payloads("sft"))
    job_file, result_file = write(job, folder)
    done = subprocess.run(
        [sys.executable, "-m", "training.worker", job_file, result_file],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Nothing but progress lines on stdout, and nothing worth a look in the log.
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr.strip() == "", done.stderr
    return job, TrainResult.model_validate_json(result_file.read_bytes()), lines


@pytest.mark.slow
def test_a_worker_reports_its_steps_and_writes_its_result(
    plain: tuple[TrainJob, TrainResult, list[dict[str, Any]]],
) -> None:
    job, result, lines = plain
    steps = [line for line in lines if line["event"] == "step"]
    assert [step["step"] for step in steps] == list(range(1, 61))
    assert all(step["steps"] == 60 and step["loss"] > 0 for step in steps)
    assert (result.stage, result.method, result.steps) == ("sft", "lora", 60)
    assert result.import_seconds > 0.5
    assert result.peak_memory_bytes > 50_000_000
    assert (job.output / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_forked_job_equals_a_plain_worker_bit_for_bit(
    base: Path, tmp_path: Path, host: HostClient, plain: tuple[TrainJob, TrainResult, list[dict[str, Any]]]
) -> None:
    for attempt in ("first", "second"):
        job = train_job(tmp_path / attempt, base, SPEC, payloads("sft"))
        files = write(job, tmp_path / attempt)
        host.start(*files)
        assert host.until("ended", job=str(files[0]))[-1]["exit"] == 0
        result = TrainResult.model_validate_json(files[1].read_bytes())
        assert result.metrics == plain[1].metrics
        assert result.import_seconds < 0.5
        assert identical(job.output, plain[0].output)


@pytest.mark.slow
def test_a_forked_job_can_train_on_4_bit_weights(base: Path, tmp_path: Path, host: HostClient) -> None:
    spec = SftSpec.model_validate({**SPEC.model_dump(), "method": "qlora", "epochs": 1})
    files = write(train_job(tmp_path, base, spec, payloads("sft")), tmp_path)
    host.start(*files)
    assert host.until("ended", job=str(files[0]))[-1]["exit"] == 0
    assert "quantisation_gap" in TrainResult.model_validate_json(files[1].read_bytes()).guards


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_model(
    base: Path, tmp_path: Path, host: HostClient, plain: tuple[TrainJob, TrainResult, list[dict[str, Any]]]
) -> None:
    job = train_job(tmp_path, base, SPEC, payloads("sft"))
    files = write(job, tmp_path)
    for step in (13, 31):
        pid = host.start(*files)
        host.until("step", job=str(files[0]), step=step)
        os.kill(pid, signal.SIGKILL)
        assert host.until("ended", job=str(files[0]))[-1]["exit"] == -signal.SIGKILL
        assert not files[1].exists()
        assert not job.output.exists()
    host.start(*files)
    assert host.until("ended", job=str(files[0]))[-1]["exit"] == 0
    result = TrainResult.model_validate_json(files[1].read_bytes())
    assert 25 <= result.resumed_from_step <= 45
    assert identical(job.output, plain[0].output)
    assert result.metrics == plain[1].metrics


@pytest.mark.slow
def test_killed_in_the_middle_of_a_rollout_it_learns_on_from_the_same_answers(
    base: Path, tmp_path: Path, host: HostClient
) -> None:
    """Of each rollout's four steps all but the first one need answers that only the checkpoint still has."""
    given = {"method": "lora", "learning_rate": 5e-3, "max_length": 128, "reward": "token_f1", "max_new_tokens": 6}
    rollouts = {"rollout": 4, "group_size": 2, "batch_size": 4, "passes": 2, "epochs": 8}
    spec = GrpoSpec.model_validate({**given, **rollouts, "log_steps": 1, "checkpoint_steps": 3})
    results = []
    for name in ("whole", "killed"):
        job = train_job(tmp_path / name, base, spec, payloads("grpo", 4))
        files = write(job, tmp_path / name)
        if name == "killed":
            pid = host.start(*files)
            host.until("step", job=str(files[0]), step=6)
            os.kill(pid, signal.SIGKILL)
            assert host.until("ended", job=str(files[0]))[-1]["exit"] == -signal.SIGKILL
        host.start(*files)
        assert host.until("ended", job=str(files[0]))[-1]["exit"] == 0
        results.append((job, TrainResult.model_validate_json(files[1].read_bytes())))
    (whole, expected), (killed, result) = results
    assert expected.steps == 32
    assert 3 <= result.resumed_from_step < 32
    assert result.metrics == expected.metrics
    assert identical(killed.output, whole.output)


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_ends_resumable(base: Path, tmp_path: Path, host: HostClient) -> None:
    spec = SPEC.model_copy(update={"checkpoint_steps": 1000})
    job = train_job(tmp_path, base, spec, payloads("sft"))
    files = write(job, tmp_path)
    pid = host.start(*files)
    host.until("step", job=str(files[0]), step=7)
    os.kill(pid, signal.SIGTERM)
    assert host.until("ended", job=str(files[0]))[-1]["exit"] == 130
    failure = JobFailure.model_validate_json(files[1].read_bytes())
    assert failure.error == "Interrupted"
    assert "run the same command again" in failure.next_step
    host.start(*files)
    assert host.until("ended", job=str(files[0]))[-1]["exit"] == 0
    assert TrainResult.model_validate_json(files[1].read_bytes()).resumed_from_step >= 7


@pytest.mark.slow
def test_a_failure_is_written_with_its_exit_code(base: Path, tmp_path: Path, host: HostClient) -> None:
    files = write(train_job(tmp_path, base, SPEC, payloads("pretrain")), tmp_path)
    host.start(*files)
    assert host.until("ended", job=str(files[0]))[-1]["exit"] == 5
    failure = JobFailure.model_validate_json(files[1].read_bytes())
    assert failure.error == "TrainingError"
    assert "has no 'messages'" in failure.message
    assert failure.valid
    assert failure.next_step
    assert "has no 'messages'" in files[0].with_name("log").read_text()


@pytest.mark.slow
def test_a_completing_job(base: Path, tmp_path: Path, host: HostClient) -> None:
    requests = [
        Request(model="m", messages=(Message(role="user", content=f"{n}?"),), sampling=Sampling(max_tokens=4))
        for n in range(9)
    ]
    (tmp_path / "requests.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in requests))
    job = CompleteJob(model=base, requests=tmp_path / "requests.jsonl", output=tmp_path / "out.jsonl")
    files = write(job, tmp_path)
    host.start(*files)
    assert host.until("ended", job=str(files[0]))[-1]["exit"] == 0
    assert CompleteResult.model_validate_json(files[1].read_bytes()).answered == 9
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 9


@pytest.mark.slow
def test_a_host_ends_with_its_stdin_and_takes_its_jobs_along(base: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"epochs": 1000.0})
    files = write(train_job(tmp_path, base, spec, payloads("sft")), tmp_path)
    with running_host(tmp_path / "host.log") as client:
        assert client.process.stdin
        client.process.stdin.write('{"job": 1}\n')
        pid = client.start(*files)  # the line before it was refused, and the host lives on
        client.until("step", step=3)
    assert gone(pid, 5)
    assert JobFailure.model_validate_json(files[1].read_bytes()).error == "Interrupted"


_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "training.worker", *sys.argv[1:]], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_is_killed(base: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"epochs": 1000.0, "checkpoint_steps": 1000})
    job = train_job(tmp_path, base, spec, payloads("sft"))
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, *map(str, write(job, tmp_path))],
        stdout=subprocess.PIPE,
        env={**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    lines_until(parent.stdout, "step", step=5)
    parent.kill()
    parent.wait()
    assert gone(pid, 20)
    parent.stdout.close()
    # It did not just die: it kept what it had.
    assert any((job.work / "checkpoints").glob("checkpoint-*/complete.json"))


def test_a_bad_job_file_is_told_without_importing_torch(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text('{"kind": "train", "spec": {"stage": "sft", "epoch": 3}}')
    script = (
        "import sys; from training.worker import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, job, tmp_path / "result.json"], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert done.returncode == 2, done.stderr
    failure = JobFailure.model_validate_json((tmp_path / "result.json").read_bytes())
    assert failure.error == "ConfigError"
    assert "epoch" in failure.message


def test_usage() -> None:
    assert main([]) == 2


def test_an_old_result_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text('{"stage": "sft"}')
    script = "import sys; from training.worker import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "missing.json", result],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    assert JobFailure.model_validate_json(result.read_bytes()).error == "ConfigError"


def test_light_modules_import_no_torch() -> None:
    script = (
        "import sys, training.specs, training.environment, training.process, training.worker, training.host; "
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'pyarrow'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_network_whatever_the_caller_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.environment import apply_late

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in worker_environment():
        monkeypatch.setenv(name, os.environ.get(name, ""))
    apply_late()
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == os.environ["DO_NOT_TRACK"] == "1"


def test_a_host_refuses_to_fork_with_threads() -> None:
    import threading

    from data_catalog.errors import MachineError

    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    try:
        with pytest.raises(MachineError, match="threads"):
            refuse_threads()
    finally:
        waiting.set()
        thread.join()
