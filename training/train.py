"""One training job: from a spec to a trained model directory, resumed where it was stopped."""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from data_catalog.errors import TrainingError
from data_catalog.files import check_writable
from data_catalog.identity import digest
from training.checkpoints import Found, Sealer, inputs_digest, newest_verified
from training.footprint import size
from training.guards import check_learned, check_pad_token, check_positions
from training.methods import check_start
from training.models import (
    ModelSource,
    ParameterCount,
    count_parameters,
    open_source,
    resolve_precision,
    write_adapted,
    write_model,
)
from training.preflight import (
    Preflight,
    Room,
    calibrate,
    look_ahead,
    memory_for,
    more_pieces,
    out_of_memory,
    room,
    training_seconds,
)
from training.process import Progress, StopRequest
from training.rows import load_dataset, load_replay
from training.specs import EQUAL_GROUPS, MetricPoint, TrainJob, TrainResult
from training.stages.base import Material, Setting, Stage
from training.stages.classify import Classify
from training.stages.dpo import Dpo
from training.stages.grpo import Grpo
from training.stages.kto import Kto
from training.stages.orpo import Orpo
from training.stages.ppo import Ppo
from training.stages.pretrain import Pretrain
from training.stages.reference import ReferenceTrainer
from training.stages.reward import Reward
from training.stages.rloo import Rloo
from training.stages.sft import Sft
from training.stages.simpo import Simpo

_IMPLEMENTED: tuple[Stage, ...] = (
    Pretrain(),
    Sft(),
    Dpo(),
    Kto(),
    Orpo(),
    Simpo(),
    Reward(),
    Ppo(),
    Grpo(),
    Rloo(),
    Classify(),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in _IMPLEMENTED}
"""`stage` of a spec to what does it."""

_NOT_VALUES = frozenset({"loss", "learning_rate", "epoch", "step", "num_tokens"})
"""Fields of their own; `num_tokens` begins at 0 again in a resumed run, so it would mislead."""
_TOLD = ("reward", EQUAL_GROUPS)
"""Values that are told at once, of stages whose loss says little."""
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")


def train(
    job: TrainJob, *, progress: Progress, stop: StopRequest, import_seconds: float = 0.0, free: Room = room
) -> TrainResult:
    """Run a training job; write `job.output` (whole or not at all) and return what happened.

    Goes on from the newest verified checkpoint below `job.work`. Where memory runs out, a batch is taken in two pieces,
    then in four, and so on: the rows of a step stay the same. `free` says how many bytes may be taken.

    Raises:
        TrainingError: a guard fires.
        MachineError: it does not fit, or a batch can't be made smaller.
        Interrupted: a stop was requested; a checkpoint is kept.
    """
    for place in (job.output.parent, job.work):
        check_writable(place)
    spec, stage = job.spec, STAGES[job.spec.stage]
    source = open_source(job.model, needs_chat_template=stage.needs_chat_template)
    check_start(spec, source)
    guards = {"pad_token": check_pad_token(source.tokenizer)}
    replay = load_replay(job.replay) if job.replay and job.replay_share else []
    if job.replay_share and not replay:
        raise TrainingError("replay_share is set but there are no replay rows", next_step="set `replay` in the config")
    material = stage.encode(spec, source, load_dataset(job.dataset), replay, job.replay_share)
    guards |= material.guards
    progress.write("encoded", rows=material.ledger.kept, tokens=material.ledger.tokens)
    attempt = Attempt(job, stage, source, material, progress, stop, free)
    pieces = 1
    while True:
        try:
            done = attempt.run(pieces)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            pieces = more_pieces(spec, pieces, stage.least_batch, error)
            reason = str(error).partition("\n")[0]
        else:
            return _result(job, material, done, guards, import_seconds)
        # Out of the except block, whose traceback holds every tensor of the attempt.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rows, accumulated = spec.batch_size // pieces, spec.gradient_accumulation * pieces
        guards["out_of_memory"] = f"batches of {rows}, {accumulated} a step, instead of {spec.batch_size}: {reason}"
        progress.write("out_of_memory", batch_size=rows, gradient_accumulation=accumulated, reason=reason)


