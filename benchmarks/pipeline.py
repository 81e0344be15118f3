"""The sandbox from nothing to a registered model, then again with nothing changed.

    python -m benchmarks.pipeline [--seed N]

Prints the seconds of every step, the share of the run outside training and generation, and the time of the unchanged
second run beside the first. Without `--seed` it runs the shipped world; its home is a temporary folder in both cases.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe
from flows.config import Config
from flows.config_file import load_config
from flows.pipeline import run
from flows.progress import RecordingReporter, SilentReporter, StepTime
from flows.sandbox import CONFIG_NAME, SANDBOX, write_project

GENERATION = ("teacher", "generate", "curate")
TRAINING = ("train:", "sample:")


def timed_run(config: Config) -> tuple[float, list[StepTime], str]:
    """Run the pipeline and return its wall seconds, its steps and its headline."""
    reporter = RecordingReporter(SilentReporter())
    started = time.perf_counter()
    summary = run(config, reporter)
    return time.perf_counter() - started, reporter.times, summary.headline


def main() -> None:
    """Measure both runs and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, help="a new world instead of the shipped one")
    seed = parser.parse_args().seed
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        path = SANDBOX / CONFIG_NAME if seed is None else write_project(seed, Path(folder) / "world")
        config = load_config(path).model_copy(update={"home": Path(folder) / "home"})
        wall, steps, headline = timed_run(config)
        again, _, _ = timed_run(config)
    for step in steps:
        print(f"{step.step:<22} {step.seconds:8.1f} s  {step.detail}")
    inside = sum(step.seconds for step in steps if step.step in GENERATION or step.step.startswith(TRAINING))
    print(f"{'all':<22} {wall:8.1f} s  {headline}")
    print(f"outside training and generation: {wall - inside:.1f} s, {(wall - inside) / wall:.1%} of the run")
    print(f"unchanged second run: {again:.1f} s, {again / wall:.1%} of the first")


if __name__ == "__main__":
    main()
