"""What the methods cost on one model: parameters, disk, and the delay of a forward, each measured.

The delay is that of the adapter as it answers: bottlenecks and low-rank products beside the weights, a soft prompt as
the first entries of the cache. A method that merges has none once it is merged.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from data_catalog.errors import MachineError, TrainingError
from training.method_specs import AnyMethod
from training.methods import METHODS, Method
from training.models import ModelSource, count_parameters, device, load_weights, open_source, resolve_precision
from training.process import Progress
from training.specs import MeasureJob, MeasureResult, MethodMeasure, SftSpec
from training.student import Student


def measure(job: MeasureJob, *, progress: Progress) -> MeasureResult:
    """Measure each method of a job on its model; one that does not fit the model is reported with the reason.

    Two copies of the model are held at a time: the base, and the one that a method has changed.
    """
    source = open_source(job.model, needs_chat_template=False)
    if source.adapter_method is not None:
        raise TrainingError(
            f"{job.model} carries a {source.adapter_method.name} adapter, so it is not what the methods start from",
            valid="an ordinary model",
            next_step=f"measure {source.path}",
        )
    base = Student(load_weights(source, resolve_precision("auto")).to(device()))
    positions = int(base.model.config.get_text_config().max_position_embeddings)
    reserved = max(method.virtual_tokens for method in job.methods)
    tokens = max(1, min(job.tokens, positions - reserved))
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(base.model.get_input_embeddings().weight.shape[0], (1, tokens), generator=generator)
    rows = []
    for method in job.methods:
        rows.append(_measure_one(method, source, base, probe, job.repeats))
        progress.write("batch", done=len(rows), total=len(job.methods))
    return MeasureResult(
        methods=tuple(rows),
        parameters=count_parameters(base.model).total,
        tokens=tokens,
        repeats=job.repeats,
        device=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU",
    )


def _measure_one(
    method: AnyMethod, source: ModelSource, base: Student, probe: torch.Tensor, repeats: int
) -> MethodMeasure:
    implementation, spec = METHODS[method.name], SftSpec(method=method)
    torch.manual_seed(spec.seed)
    try:
        model = implementation.prepare(implementation.load(source, resolve_precision("auto")), spec, source)
    except (TrainingError, MachineError) as error:
        return MethodMeasure(method=method, refused=error.message)
    count = count_parameters(model)
    if implementation.saves_whole:
        weights = sum(file.stat().st_size for file in source.path.glob("*.safetensors"))
        return MethodMeasure(method=method, trainable=count.trainable, total=count.total, stored_bytes=weights)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "adapter"
        implementation.save_adapter(model, spec, folder)
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        student = Student(model) if method.merges else _as_it_answers(implementation, source, folder)
        delay = slowdown(base, student, probe, repeats)
    return MethodMeasure(method=method, trainable=count.trainable, total=count.total, stored_bytes=stored, delay=delay)


def _as_it_answers(implementation: Method, source: ModelSource, folder: Path) -> Student:
    base = load_weights(source, resolve_precision("auto")).to(device())
    return implementation.attach(replace(source, adapter=folder), base)


def slowdown(base: Student, adapted: Student, probe: torch.Tensor, repeats: int) -> float:
    """Return how much longer a forward of `probe` takes on `adapted`: the median of ratios of neighbouring runs - 1.

    Base and adapted run in turn, so that whatever else the machine does falls on both; the first pair only warms up.
    """
    pairs = [(_seconds(base, probe), _seconds(adapted, probe)) for _ in range(repeats + 1)]
    return statistics.median(one / other for other, one in pairs[1:]) - 1


def _seconds(student: Student, probe: torch.Tensor) -> float:
    began = time.perf_counter()
    student.forward(probe)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