@dataclass(frozen=True)
class Done:
    """What an attempt that came to its end left."""

    steps: int
    seconds: float
    parameters: ParameterCount
    metrics: tuple[MetricPoint, ...]
    found: Found
    guards: Mapping[str, str]
    predicted_memory: int
    predicted_seconds: float


@dataclass(frozen=True)
class Attempt:
    """A job with its rows, to be tried with batches in so and so many pieces."""

    job: TrainJob
    stage: Stage
    source: ModelSource
    material: Material
    progress: Progress
    stop: StopRequest
    free: Room

    def run(self, pieces: int) -> Done:
        """Train, merge and write the model. A lack of memory is raised as the library raised it."""
        job, spec, stage, source, material = self.job, self.job.spec, self.stage, self.source, self.material
        guards: dict[str, str] = {}
        method, precision = stage.method(spec), resolve_precision(spec.precision)
        ahead = look_ahead(stage, spec, source, material, pieces=pieces, precision=precision, free=self.free)
        self.progress.write("preflight", **ahead.events())
        set_seed(spec.seed)
        with memory_for("loading the model"):
            model = method.load(source, precision)
        if spec.method.virtual_tokens:
            positions = int(model.config.get_text_config().max_position_embeddings)
            guards["positions"] = check_positions(max(map(len, material.rows)), spec.method.virtual_tokens, positions)
        model = method.prepare(model, spec, source)
        parameters = count_parameters(model)
        checkpoints = job.work / "checkpoints"
        job_digest = _job_digest(job)
        found = newest_verified(checkpoints, job_digest)
        _report_skipped(found, self.progress)
        sealer = Sealer(checkpoints, job_digest)
        watcher = Watcher(job.work / "metrics.jsonl", self.progress, self.stop, sealer)
        setting = Setting(source, precision, checkpoints, job.reward_model, pieces)
        trainer = stage.trainer(spec, model, material, setting, [watcher])
        if isinstance(trainer, ReferenceTrainer):
            guards[f"{spec.stage}_step0_loss"] = trainer.check_step0(
                precision, is_reference=method.starts_as_reference(source)
            )
        predicted_seconds = self._calibrate(trainer, ahead, guards)
        seconds = _run(trainer, found, self.stop, sealer)
        metrics, steps = metric_points(trainer.state.log_history), trainer.state.global_step
        check_learned(metrics)
        if found.skipped:
            guards["skipped_checkpoints"] = "; ".join(found.skipped)
        self.progress.write("merging")
        trained = stage.trained(trainer)
        trainer.optimizer = trainer.lr_scheduler = None  # room for the merge
        gc.collect()
        with memory_for("merging and writing the model"):
            finished = method.finish(trained, spec, source, material.probe, job.work)
            finished.model.to(source.stored_dtype)
            if finished.adapter is None:
                write_model(finished.model, source, job.output)
            else:
                write_adapted(finished.model, finished.adapter, spec.method, source, job.output)
        return Done(
            steps=steps,
            seconds=seconds,
            parameters=parameters,
            metrics=metrics,
            found=found,
            guards={**guards, **finished.guards},
            predicted_memory=ahead.footprint.total,
            predicted_seconds=predicted_seconds,
        )

    def _calibrate(self, trainer: Any, ahead: Preflight, guards: dict[str, str]) -> float:
        """Do one step that counts not; return how long the loop will take, 0 where that can't be told."""
        step = calibrate(trainer, ahead)
        if step is None:
            return 0.0
        seconds = training_seconds(self.job.spec, self.material, ahead, step)
        guards["preflight"] = (
            f"{size(ahead.footprint.total)} predicted, {size(step.memory)} taken with the largest batch "
            f"({ahead.batch.lines} x {ahead.batch.width}), about {seconds:,.0f} s to train"
        )
        self.progress.write("calibrated", memory=step.memory, step_seconds=step.seconds, seconds=seconds)
        return seconds


