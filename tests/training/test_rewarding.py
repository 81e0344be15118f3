"""Rewards on request: those of the reward model itself, whatever stands beside a conversation in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from data_catalog.errors import TrainingError
from data_catalog.records import Message, Request, Reward, Sampling
from tests.training.tiny import Lines, facts
from training.compatibility import is_reward_model
from training.completing import complete
from training.ledger import LedgerBook
from training.models import open_source, write_model
from training.reward_model import RewardModel, load_with_head
from training.rewarding import RewardCompleter
from training.rows import Encoder, RawRow
from training.specs import CompleteJob


@pytest.fixture(scope="module")
def judge(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a reward model whose head is random instead of trained."""
    source = open_source(base, needs_chat_template=True)
    model = load_with_head(source, torch.float32)
    torch.manual_seed(3)
    torch.nn.init.normal_(model.score.weight)
    output = tmp_path_factory.mktemp("rewards") / "judge"
    write_model(model, source, output)
    return output


def asked(question: str, answer: str) -> Request:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Request(model="judge-1", messages=turns, sampling=Sampling(max_tokens=0))


def rewards(judge: Path, requests: Sequence[Request], batch_tokens: int = 16_384) -> dict[str, float]:
    completer = RewardCompleter(judge, "judge-1", batch_tokens=batch_tokens)
    return {one.request_key: Reward.of(one).reward for batch in completer.complete(requests) for one in batch}


def test_a_reward_is_that_of_the_whole_conversation_as_the_stage_lays_it_out(base: Path, judge: Path) -> None:
    requests = [asked(*fact) for fact in facts(9)]
    found = rewards(judge, requests)
    source = open_source(base, needs_chat_template=True)
    rows = [RawRow(one.key, {"messages": [turn.model_dump() for turn in one.messages]}) for one in requests]
    encoded = Encoder(source, 512).conversations(rows, LedgerBook())
    exact = RewardModel(judge, source, torch.float32).score([row.input_ids.tolist() for row in encoded])
    assert [found[row.id] for row in encoded] == pytest.approx(exact.tolist(), abs=1e-4)
    assert len({round(reward, 4) for reward in found.values()}) > 5, "it tells the conversations apart"


def test_what_is_in_the_same_batch_does_not_matter(judge: Path) -> None:
    requests = [asked(question * (1 + number % 3), answer) for number, (question, answer) in enumerate(facts(9))]
    alone, together = rewards(judge, requests, batch_tokens=1), rewards(judge, requests)
    assert alone == pytest.approx(together, abs=1e-4)
    assert len(alone) == 9


def test_what_does_not_fit_or_says_nothing_is_missing(judge: Path) -> None:
    good, long, blank = asked("Red?", "Yes."), asked("Red? " * 400, "Yes."), asked("Red?", " ")
    assert set(rewards(judge, [long, good, blank])) == {good.key}


@pytest.mark.parametrize(
    "request_",
    [
        Request(model="j", messages=(Message(role="user", content="Red?"),), sampling=Sampling(max_tokens=5)),
        Request(model="j", messages=(Message(role="assistant", content="Red."),), sampling=Sampling(max_tokens=0)),
    ],
)
def test_a_reward_model_is_not_asked_for_words(judge: Path, request_: Request) -> None:
    with pytest.raises(TrainingError, match="asks a reward model"):
        list(RewardCompleter(judge, "j").complete([request_]))


def test_the_completing_job_knows_a_reward_model_by_its_directory(base: Path, judge: Path, tmp_path: Path) -> None:
    assert is_reward_model(judge)
    assert not is_reward_model(base)
    request = asked(*facts(1)[0])
    job = CompleteJob(model=judge, requests=tmp_path / "requests.jsonl", output=tmp_path / "completions.jsonl")
    job.requests.write_text(request.model_dump_json() + "\n")
    assert complete(job, progress=Lines()).answered == 1
    assert '{\\"reward\\":' in job.output.read_text()


def test_weights_that_give_no_number_are_an_error(judge: Path) -> None:
    completer = RewardCompleter(judge, "judge-1")
    completer._model.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="finite"):
        list(completer.complete([asked("Red?", "Yes.")]))
