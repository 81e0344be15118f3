"""Supervised fine-tuning by Tutelage beside `trl sft` and LLaMA-Factory: same model, rows, batches, steps and threads.

    python -m benchmarks.training [--repeats N] [--rows N] [--llamafactory /path/to/llamafactory-cli]

A model of the sandbox's size with random weights is trained, all of them, on the sandbox's general conversations. Each
contestant is a process of its own, and they take turns:

- tutelage: a training process as a run starts it, with its defaults;
- trl: `trl sft` with its defaults;
- trl tuned: `trl sft` with what helps on this machine: float32, no recomputation, batches of rows of like length;
- llamafactory: `llamafactory-cli train` with its defaults, in an environment of its own, where one is named.

Printed are the medians of all repeats: tokens with loss per second of the training loop, wall seconds of the whole
process, seconds outside the loop (imports, tokenising, saving), peak memory, and the loss on rows held out, computed
here for everybody alike.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from benchmarks.machine import describe
from flows.sandbox import SANDBOX
from training.environment import usable_cores, worker_environment
from training.specs import SftSpec, TrainJob, TrainResult

BASE = SANDBOX / "models" / "base"
BATCH = 16
EPOCHS = 2
RATE = 1e-3
MAX_LENGTH = 256
HELD_OUT = 200
SEED = 42
_LOOP = re.compile(r"'train_runtime': '?([\d.]+)")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One contestant's run."""

    loop: float
    wall: float
    peak_bytes: int
    loss: float