def _result(
    job: TrainJob, material: Material, done: Done, guards: Mapping[str, str], import_seconds: float
) -> TrainResult:
    return TrainResult(
        stage=job.spec.stage,
        method=job.spec.method.name,
        steps=done.steps,
        seconds=done.seconds,
        import_seconds=import_seconds,
        trainable_parameters=done.parameters.trainable,
        total_parameters=done.parameters.total,
        ledger=material.ledger,
        metrics=done.metrics,
        resumed_from_step=done.found.step,
        peak_memory_bytes=_peak_memory(),
        predicted_memory_bytes=done.predicted_memory,
        predicted_seconds=done.predicted_seconds,
        guards={**guards, **done.guards},
        versions={package: version(package) for package in _PACKAGES},
    )


def _run(trainer: Any, found: Found, stop: StopRequest, sealer: Sealer) -> float:
    """Train to the end or to a stop request; return the seconds of the loop."""
    began = time.monotonic()
    try:
        with stop.deferred():
            trainer.train(resume_from_checkpoint=str(found.path) if found.path else None)
    finally:
        sealer.close()
    return time.monotonic() - began


def _job_digest(job: TrainJob) -> str:
    """Digest of what decides the trained weights: settings, data, base, versions. Not where files lie."""
    paths = [job.dataset, job.model, *(path for path in (job.replay, job.reward_model) if path)]
    return digest(
        {
            "spec": job.spec,
            "replay_share": job.replay_share,
            "inputs": inputs_digest(*paths),
            "versions": {package: version(package) for package in _PACKAGES},
        }
    )


def _report_skipped(found: Found, progress: Progress) -> None:
    for reason in found.skipped:
        progress.write("checkpoint_skipped", reason=reason)
    if found.path:
        progress.write("resumed", step=found.step)


class Watcher(TrainerCallback):
    """Reports each logged step, seals each checkpoint, and ends the loop when a stop was requested."""

    def __init__(self, metrics_file: Path, progress: Progress, stop: StopRequest, sealer: Sealer) -> None:
        self._metrics_file = metrics_file
        self._progress = progress
        self._stop = stop
        self._sealer = sealer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the metrics file with what a resumed run has behind it."""
        self._metrics_file.parent.mkdir(parents=True, exist_ok=True)
        points = metric_points(state.log_history)
        self._metrics_file.write_text("".join(point.model_dump_json() + "\n" for point in points), "utf-8")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a last checkpoint and the end of the loop if a stop was requested."""
        if self._stop.requested:
            control.should_save = True
            control.should_training_stop = True
        if control.should_save:
            # The mean loss since the last log is not part of a checkpoint: log here, and nothing is left over.
            control.should_log = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the logged step to the metrics file and tell the caller."""
        for point in metric_points([{**(logs or {}), "step": state.global_step, "epoch": state.epoch or 0.0}]):
            with self._metrics_file.open("a", encoding="utf-8") as out:
                out.write(point.model_dump_json() + "\n")
            told = {name: point.values[name] for name in _TOLD if name in point.values}
            self._progress.write(
                "step", step=point.step, steps=state.max_steps, loss=point.loss, epoch=point.epoch, **told
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Seal the checkpoint that was just written."""
        self._sealer.submit(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def metric_points(log_history: Sequence[Mapping[str, Any]]) -> tuple[MetricPoint, ...]:
    """Return the training steps of a trainer's log, without its closing summary."""
    points = []
    for entry in log_history:
        if "loss" not in entry:
            continue
        values = {
            name: float(value)
            for name, value in entry.items()
            if name not in _NOT_VALUES and isinstance(value, int | float)
        }
        points.append(
            MetricPoint(
                step=int(entry["step"]),
                epoch=float(entry["epoch"]),
                loss=float(entry["loss"]),
                learning_rate=entry.get("learning_rate"),
                values={name: value for name, value in values.items() if math.isfinite(value)},
            )
        )
    return tuple(points)


def _peak_memory() -> int:
    """Largest memory in bytes: of the GPU where there is one, of the process otherwise."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
