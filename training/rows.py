"""From items to tokens: text, conversations and preference pairs, each with the mask that says what carries loss.

Everything is tokenised here, once, so that the ledger and the guards see each row before a trainer does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from data_catalog.datasets import read_rows
from data_catalog.errors import TrainingError
from training.conversation import Messages, answer_turns, in_order
from training.guards import check_end_supervised, check_prompt_is_prefix, check_single_start
from training.ledger import LedgerBook
from training.models import ModelSource
from training.packing import NO_LOSS, TokenRow

TOO_LONG = "longer than max_length"
CUT_TO_TURNS = "cut to the turns within max_length"
CONTROL_TEXT = "contains a control token of the chat template"
EMPTY_ANSWER = "empty answer"
SAME_ANSWERS = "chosen equals rejected"
OUT_OF_ORDER = "roles out of order (valid: system first, then user and assistant in turn)"


@dataclass(frozen=True)
class RawRow:
    """A row as it is stored: its id and its payload."""

    id: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PairRow:
    """A preference pair. Both answers follow the same prompt and end with an end token."""

    id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def load_dataset(path: Path) -> list[RawRow]:
    """Read the items of a dataset version (Parquet)."""
    return [RawRow(id=str(row["id"]), payload=row["payload"]) for row in read_rows(path)]


def load_replay(path: Path) -> list[RawRow]:
    """Read general rows: JSONL of `{"messages": [...]}` or `{"text": ...}`; the id is the line number."""
    return load_lines(path, "replay")


def load_lines(path: Path, name: str) -> list[RawRow]:
    """Read payloads, one JSON object per line; the id is `name` and the line number."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            payload = json.loads(line)
        except ValueError as error:
            raise TrainingError(
                f"{path}, line {number}: not JSON ({error})",
                valid='one object per line: {"messages": [...]} or {"text": ...}',
                next_step="correct the line",
            ) from error
        rows.append(RawRow(id=f"{name}:{number}", payload=payload))
    return rows


@dataclass(frozen=True)
class _Spans:
    """A conversation's tokens and, for each answer, where it begins and ends (end token included)."""

    ids: list[int]
    answers: list[tuple[int, int]]


