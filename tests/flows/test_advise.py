"""`tutelage advise`: the table of plans, what fits where, and what is counted of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError, DataError, DocumentError, MachineError, TrainingError
from data_catalog.records import Split
from flows.advising.fitting import told
from flows.advising.given import (
    CUDA_CONTEXT,
    GIB,
    Goal,
    Machine,
    Student,
    chunk_tokens_for,
    counted_data,
    documents_data,
    named_machine,
    read_student,
    this_machine,
)
from flows.advising.methods import FEW, MANY
from flows.advising.planning import REPLAY_SHARE, Advice, advise, check_fits
from flows.advising.words import lines
from flows.document_parser import document_parser
from generators.chunks import cut
from generators.documents import read_documents
from generators.recipes import build_requests
from generators.specs import DocumentsSpec, GenerateSpec
from generators.tokens import load_counter
from tests.flows.projects import STUDENT, write_documents
from training.footprint import MARGIN, Shape
from training.method_specs import LoraSpec, QloraSpec


def llama(layers: int, hidden: int, inner: int, *, positions: int | None = 4096) -> Student:
    """Return a Llama of these dimensions, of which no byte is stored."""
    linears = ((hidden, hidden),) * 4 + ((hidden, inner),) * 2 + ((inner, hidden),)
    count = layers * sum(into * out for into, out in linears) + 2 * 32_000 * hidden
    shape = Shape(
        layers=layers,
        hidden=hidden,
        query=hidden,
        key=hidden,
        inner=inner,
        vocabulary=32_000,
        parameters=count,
        linears=linears * layers,
        stored_bytes=2 * count,
        stored_float=False,
    )
    return Student(Path("llama"), shape, positions)


SEVEN = llama(32, 4096, 11_008)
AMPLE = named_machine(2_000, 2_000, 3e14)


def plan(
    student: Student, machine: Machine, goal: Goal, examples: int, *, text: bool = False, replay: Path | None = None
) -> Advice:
    """Return the plan for examples of 200 tokens, or for a text that has so many sentences."""
    data = counted_data(None, 25 * examples, 512) if text else counted_data(examples, 200 * examples, 512)
    return advise(student, machine, data, goal, max_length=1024, replay=replay)


def kinds(advice: Advice) -> list[tuple[str, str]]:
    return [(stage.spec.stage_name, stage.spec.method.name) for stage in advice.stages]


@pytest.mark.parametrize(
    ("goal", "examples", "expected"),
    [
        (Goal.BEHAVIOUR, FEW - 1, [("sft", "prefix_tuning")]),
        (Goal.BEHAVIOUR, FEW, [("sft", "lora")]),
        (Goal.BEHAVIOUR, MANY + 1, [("sft", "full")]),
        (Goal.PREFERENCE, 5_000, [("sft", "lora"), ("dpo", "lora")]),
        (Goal.CLASSIFICATION, FEW - 1, [("sft", "p_tuning")]),
        (Goal.CLASSIFICATION, FEW, [("sft", "lora")]),
        (Goal.CLASSIFICATION, MANY + 1, [("sft", "lora")]),
        (Goal.TASKS, FEW - 1, [("sft", "p_tuning")]),
        (Goal.TASKS, FEW, [("sft", "adapter")]),
    ],
)
def test_the_table_of_plans(goal: Goal, examples: int, expected: list[tuple[str, str]]) -> None:
    assert kinds(plan(SEVEN, AMPLE, goal, examples)) == expected


def test_knowledge_reads_before_it_learns_where_there_is_text() -> None:
    assert kinds(plan(SEVEN, AMPLE, Goal.KNOWLEDGE, 300, text=True)) == [("pretrain", "lora"), ("sft", "lora")]
    without = plan(SEVEN, AMPLE, Goal.KNOWLEDGE, 300)
    assert kinds(without) == [("sft", "lora")]
    assert any("no continued pretraining" in note for note in without.notes)


def test_a_large_model_takes_the_plain_prompt() -> None:
    assert kinds(plan(llama(80, 8192, 28_672), AMPLE, Goal.CLASSIFICATION, 100)) == [("sft", "prompt_tuning")]


def test_what_is_few_is_trained_for_more_passes() -> None:
    (few,) = plan(SEVEN, AMPLE, Goal.CLASSIFICATION, 400).stages
    assert few.spec.epochs == 20
    assert few.steps == 1000
    (least,) = plan(SEVEN, AMPLE, Goal.CLASSIFICATION, 8).stages
    assert least.spec.epochs == 50


def test_rank_and_dropout_follow_the_task_and_the_data() -> None:
    (hard,) = plan(SEVEN, AMPLE, Goal.KNOWLEDGE, 500).stages
    (simple,) = plan(SEVEN, AMPLE, Goal.CLASSIFICATION, 5_000).stages
    (little, _) = plan(SEVEN, AMPLE, Goal.PREFERENCE, 500).stages
    assert hard.spec.method == LoraSpec(rank=32, alpha=64, dropout=0.05)
    assert simple.spec.method == LoraSpec(rank=8, alpha=16, dropout=0.05)
    assert little.spec.method == LoraSpec(rank=16, alpha=32, dropout=0.1)


def test_a_preference_stage_learns_from_questions_that_sft_has_not_seen() -> None:
    learn, prefer = plan(SEVEN, AMPLE, Goal.PREFERENCE, 5_000).stages
    assert [choice.value for choice in learn.data] == [[0.0, 0.8]]
    assert [choice.value for choice in prefer.data] == [[0.8, 1.0]]
    assert learn.steps == 4_000 * 3 / 8
    odd = plan(SEVEN, AMPLE, Goal.BEHAVIOUR, 2_001).stages[0]
    assert odd.steps == 251 * 3  # the last step of a pass has one row
    assert prefer.steps == 2_000 / 8  # data.max_pairs


def test_replay_is_a_share_of_what_is_read_and_learned(tmp_path: Path) -> None:
    replay = tmp_path / "replay.jsonl"
    with_replay = plan(SEVEN, AMPLE, Goal.KNOWLEDGE, 300, text=True, replay=replay)
    without = plan(SEVEN, AMPLE, Goal.KNOWLEDGE, 300, text=True)
    assert [[choice.value for choice in stage.data] for stage in with_replay.stages] == [[REPLAY_SHARE]] * 2
    assert any("--replay" in note for note in without.notes)
    assert not any("--replay" in note for note in with_replay.notes)
    for more, less in zip(with_replay.stages, without.stages, strict=True):
        assert more.seconds is not None
        assert less.seconds is not None
        assert more.seconds == pytest.approx(less.seconds / (1 - REPLAY_SHARE), rel=0.05)


@pytest.mark.parametrize("gib", [7, 8, 10, 12, 16, 20, 24, 40, 80, 140])
@pytest.mark.parametrize("examples", [5_000, 20_000, 200_000])
def test_what_is_advised_fits_and_leaves_the_rows_of_a_step(gib: int, examples: int) -> None:
    advice = plan(SEVEN, named_machine(gib, None, None), Goal.BEHAVIOUR, examples)
    (stage,) = advice.stages
    assert stage.fitted.fits
    assert told(SEVEN.shape, stage.spec, advice.machine).total * MARGIN <= advice.machine.room + 1
    assert stage.spec.batch_size * stage.spec.gradient_accumulation == (8 if examples < 10_000 else 32)
    assert stage.spec.max_length == 1024
    check_fits(advice)


def test_more_memory_never_costs_more() -> None:
    """With growing memory: first qlora, then lora; of each first with checkpointing, in more and more rows at once."""
    costs = []
    for gib in range(7, 141):
        (stage,) = plan(SEVEN, named_machine(gib, None, None), Goal.BEHAVIOUR, 5_000).stages
        spec = stage.spec
        costs.append((isinstance(spec.method, QloraSpec), spec.gradient_checkpointing, spec.gradient_accumulation))
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == (True, True, 8)
    assert costs[-1] == (False, False, 1)


def test_what_is_too_large_is_told_with_what_it_takes_and_what_would_fit_as_well() -> None:
    (stage,) = plan(SEVEN, named_machine(80, None, None), Goal.BEHAVIOUR, 200_000).stages
    full, lora = stage.fitted.passed_over
    assert full.startswith("full, batch_size: 32")
    assert "at the least" in full
    assert lora.startswith("lora, batch_size: 32")
    assert "at the least" not in lora
    assert stage.spec.method.name == "lora"
    changed = {choice.key: choice for choice in stage.choices}
    assert changed["batch_size"].value == stage.spec.batch_size
    assert changed["batch_size"].reason.startswith("instead of 32, so that it fits")
    (small,) = plan(SEVEN, named_machine(80, None, None), Goal.BEHAVIOUR, 20_000).stages
    assert [one.partition(" (")[0] for one in small.fitted.instead] == ["gradient_checkpointing: true"]


def test_length_is_given_up_last_and_then_nothing_fits() -> None:
    least = told(SEVEN.shape, plan(SEVEN, AMPLE, Goal.BEHAVIOUR, 5_000).stages[0].spec, AMPLE)
    assert least.total > 5 * GIB
    short = plan(SEVEN, named_machine(6, None, None), Goal.BEHAVIOUR, 5_000)
    assert short.fits
    assert 128 <= short.longest < 1024
    assert "instead of 1024" in next(c.reason for c in short.stages[0].choices if c.key == "max_length")
    none = plan(SEVEN, named_machine(4, None, None), Goal.BEHAVIOUR, 5_000)
    assert not none.fits
    assert any("DOES NOT FIT" in line for line in lines(none))
    with pytest.raises(MachineError, match="would not fit"):
        check_fits(none)


def test_a_method_leaves_room_in_the_context_for_what_it_adds() -> None:
    student = llama(2, 64, 160, positions=512)
    (stage,) = plan(student, AMPLE, Goal.CLASSIFICATION, 100).stages
    assert stage.spec.max_length == 492
    (without,) = plan(student, AMPLE, Goal.CLASSIFICATION, 5_000).stages
    assert without.spec.max_length == 512
    with pytest.raises(ConfigError, match="knows 32 positions, and p_tuning takes 20"):
        plan(llama(2, 64, 160, positions=32), AMPLE, Goal.CLASSIFICATION, 100)


def test_time_is_told_by_speed_and_not_without() -> None:
    def seconds(speed: float | None) -> float | None:
        return plan(SEVEN, named_machine(80, None, speed), Goal.BEHAVIOUR, 20_000).stages[0].seconds

    slow, fast = seconds(1e14), seconds(2e14)
    assert slow is not None
    assert fast is not None
    assert slow == pytest.approx(2 * fast)
    # Per token two products with each weight of the linear layers forward, as many backward, and those of the head.
    tokens = 20_000 * 200 * 3
    products = 32 * (4 * 4096**2 + 3 * 4096 * 11_008)
    assert tokens * 4 * products / 1e14 < slow < 1.1 * tokens * 4 * (products + 4096 * 32_000) / 1e14
    assert seconds(None) is None


def test_a_gpu_needs_main_memory_to_merge() -> None:
    with pytest.raises(MachineError, match="main memory beside the GPU"):
        plan(SEVEN, named_machine(80, 8, None), Goal.BEHAVIOUR, 5_000)
    assert plan(SEVEN, named_machine(80, 40, None), Goal.BEHAVIOUR, 5_000).fits


def test_a_machine_is_measured_or_named() -> None:
    measured = this_machine()
    assert measured.room > 0
    assert measured.speed is not None
    assert measured.speed > 0
    assert this_machine(5e12).speed == 5e12
    assert named_machine(24, None, None).room == 24 * GIB - CUDA_CONTEXT
    assert named_machine(None, 24, None) == Machine(False, 24 * GIB, 24 * GIB, None, named_machine(None, 24, None).line)
    with pytest.raises(ConfigError, match="named by its memory"):
        named_machine(None, None, 1e12)


def test_documents_are_counted_as_a_run_asks_about_them(tmp_path: Path) -> None:
    documents = write_documents(tmp_path)
    counted = documents_data(documents, STUDENT, 200)
    spec, count = DocumentsSpec(paths=(documents,), chunk_tokens=200), load_counter(STUDENT)
    read = read_documents(spec, document_parser(tmp_path)).documents
    chunks = [chunk for document in read for chunk in cut(document, spec, count)]
    asked = [
        request
        for recipe in GenerateSpec().recipes
        for request in build_requests(
            recipe, read, chunks, teacher_fingerprint="t", count_tokens=count, context_tokens=2048
        )
    ]
    of_kind = {
        name: [request for request in asked if request.purpose.startswith(name)]
        for name in ("grounded_qa", "paraphrase", "unanswerable")
    }
    trained = [one for one in of_kind["grounded_qa"] if one.origin["split"] == Split.TRAIN]
    assert counted.examples == len(trained) + len(of_kind["unanswerable"])
    assert counted.text_rows == len(chunks) + len(of_kind["paraphrase"])
    assert counted.text_tokens > sum(count(chunk.text) for chunk in chunks)
    assert counted.documents == documents


def test_a_folder_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no usable document"):
        documents_data(tmp_path, STUDENT, 200)
    (tmp_path / "secret.md").write_text("Write to ilsa.marnve@veltrano.com about the pump.\n")
    with pytest.raises(DataError, match=r"no text to learn.*withheld 1 chunks"):
        documents_data(tmp_path, STUDENT, 200)
    with pytest.raises(ConfigError, match="no documents at"):
        documents_data(tmp_path / "none", STUDENT, 200)


def test_a_chunk_has_room_for_its_headings() -> None:
    assert [chunk_tokens_for(length) for length in (16, 256, 1024, 8192)] == [16, 128, 512, 512]


def test_a_student_is_a_directory_with_weights(tmp_path: Path) -> None:
    assert read_student(STUDENT).positions == 512
    with pytest.raises(ConfigError, match="no model directory at org/model") as caught:
        read_student(Path("org/model"))
    assert "hf download org/model" in str(caught.value)
    (tmp_path / "config.json").write_text((STUDENT / "config.json").read_text())
    with pytest.raises(TrainingError, match=r"no \*\.safetensors"):
        read_student(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "tutelage_adapted", "method": {"name": "ia3"}}')
    with pytest.raises(ConfigError, match="adapter of method ia3"):
        read_student(tmp_path)


@pytest.mark.gpu
def test_a_gpu_is_asked() -> None:
    from training.gpu import gpu_memory, gpu_speed

    room = gpu_memory()
    assert room is not None
    assert room > GIB
    assert gpu_speed() > 1e12
