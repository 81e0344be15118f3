"""Rows per second of generation by Tutelage beside distilabel and NeMo Data Designer, on one real vLLM server.

    python -m benchmarks.generation [--rows N] [--rounds N] [--distilabel PYTHON] [--datadesigner PYTHON]

The server is the sandbox's teacher. A contestant is a process of its own that gets a file of prompts and writes a file
of answers, with as many requests in flight as it is told; the other two are named by the Python of the environment that
they are installed in (`pip install "distilabel[openai]" requests`, `pip install data-designer`). Beside them stands the
bare client of `benchmarks.client`, which writes nothing. They take turns, and no prompt is sent twice.

A row is accepted when its answer is not empty, and a contestant that brings fewer than asked for ends the benchmark.
The seconds are those of the whole process, which is what a user waits for: imports and start-up count, so that more
rows tell more of the rate and fewer more of the start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import bare
from benchmarks.machine import describe
from data_catalog.records import Message, Request, Sampling
from flows.config_file import load_config
from flows.sandbox import CONFIG_NAME, SANDBOX
from flows.vllm import SERVED_NAME, VllmServer

SCRIPTS = Path(__file__).with_name("contestants")
OURS = "tutelage"
TEMPERATURE = 0.7
MAX_TOKENS = 64
VERSION_OF = "from importlib.metadata import version; import sys; print(version(sys.argv[1]))"
Prompts = Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """One contestant's turn."""

    rows: int
    seconds: float


Turn = Callable[[Prompts], Outcome]


def prompts_of(number: int, count: int) -> list[str]:
    """Return the prompts of one turn, which no other turn sends."""
    text = (
        "The Benchmark {row} of turn {number} weighs {row} kg and was built in the town of Tarnholm. How heavy is it?"
    )
    return [text.format(row=row, number=number) for row in range(count)]


class Contestant:
    """A script under benchmarks/contestants, run by a Python that can import what it needs."""

    def __init__(self, name: str, python: Path, server: VllmServer, concurrency: int, folder: Path) -> None:
        self._name, self._python, self._server, self._folder = name, python, server, folder
        self._concurrency = concurrency
        self._turns = 0

    def __call__(self, prompts: Prompts) -> Outcome:
        """Let it answer the prompts."""
        self._turns += 1
        work = self._folder / f"{self._name}-{self._turns}"
        work.mkdir()
        job = {
            "base_url": self._server.base_url,
            "model": SERVED_NAME,
            "concurrency": self._concurrency,
            "temperature": TEMPERATURE,
            "max_tokens": MAX_TOKENS,
            "prompts": list(prompts),
            "answers": str(work / "answers.json"),
            "work": str(work),
        }
        (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
        argv = [str(self._python), str(SCRIPTS / f"with_{self._name}.py"), str(work / "job.json")]
        started = time.perf_counter()
        done = subprocess.run(argv, capture_output=True, env=self._environment(), text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(
                f"{self._name} ended with {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
            )
        answers = json.loads((work / "answers.json").read_text(encoding="utf-8"))
        accepted = sum(bool(answer and answer.strip()) for answer in answers)
        if accepted != len(prompts):
            raise SystemExit(f"{self._name} brought {accepted} of {len(prompts)} rows: the rates mean nothing")
        return Outcome(accepted, seconds)

    def _environment(self) -> dict[str, str]:
        own = {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1", "NEMO_TELEMETRY_ENABLED": "false"}
        if self._name == OURS:
            own["PYTHONPATH"] = str(SCRIPTS.parents[1])
        return {**os.environ, **own}


def bare_turn(server: VllmServer, concurrency: int) -> Turn:
    """Return the turn of the bare client."""

    def turn(prompts: Prompts) -> Outcome:
        requests = [
            Request(
                model="benchmark",
                messages=(Message(role="user", content=prompt),),
                sampling=Sampling(temperature=TEMPERATURE, max_tokens=MAX_TOKENS),
            )
            for prompt in prompts
        ]
        return Outcome(len(prompts), asyncio.run(bare(server.base_url, requests, concurrency)))

    return turn


def version(python: Path, package: str) -> str:
    """Return the version of a package in an environment."""
    done = subprocess.run([str(python), "-c", VERSION_OF, package], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} has no {package}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def main() -> None:
    """Let them take turns and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--distilabel", type=Path, help="Python of an environment that has distilabel")
    parser.add_argument("--datadesigner", type=Path, help="Python of an environment that has data-designer")
    arguments = parser.parse_args()
    print(describe())
    others = {"distilabel": arguments.distilabel, "datadesigner": arguments.datadesigner}
    packages = {"distilabel": "distilabel", "datadesigner": "data-designer"}
    pythons = {name: python for name, python in others.items() if python is not None}
    for name, python in pythons.items():
        print(f"beside    {packages[name]} {version(python, packages[name])}")
    teacher = load_config(SANDBOX / CONFIG_NAME).teacher
    with tempfile.TemporaryDirectory() as place, VllmServer(teacher, home=Path(place)) as server:
        turns: dict[str, Turn] = {
            name: Contestant(name, python, server, teacher.concurrency, Path(place))
            for name, python in {OURS: Path(sys.executable), **pythons}.items()
        }
        turns["bare"] = bare_turn(server, teacher.concurrency)
        number = 0
        turns["bare"](prompts_of(number, 64))
        outcomes: dict[str, list[Outcome]] = {name: [] for name in turns}
        for _ in range(arguments.rounds):
            for name, turn in turns.items():
                number += 1
                outcomes[name].append(turn(prompts_of(number, arguments.rows)))
    show(outcomes)


def show(outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """Print the medians and, turn by turn, how much faster ours was."""
    print(f"{'':<14}{'rows/s':>8}{'seconds':>10}{'ours is x times':>18}")
    for name, found in outcomes.items():
        seconds = statistics.median(outcome.seconds for outcome in found)
        rate = statistics.median(outcome.rows / outcome.seconds for outcome in found)
        ratios = [one.seconds / own.seconds for one, own in zip(found, outcomes[OURS], strict=True)]
        print(f"{name:<14}{rate:>8.1f}{seconds:>10.1f}{statistics.median(ratios):>18.2f}")


if __name__ == "__main__":
    main()