def rows_of(count: int) -> tuple[list[Row], list[Row]]:
    """Return conversations of one turn: `count` to train on, and those held out."""
    lines = (SANDBOX / "replay.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if len(row.get("messages", ())) == 2]
    if count + HELD_OUT > len(rows):
        raise SystemExit(f"--rows {count}: there are {len(rows) - HELD_OUT} beside those held out")
    return rows[:count], rows[-HELD_OUT:]


def held_out_loss(model: Path, rows: Sequence[Row]) -> float:
    """Return the mean negative log-likelihood of the answers up to their end mark, which is included, in nats a token.

    What a chat template writes behind the end mark is left out: not every contestant learns it.
    """
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for row in rows:
        messages = row["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(messages)["input_ids"]
        whole = whole[: len(whole) - whole[::-1].index(tokenizer.eos_token_id)]
        ids = torch.tensor([whole])
        with torch.no_grad():
            logits = weights(ids).logits[0, len(prompt) - 1 : -1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()
        count += len(whole) - len(prompt)
    return total / count


def random_model(folder: Path) -> Path:
    """Write a model of the student base's size and language that has learned nothing."""
    disable_progress_bar()
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE), dtype=torch.float32)
    target = folder / "start"
    shutil.copytree(BASE, target)
    model.save_pretrained(target)
    return target


def process(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> tuple[float, int]:
    """Run a process to its end; return its wall seconds and the peak memory of it or of a child of it, in bytes."""
    started = time.perf_counter()
    with log.open("wb") as output:
        running = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(argv[:3])} ended with {running.returncode}:\n{tail}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


class Tutelage:
    """Our training process, with the defaults of a stage."""

    def __init__(self, start: Path, rows: Sequence[Row], held_out: Sequence[Row], folder: Path) -> None:
        self._start, self._held_out, self._folder = start, held_out, folder
        payloads = [json.dumps({"messages": row["messages"]}) for row in rows]
        table = pa.table({"id": [f"row-{number}" for number in range(len(rows))], "payload": payloads})
        pq.write_table(table, folder / "rows.parquet")
        self.target_tokens = 0

    def __call__(self, number: int) -> Outcome:
        """Train once."""
        work = self._folder / f"tutelage-{number}"
        work.mkdir()
        job = TrainJob(
            spec=SftSpec(
                method="full",  # type: ignore[arg-type]
                learning_rate=RATE,
                epochs=EPOCHS,
                batch_size=BATCH,
                max_length=MAX_LENGTH,
                warmup_share=0.0,
                seed=SEED,
            ),
            model=self._start,
            dataset=self._folder / "rows.parquet",
            output=work / "model",
            work=work / "work",
        )
        (work / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
        argv = [sys.executable, "-m", "training.worker", str(work / "job.json"), str(work / "result.json")]
        wall, peak = process(argv, worker_environment(), work / "log")
        result = TrainResult.model_validate_json((work / "result.json").read_text(encoding="utf-8"))
        self.target_tokens = result.ledger.target_tokens * EPOCHS
        return Outcome(result.seconds, wall, peak, held_out_loss(job.output, self._held_out))


class Trl:
    """`trl sft` on the same rows as prompt and completion, which it supervises the completion of."""

    def __init__(
        self, start: Path, rows: Sequence[Row], held_out: Sequence[Row], folder: Path, name: str, *options: str
    ) -> None:
        self._start, self._held_out, self._folder = start, held_out, folder
        self._name, self._options = name, options
        self._data = folder / f"{name}-data"
        self._data.mkdir()
        with (self._data / "train.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                prompt, completion = row["messages"]
                file.write(json.dumps({"prompt": [prompt], "completion": [completion]}) + "\n")

    def __call__(self, number: int) -> Outcome:
        """Train once."""
        output = self._folder / f"{self._name}-{number}"
        argv = [
            str(Path(sys.executable).with_name("trl")),
            "sft",
            *("--model_name_or_path", str(self._start), "--dataset_name", str(self._data), "--output_dir", str(output)),
            *("--max_length", str(MAX_LENGTH), "--per_device_train_batch_size", str(BATCH)),
            *("--num_train_epochs", str(EPOCHS), "--learning_rate", str(RATE), "--seed", str(SEED)),
            *("--report_to", "none", "--use_cpu", "true"),
            *self._options,
        ]
        log = self._folder / f"{self._name}-{number}.log"
        environment = {**offline(), "OMP_NUM_THREADS": str(usable_cores())}
        wall, peak = process(argv, environment, log)
        return Outcome(loop_seconds(log), wall, peak, held_out_loss(output, self._held_out))


class LlamaFactory:
    """`llamafactory-cli train` of another environment, full fine-tuning with its defaults otherwise."""

    def __init__(self, start: Path, rows: Sequence[Row], held_out: Sequence[Row], folder: Path, command: Path) -> None:
        self._start, self._held_out, self._folder, self._command = start, held_out, folder, command
        data = folder / "llamafactory-data"
        data.mkdir()
        (data / "rows.json").write_text(json.dumps([{"messages": row["messages"]} for row in rows]), encoding="utf-8")
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        columns = {"messages": "messages"}
        info = {"rows": {"file_name": "rows.json", "formatting": "sharegpt", "columns": columns, "tags": tags}}
        (data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
        self._data = data

    def __call__(self, number: int) -> Outcome:
        """Train once."""
        output = self._folder / f"llamafactory-{number}"
        settings = {
            "model_name_or_path": str(self._start),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "dataset": "rows",
            "dataset_dir": str(self._data),
            "template": "chatml",
            "cutoff_len": MAX_LENGTH,
            "output_dir": str(output),
            "per_device_train_batch_size": BATCH,
            "num_train_epochs": EPOCHS,
            "learning_rate": RATE,
            "lr_scheduler_type": "linear",
            "seed": SEED,
            "report_to": "none",
            "use_cpu": True,
        }
        file = self._folder / f"llamafactory-{number}.yaml"  # JSON is YAML, and its own reader of `.json` fails
        file.write_text(json.dumps(settings), encoding="utf-8")
        log = file.with_suffix(".log")
        environment = {**offline(), "OMP_NUM_THREADS": str(usable_cores()), "DISABLE_VERSION_CHECK": "1"}
        wall, peak = process([str(self._command), "train", str(file)], environment, log)
        results = json.loads((output / "train_results.json").read_text(encoding="utf-8"))
        return Outcome(results["train_runtime"], wall, peak, held_out_loss(output, self._held_out))


def offline() -> dict[str, str]:
    """Return what keeps a contestant off the network."""
    return {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def loop_seconds(log: Path) -> float:
    """Return the seconds that transformers' Trainer printed for its loop."""
    found = _LOOP.findall(log.read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise SystemExit(f"{log} does not say how long the training took")
    return float(found[-1])


def main() -> None:
    """Let them take turns and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=960, help=f"a multiple of {BATCH}")
    parser.add_argument("--llamafactory", type=Path, help="llamafactory-cli of an environment of its own")
    arguments = parser.parse_args()
    if arguments.rows % BATCH:
        parser.error(f"--rows {arguments.rows} is no multiple of {BATCH}: the contestants would take other steps")
    print(describe())
    rows, held_out = rows_of(arguments.rows)
    steps = len(rows) // BATCH * EPOCHS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = random_model(folder)
        ours = Tutelage(start, rows, held_out, folder)
        tuned = (
            *("--bf16", "false", "--gradient_checkpointing", "false", "--dataloader_pin_memory", "false"),
            *("--train_sampling_strategy", "group_by_length"),
        )
        contestants: dict[str, Callable[[int], Outcome]] = {
            "tutelage": ours,
            "trl": Trl(start, rows, held_out, folder, "trl"),
            "trl tuned": Trl(start, rows, held_out, folder, "trl-tuned", *tuned),
        }
        if arguments.llamafactory is not None:
            contestants["llamafactory"] = LlamaFactory(start, rows, held_out, folder, arguments.llamafactory)
        outcomes: dict[str, list[Outcome]] = {name: [] for name in contestants}
        for number in range(arguments.repeats):
            for name, train in contestants.items():
                outcomes[name].append(train(number))
        print(f"{len(rows)} rows, {steps} steps of {BATCH}, {ours.target_tokens:,} tokens with loss, all weights")
        print(f"loss on {HELD_OUT} rows held out, before: {held_out_loss(start, held_out):.4f}")
        show(outcomes, ours.target_tokens)


def show(outcomes: Mapping[str, Sequence[Outcome]], tokens: int) -> None:
    """Print the medians and the ratios to ours, pair by pair."""
    print(f"{'':<14}{'tokens/s':>10}{'wall s':>9}{'outside s':>11}{'peak MiB':>10}{'loss':>9}{'ours is x times':>18}")
    for name, found in outcomes.items():

        def median(value: Callable[[Outcome], float], found: Sequence[Outcome] = found) -> float:
            return statistics.median(map(value, found))

        ratios = [other.loop / own.loop for other, own in zip(found, outcomes["tutelage"], strict=True)]
        print(
            f"{name:<14}{tokens / median(lambda one: one.loop):>10,.0f}{median(lambda one: one.wall):>9.1f}"
            f"{median(lambda one: one.wall - one.loop):>11.1f}{median(lambda one: one.peak_bytes) / 2**20:>10,.0f}"
            f"{median(lambda one: one.loss):>9.4f}{statistics.median(ratios):>18.2f}"
        )


if __name__ == "__main__":
    main()
