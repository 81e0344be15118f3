"""The table of plans: which method suits which goal and how much data, with the settings and the source of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.advising.given import Goal
from training.method_specs import (
    AdapterSpec,
    AnyMethod,
    FullSpec,
    LoraSpec,
    PrefixTuningSpec,
    PromptTuningSpec,
    PTuningSpec,
    PTuningV2Spec,
    QloraSpec,
)

FEW = 1_000
"""Examples below which prompt methods come first (arXiv 2104.08691, 2110.07602)."""
MANY = 100_000
"""Examples above which LoRA's capacity may not do (LoRA Without Regret)."""
LARGE = 10**10
"""Parameters from which a prompt before the input alone does as well as full fine-tuning (arXiv 2104.08691, figure 1:
at 11 billion)."""
QLORA_LARGE = 33 * 10**9
"""Parameters from which QLoRA was trained at half the rate (arXiv 2305.14314, table 9)."""


@dataclass(frozen=True)
class Candidate:
    """A method with settings, and why it is taken."""

    method: AnyMethod
    reason: str


@dataclass(frozen=True)
class Rate:
    """A learning rate, and where it comes from."""

    value: float
    source: str


RATES: Mapping[str, Rate] = {
    "full": Rate(1e-5, "a tenth of LoRA's (LoRA Without Regret)"),
    "lora": Rate(1e-4, "1e-4 to 2e-4, ten times that of full fine-tuning (LoRA Without Regret)"),
    "qlora": Rate(2e-4, "below 33 billion parameters (arXiv 2305.14314, table 9)"),
    "adapter": Rate(1e-4, "adapters of this kind were trained so (arXiv 2005.00247)"),
    "prompt_tuning": Rate(3e-2, "PEFT's guide to prompt tuning, on a model of 560 million parameters"),
    "p_tuning": Rate(1e-3, "PEFT's guide to P-tuning, on a model of 355 million parameters"),
    "prefix_tuning": Rate(1e-3, "the sandbox's student learned at it, and hardly at the 5e-5 of arXiv 2101.00190"),
    "p_tuning_v2": Rate(1e-2, "5e-3 to 1e-2 (arXiv 2110.07602); the sandbox's student learned more at 1e-2"),
}
"""What a stage of pretraining or SFT is trained at, by method."""


def rate_of(method: AnyMethod, parameters: int) -> Rate:
    """Return the learning rate of pretraining and SFT."""
    if isinstance(method, QloraSpec) and parameters >= QLORA_LARGE:
        return Rate(1e-4, "from 33 billion parameters on (arXiv 2305.14314, table 9)")
    return RATES[method.name]


def candidates(goal: Goal, examples: int, parameters: int) -> list[Candidate]:
    """Return the methods for a goal, the best first; each is for where those before it do not fit.

    Args:
        goal: what the student shall be able to do.
        examples: how many there are to learn from.
        parameters: of the student.
    """
    low_rank = _low_rank(goal, examples)
    if goal is Goal.CLASSIFICATION:
        return [*_prompt(parameters), *low_rank] if examples < FEW else low_rank
    if goal is Goal.TASKS:
        adapter = Candidate(AdapterSpec(), "tasks to be plugged in and out, 1,000 examples and more (arXiv 1902.00751)")
        return _prompt(parameters) if examples < FEW else [adapter, *_prompt(parameters)]
    if goal is Goal.BEHAVIOUR and examples < FEW:
        return [*_prefix(), *low_rank]
    if examples > MANY:
        much = "a lot of data: above 100,000 examples LoRA's capacity may not do (LoRA Without Regret)"
        return [Candidate(FullSpec(), much), *low_rank]
    return low_rank


def _low_rank(goal: Goal, examples: int) -> list[Candidate]:
    rank = {Goal.CLASSIFICATION: 8, Goal.KNOWLEDGE: 32}.get(goal, 16)
    size = {8: "rank 4 to 8 for a simple task", 32: "rank 32 to 64 for a hard task, which new facts are"}
    drop = 0.1 if examples < FEW and goal is not Goal.KNOWLEDGE else 0.05
    why_drop = (
        "0.1 to 0.3 on little data" if drop > 0.05 else "as QLoRA's 33 and 65 billion were trained (arXiv 2305.14314)"
    )
    settings = (
        f"{size.get(rank, 'rank 16, between the 8 of simple tasks and the 32 of hard ones')}; alpha twice the rank; "
        f"dropout {drop}: {why_drop}"
    )
    lora = LoraSpec(rank=rank, alpha=2 * rank, dropout=drop)
    qlora = QloraSpec(rank=rank, alpha=2 * rank, dropout=drop)
    return [
        Candidate(
            lora, f"hundreds to 100,000 examples, merges into an ordinary model (LoRA Without Regret); {settings}"
        ),
        Candidate(qlora, f"little memory: the base in 4 bits (arXiv 2305.14314); {settings}"),
    ]


def _prompt(parameters: int) -> list[Candidate]:
    if parameters >= LARGE:
        why = "a simple task, little data or many tasks on one base, and a model of 10 billion parameters or more, "
        return [Candidate(PromptTuningSpec(), why + "where 20 virtual tokens do (arXiv 2104.08691)")]
    why = "a simple task, little data or many tasks on one base; on a model below 10 billion parameters an encoder "
    return [Candidate(PTuningSpec(), why + "helps (arXiv 2103.10385); 10 to 20 virtual tokens for classification")]


def _prefix() -> list[Candidate]:
    few = "generation with little data, steering each layer"
    tokens = "20 to 100 virtual tokens for generation"
    return [
        Candidate(
            PrefixTuningSpec(), f"{few}: ahead of full fine-tuning there (arXiv 2101.00190, section 6.3); {tokens}"
        ),
        Candidate(PTuningV2Spec(), f"{few}, without the MLP's memory (arXiv 2110.07602); {tokens}"),
    ]