class Encoder:
    """Turns rows of one model family into tokens."""

    def __init__(self, source: ModelSource, max_length: int) -> None:
        self._source = source
        self._tokenizer = source.tokenizer
        self._max_length = max_length
        self._control = sorted(
            {str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special}
            | set(self._tokenizer.all_special_tokens)
        )

    def texts(self, rows: Sequence[RawRow]) -> list[TokenRow]:
        """Encode `{"text"}` rows: each token is a target, an end token closes each text.

        A text longer than `max_length` becomes several rows; none of its tokens is lost. Control tokens that stand in
        a text are spelled out as ordinary text.
        """
        texts = [_field(row, "text", str) for row in rows]
        # split_special_tokens: what looks like <|im_end|> inside a document is data.
        encoded = self._tokenizer(texts, split_special_tokens=True)["input_ids"] if texts else []
        result: list[TokenRow] = []
        for row, ids in zip(rows, encoded, strict=True):
            whole = ids if ids and ids[-1] == self._source.end_token else [*ids, self._source.end_token]
            check_single_start(row.id, whole, self._tokenizer.bos_token_id)
            for start in range(0, len(whole), self._max_length):
                piece = np.asarray(whole[start : start + self._max_length])
                if len(piece) > 1:
                    result.append(TokenRow(row.id, piece, piece))
        return result

    def conversations(self, rows: Sequence[RawRow], book: LedgerBook, *, last_only: bool = False) -> list[TokenRow]:
        """Encode `{"messages"}` rows: the assistant's turns are targets, each up to and with its end token.

        With `last_only` the last of them alone is a target. A conversation longer than `max_length` is cut behind the
        last whole target that fits (never inside an answer, which would teach to stop early or not at all), or dropped
        where none fits.
        """
        usable = [row for row in rows if self._usable(row.id, _field(row, "messages", list), book)]
        result = []
        spans_of = self._spans([(row.id, row.payload["messages"]) for row in usable])
        for row, spans in zip(usable, spans_of, strict=True):
            self._check(row.id, spans)
            answers = spans.answers[-1:] if last_only else spans.answers
            fitting = [(start, end) for start, end in answers if end <= self._max_length]
            if not fitting:
                book.drop(row.id, TOO_LONG)
                continue
            if len(fitting) < len(answers):
                book.truncate(row.id, CUT_TO_TURNS)
            else:
                book.keep()
            ids = np.asarray(spans.ids[: fitting[-1][1]])
            labels = np.full(len(ids), NO_LOSS)
            for start, end in fitting:
                labels[start:end] = ids[start:end]
            result.append(TokenRow(row.id, ids, labels))
        return result

    def pairs(self, rows: Sequence[RawRow], book: LedgerBook) -> list[PairRow]:
        """Encode `{"prompt", "chosen", "rejected"}` rows (lists of messages). Too long pairs are dropped."""
        usable = [row for row in rows if self._usable_pair(row, book)]
        chosen, rejected = (
            self._spans([(row.id, [*row.payload["prompt"], *row.payload[side]]) for row in usable])
            for side in ("chosen", "rejected")
        )
        result = []
        for row, good, bad in zip(usable, chosen, rejected, strict=True):
            self._check(row.id, good)
            self._check(row.id, bad)
            (start, good_end), (bad_start, bad_end) = good.answers[-1], bad.answers[-1]
            check_prompt_is_prefix(row.id, good.ids[:start], bad.ids[:bad_start])
            pair = PairRow(row.id, good.ids[:start], good.ids[start:good_end], bad.ids[bad_start:bad_end])
            if pair.chosen == pair.rejected:
                book.drop(row.id, SAME_ANSWERS)
            elif len(pair) > self._max_length:
                book.drop(row.id, TOO_LONG)
            else:
                book.keep()
                result.append(pair)
        return result

    def prompt(self, messages: Messages) -> list[int]:
        """Return the tokens that a model is given to answer `messages`."""
        return self.prompts([messages])[0]

    def prompts(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Return, for each conversation, the tokens that a model is given to answer it."""
        return self._encode([self._render(messages, prompt=True) for messages in conversations])

    def continuations(self, conversations: Sequence[Messages]) -> list[tuple[list[int], list[int]]]:
        """Return, for each conversation, the tokens of the prompt for its last turn, and those of that turn's text.

        The prompt has the tokens that it has when the model is asked, whatever follows it. Where prompt and text
        tokenised together would merge across the boundary, or the text spells a control token, the text is tokenised
        by itself, as the model would have to write it.

        Raises:
            TrainingError: no tokens were found that spell the text behind the prompt.
        """
        rendered = [self._render(messages[:-1], prompt=True) for messages in conversations]
        texts = [messages[-1]["content"] for messages in conversations]
        heads = self._encode(rendered)
        wholes = self._encode([head + text for head, text in zip(rendered, texts, strict=True)])
        tails = [self._tail(head, whole, text) for head, whole, text in zip(heads, wholes, texts, strict=True)]
        return list(zip(heads, tails, strict=True))

    def plain(self, text: str) -> list[int]:
        """Return the tokens of a text outside any chat; control tokens in it are spelled out."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def text_prompt(self, text: str) -> list[int]:
        """Return the tokens of a text that the model is to go on with, the tokenizer's own start token among them."""
        return list(self._tokenizer(text, split_special_tokens=True)["input_ids"])

    def text_continuation(self, before: str, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a text outside any chat, and those of the text that goes on with it.

        Both are tokenised together and cut where `before` alone would end; white space at its end goes with what
        follows. Source: lm-evaluation-harness, `TemplateLM._encode_pair`.

        Raises:
            TrainingError: no token is left for one of the two.
        """
        head = before.rstrip()
        prompt = self.text_prompt(head)
        tail = self.text_prompt(before + text)[len(prompt) :]
        if not prompt or not tail:
            raise TrainingError(
                f"the tokenizer has no token for {text[:80]!r} behind {head[-80:]!r}, or none for what stands before",
                valid="a text and its continuation, neither of them empty",
                next_step="change the choice, or what stands between prompt and choice",
            )
        return prompt, tail

    def _tail(self, head: list[int], whole: list[int], text: str) -> list[int]:
        """Return the tokens of `text` behind the prompt's; `whole` are those of both together."""
        if whole[: len(head)] == head and not any(token in text for token in self._control):
            return whole[len(head) :]
        wanted = self._tokenizer.decode(whole)
        # Some tokenizers put a space before the first word of whatever they are given: behind a line break they don't.
        line_break = self.plain("\n")
        for tail in (self.plain(text), self.plain("\n" + text)[len(line_break) :]):
            if self._tokenizer.decode([*head, *tail]) == wanted:
                return tail
        raise TrainingError(
            f"the tokenizer can't write {text[:80]!r} behind the prompt: its tokens merge with the prompt's",
            valid="a continuation that begins with a letter or a digit",
            next_step="change the choice (no white space at its beginning), or the prompt template",
        )

    def turn_ends(self, messages: Messages) -> list[int | None]:
        """Return, for each turn, how many tokens the conversation has up to its end.

        None where the template renders a turn otherwise once others follow it, or won't end with it.
        """
        whole = self._encode([self._render(messages, prompt=False)])[0]
        ends: list[int | None] = []
        for turn in range(1, len(messages)):
            try:
                ids = self._encode([self._render(messages[:turn], prompt=False)])[0]
            except TemplateError:
                ends.append(None)
            else:
                ends.append(len(ids) if whole[: len(ids)] == ids else None)
        return [*ends, len(whole)]

    def _usable_pair(self, row: RawRow, book: LedgerBook) -> bool:
        prompt, chosen, rejected = (_field(row, name, list) for name in ("prompt", "chosen", "rejected"))
        if not chosen or not rejected:
            book.drop(row.id, EMPTY_ANSWER)
            return False
        if chosen == rejected:
            book.drop(row.id, SAME_ANSWERS)
            return False
        return all(self._usable(row.id, [*prompt, *answer], book, last=answer) for answer in (chosen, rejected))

    def _usable(self, row_id: str, messages: Messages, book: LedgerBook, *, last: Messages | None = None) -> bool:
        """Whether a conversation can be learned from; the book is told why not. `last` is the answer of a pair."""
        answers = [message for message in messages if _part(row_id, message, "role") == "assistant"]
        if not answers:
            raise TrainingError(
                f"row {row_id} has no assistant turn, so it teaches nothing",
                valid="a conversation in which the assistant answers",
                next_step="remove the row from the dataset",
            )
        if any(not _part(row_id, message, "content").strip() for message in answers):
            book.drop(row_id, EMPTY_ANSWER)
            return False
        if not in_order(messages) or (last is not None and [turn["role"] for turn in last] != ["assistant"]):
            book.drop(row_id, OUT_OF_ORDER)
            return False
        contents = [_part(row_id, message, "content") for message in messages]
        if any(token in content for content in contents for token in self._control):
            book.drop(row_id, CONTROL_TEXT)
            return False
        return True

    def _check(self, row_id: str, spans: _Spans) -> None:
        check_single_start(row_id, spans.ids, self._tokenizer.bos_token_id)
        for start, end in spans.answers:
            check_end_supervised(row_id, spans.ids[start:end], self._source.end_tokens)

    def _spans(self, conversations: Sequence[tuple[str, Messages]]) -> list[_Spans]:
        """Render and tokenise (row id, conversation) pairs, and find each answer: behind its prompt's tokens."""
        texts: list[str] = []
        for _, messages in conversations:
            texts += [self._render(messages[:turn], prompt=True) for turn in answer_turns(messages)]
            texts.append(self._render(messages, prompt=False))
        encoded = iter(self._encode(texts))
        result = []
        for row_id, messages in conversations:
            prompts = [next(encoded) for _ in answer_turns(messages)]
            ids = next(encoded)
            for prompt in prompts:
                check_prompt_is_prefix(row_id, prompt, ids)
            starts = [len(prompt) for prompt in prompts]
            limits = [*starts[1:], len(ids)]
            answers = [(start, self._end(ids, start, limit)) for start, limit in zip(starts, limits, strict=True)]
            result.append(_Spans(ids, answers))
        return result

    def _end(self, ids: Sequence[int], start: int, limit: int) -> int:
        """Return the index behind the first end token of a turn; the whole turn where it has none."""
        ends = self._source.end_tokens
        return next((index + 1 for index in range(start, limit) if ids[index] in ends), limit)

    def _render(self, messages: Messages, *, prompt: bool) -> str:
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
        return str(text)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        # The template has put every special token there already.
        return list(self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []


def _field(row: RawRow, name: str, kind: type) -> Any:
    value = row.payload.get(name) if isinstance(row.payload, Mapping) else None
    if not isinstance(value, kind):
        got = ", ".join(sorted(row.payload)) if isinstance(row.payload, Mapping) else type(row.payload).__name__
        raise TrainingError(
            f"row {row.id} has no {name!r} ({kind.__name__}); it has: {got}",
            valid='pretrain: {"text"}; sft: {"messages"}; preference stages: {"prompt", "chosen", "rejected"}',
            next_step="give the stage a dataset of its own kind",
        )
    return value


def _part(row_id: str, message: Mapping[str, str], name: str) -> str:
    value = message.get(name) if isinstance(message, Mapping) else None
    if not isinstance(value, str):
        raise TrainingError(
            f"row {row_id} has a message without {name!r}", valid='{"role": ..., "content": ...}, both strings'
        )
    return value


def draw_replay(
    rows: Sequence[TokenRow], replay: Iterable[TokenRow], share: float, *, epochs: int, seed: int
) -> list[list[TokenRow]]:
    """Return the replay rows of each epoch: equally many, other ones in each epoch as long as there are others.

    share = replay / (replay + rows), in tokens, so an epoch has rows·share/(1 - share) replay tokens, which is taken as
    that many rows of mean length. A few rows repeated in every epoch would be learned by heart and keep no skill.
    """
    pool = [row for row in replay if len(row) > 1]
    if not pool:
        raise TrainingError("replay_share is set, but no replay row can be used", next_step="check the replay file")
    wanted = sum(len(row) for row in rows) * share / (1 - share)
    each = max(1, round(wanted * len(pool) / sum(len(row) for row in pool)))
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(pool))
    chosen = [pool[order[number % len(order)]] for number in range(each * epochs)]
    marked = [TokenRow(row.id, row.input_ids, row.labels, replay=True) for row in chosen]
    return [marked[start : start + each] for start in range(0, len(marked), each)]
