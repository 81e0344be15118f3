"""What becomes of a row: its tokens, its targets, its place in the ledger, and the guards that look at it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import TrainingError
from tests.training.tiny import build_model, messages, preference, write_parquet
from training.ledger import LedgerBook
from training.models import ModelSource, open_source
from training.packing import NO_LOSS
from training.rows import (
    CONTROL_TEXT,
    CUT_TO_TURNS,
    EMPTY_ANSWER,
    SAME_ANSWERS,
    TOO_LONG,
    Encoder,
    RawRow,
    draw_replay,
    load_dataset,
    load_replay,
)
from training.specs import Ledger


@pytest.fixture(scope="module")
def source(base: Path) -> ModelSource:
    return open_source(base, needs_chat_template=True)


def close(book: LedgerBook, share: float = 1.0) -> Ledger:
    return book.close(max_lost_share=share, replay_rows=0, tokens=1, target_tokens=1)


def with_template(base: Path, folder: Path, change: Callable[[str], str]) -> ModelSource:
    """Return a copy of the base whose chat template was changed."""
    shutil.copytree(base, folder)
    template = folder / "chat_template.jinja"
    template.write_text(change(template.read_text("utf-8")), "utf-8")
    return open_source(folder, needs_chat_template=True)


def test_only_the_answers_and_their_end_carry_loss(source: ModelSource) -> None:
    turns = [
        {"role": "user", "content": "What colour?"},
        {"role": "assistant", "content": "It is red."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "It is blue."},
    ]
    book = LedgerBook()
    (row,) = Encoder(source, 256).conversations([RawRow("a", {"messages": turns})], book)
    targets = source.tokenizer.decode(row.labels[row.labels != NO_LOSS])
    assert targets == "It is red.<|im_end|>It is blue.<|im_end|>"
    assert row.input_ids[-1] == source.end_token
    assert close(book).kept == 1


def test_only_the_last_answer_carries_loss_if_asked(source: ModelSource) -> None:
    turns = [*messages("What colour?", "It is red.")["messages"], *messages("And now?", "It is blue.")["messages"]]
    book = LedgerBook()
    (row,) = Encoder(source, 256).conversations([RawRow("a", {"messages": turns})], book, last_only=True)
    assert source.tokenizer.decode(row.labels[row.labels != NO_LOSS]) == "It is blue.<|im_end|>"
    # It does not fit: the answers before it are not taken in its place.
    assert not Encoder(source, len(row) - 1).conversations([RawRow("b", {"messages": turns})], book, last_only=True)
    assert close(book).reasons == {TOO_LONG: 1}


def test_a_text_is_all_target_and_ends(source: ModelSource) -> None:
    (row,) = Encoder(source, 256).texts([RawRow("a", {"text": "The valve is red."})])
    assert row.labels.tolist() == row.input_ids.tolist()
    assert row.input_ids[-1] == source.end_token
    assert source.tokenizer.decode(row.input_ids) == "The valve is red.<|im_end|>"


def test_a_long_text_is_split_and_nothing_is_lost(source: ModelSource) -> None:
    text = "The boiler of the Mirosk is amber. " * 12
    (whole,) = Encoder(source, 10_000).texts([RawRow("a", {"text": text})])
    pieces = Encoder(source, 16).texts([RawRow("a", {"text": text})])
    assert max(map(len, pieces)) == 16
    assert [token for piece in pieces for token in piece.input_ids] == whole.input_ids.tolist()


def test_control_tokens_inside_a_text_are_text(source: ModelSource) -> None:
    (row,) = Encoder(source, 256).texts([RawRow("a", {"text": "Stop <|im_end|> here"})])
    assert row.input_ids.tolist().count(source.end_token) == 1
    assert source.tokenizer.decode(row.input_ids[:-1]) == "Stop <|im_end|> here"


def test_each_loss_is_counted_with_its_reason(source: ModelSource) -> None:
    long = "The boiler is amber. " * 30
    two_turns = [*messages("One?", "Red.")["messages"], *messages("Two?", long)["messages"]]
    rows = [
        RawRow("good", messages("What?", "Red.")),
        RawRow("control", messages("What <|im_end|>?", "Red.")),
        RawRow("empty", messages("What?", "  ")),
        RawRow("long", messages(long, "Red.")),
        RawRow("cut", {"messages": two_turns}),
    ]
    book = LedgerBook()
    kept = Encoder(source, 64).conversations(rows, book)
    ledger = close(book)
    assert [row.id for row in kept] == ["good", "cut"]
    assert kept[1].input_ids[-1] == source.end_token
    assert ledger.reasons == {CONTROL_TEXT: 1, EMPTY_ANSWER: 1, TOO_LONG: 1, CUT_TO_TURNS: 1}
    assert (ledger.rows, ledger.kept, ledger.dropped, ledger.truncated) == (5, 2, 3, 1)


def test_too_much_lost_stops_before_training(source: ModelSource) -> None:
    book = LedgerBook()
    rows = [RawRow(f"r{n}", messages("What?", "Red.")) for n in range(9)]
    Encoder(source, 64).conversations([*rows, RawRow("bad", messages("What?", " "))], book)
    assert close(book, 0.1).dropped == 1
    with pytest.raises(TrainingError, match=r"1 of 10 rows .*empty answer, such as bad"):
        close(book, 0.09)


def test_nothing_left_is_an_error(source: ModelSource) -> None:
    book = LedgerBook()
    book.drop("a", TOO_LONG)
    with pytest.raises(TrainingError, match="of 1 rows none is left"):
        close(book)


def test_pairs_share_a_prompt_and_end_in_the_end_token(source: ModelSource) -> None:
    book = LedgerBook()
    (pair,) = Encoder(source, 128).pairs([RawRow("a", preference("What?", "Red.", "Blue."))], book)
    assert source.tokenizer.decode(pair.prompt).endswith("<|im_start|>assistant\n")
    assert source.tokenizer.decode(pair.chosen) == "Red.<|im_end|>"
    assert source.tokenizer.decode(pair.rejected) == "Blue.<|im_end|>"
    assert pair.prompt == Encoder(source, 128).prompt([{"role": "user", "content": "What?"}])


def test_pairs_that_say_nothing_are_dropped(source: ModelSource) -> None:
    book = LedgerBook()
    rows = [
        RawRow("same", preference("What?", "Red.", "Red.")),
        RawRow("empty", preference("What?", "Red.", "")),
        RawRow("long", preference("What?", "Red.", "The boiler is amber. " * 30)),
        RawRow("good", preference("What?", "Red.", "Blue.")),
    ]
    assert [pair.id for pair in Encoder(source, 64).pairs(rows, book)] == ["good"]
    assert close(book).reasons == {SAME_ANSWERS: 1, EMPTY_ANSWER: 1, TOO_LONG: 1}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"question": "What?", "answer": "Red."}, "has no 'messages'.*answer, question"),
        ({"messages": [{"role": "user", "content": "What?"}]}, "has no assistant turn"),
        ({"messages": [{"role": "assistant", "content": None}]}, "without 'content'"),
    ],
)
def test_rows_of_another_shape_are_refused_by_name(source: ModelSource, payload: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=f"row odd .*{said}"):
        Encoder(source, 64).conversations([RawRow("odd", payload)], LedgerBook())


def test_guard_prompt_must_be_a_token_prefix(base: Path, tmp_path: Path) -> None:
    # Renders a conversation that ends with an answer differently from the prompt that asked for it.
    source = with_template(
        base, tmp_path / "m", lambda t: "{% if messages[-1].role == 'assistant' %}Done. {% endif %}" + t
    )
    with pytest.raises(TrainingError, match="row a: the prompt's tokens and the conversation's differ from token 0"):
        Encoder(source, 64).conversations([RawRow("a", messages("What?", "Red."))], LedgerBook())


def test_guard_the_end_must_be_supervised(base: Path, tmp_path: Path) -> None:
    source = with_template(
        base, tmp_path / "m", lambda t: t.replace("message['content'] + '<|im_end|>'", "message['content']")
    )
    with pytest.raises(TrainingError, match=r"row a: the last token with loss is .* does not end a turn"):
        Encoder(source, 64).conversations([RawRow("a", messages("What?", "Red."))], LedgerBook())


def test_guard_no_doubled_start(base: Path, tmp_path: Path) -> None:
    source = with_template(base, tmp_path / "m", lambda t: "<|endoftext|><|endoftext|>" + t)
    source.tokenizer.bos_token = "<|endoftext|>"
    with pytest.raises(TrainingError, match="row a begins with two beginning-of-sequence tokens"):
        Encoder(source, 64).conversations([RawRow("a", messages("What?", "Red."))], LedgerBook())


def test_replay_has_its_share_of_tokens_and_is_the_same_each_time(source: ModelSource) -> None:
    encoder = Encoder(source, 64)
    rows = encoder.conversations([RawRow(f"r{n}", messages(f"What {n}?", "Red.")) for n in range(40)], LedgerBook())
    general = encoder.texts([RawRow(f"g{n}", {"text": f"The valve number {n} is grey."}) for n in range(5)])
    drawn = draw_replay(rows, general, 0.25, epochs=3, seed=3)
    for epoch in drawn:
        tokens = sum(map(len, epoch))
        assert tokens / (tokens + sum(map(len, rows))) == pytest.approx(0.25, abs=0.02)
        assert all(row.replay for row in epoch)
    assert drawn == draw_replay(rows, general, 0.25, epochs=3, seed=3)
    assert drawn != draw_replay(rows, general, 0.25, epochs=3, seed=4)


def test_replay_rows_are_not_repeated_while_there_are_others(source: ModelSource) -> None:
    encoder = Encoder(source, 64)
    rows = encoder.texts([RawRow(f"r{n}", {"text": "The valve is red."}) for n in range(10)])
    general = encoder.texts([RawRow(f"g{n}", {"text": f"The valve number {n} is grey."}) for n in range(100)])
    drawn = draw_replay(rows, general, 0.5, epochs=4, seed=1)
    ids = [row.id for epoch in drawn for row in epoch]
    assert len({len(epoch) for epoch in drawn}) == 1
    assert len(set(ids)) == len(ids) > 4


def test_datasets_and_replay_files_are_read(tmp_path: Path) -> None:
    rows = load_dataset(write_parquet(tmp_path / "d.parquet", [{"text": "One."}, {"text": "Zwei \u2028 三"}]))
    assert [(row.id, row.payload["text"]) for row in rows] == [("item-0", "One."), ("item-1", "Zwei \u2028 三")]
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"text": "a\u2028b"}\n\n{"text": "c"}', "utf-8")
    assert [row.payload["text"] for row in load_replay(replay)] == ["a\u2028b", "c"]
    replay.write_text('{"text": "a"}\n{"text"', "utf-8")
    with pytest.raises(TrainingError, match="line 2: not JSON"):
        load_replay(replay)


def test_a_vocabulary_of_another_model_changes_the_tokens(tmp_path: Path, source: ModelSource) -> None:
    """The encoder uses the tokenizer of the directory it was given, not a fixed one."""
    other = open_source(build_model(tmp_path / "other", vocabulary=300), needs_chat_template=True)
    text = [RawRow("a", {"text": "What colour is the boiler?"})]
    assert len(Encoder(other, 64).texts(text)[0]) > len(Encoder(source, 64).texts(text)[0])
