"""The sandbox's tokenizer and how a training row becomes token ids.

Every word of the language is one token, a number of up to three digits is one, and a name is two, cut before its
ending (Vel + moka): the same tokens in a sentence, in JSON and at the start of an answer, so that copying needs no
translation. Whatever else is written falls back to bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import world
from tasks import BASE_TASKS, TEACHER_TASKS, Example, Source, Task
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from world import Side

CONTEXT = 512
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|im_start|>assistant\\n' }}{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{- '\\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def _pieces() -> Regex:
    """Return the pattern that cuts a text: names before their ending, numbers, words with the space before them.

    A space before a name or a number belongs to what stands before it: a lone space would come before every name, and
    say nothing about which name comes next to a model that copies by looking where the last token stood before.
    """
    endings = sorted({ending for group in world.ENDINGS.values() for ending in group}, key=lambda e: (-len(e), e))
    name = rf"[A-Z][a-z]+?(?=(?:{'|'.join(endings)})(?![a-z]))"
    # Four digits are two pairs, so that a year is a century and a year in it.
    number = r"[0-9]{3}(?![0-9])|[0-9]{1,2}"
    other = r" ?[a-z]+|[A-Z]{2,}(?![a-z])|[A-Z][a-z]*|[\"{}:,]+|[^\sA-Za-z0-9\"{}:,]"
    return Regex(rf"{name}|(?:{number}|{other})(?: (?=[A-Z0-9]))?|\n+| +|\s")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the language; always the same one."""
    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_pieces(), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary = {token: index for index, token in enumerate([PAD, START, END])}
    for token in [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_words(cut)]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _words(cut: Any) -> list[str]:
    """Return every piece that deserves a token: parts of names, numbers, and what the language often says."""
    source = Source("tokenizer", Side.TRAINING)
    tasks: list[Task] = [*TEACHER_TASKS, *BASE_TASKS]
    counts: Counter[str] = Counter()
    for index in range(6000):
        example = tasks[index % len(tasks)](source)
        said = [message["content"] for message in example.prompt] + [example.answer, "system\nuser\nassistant\n"]
        for turn in said + [part for turns in example.more for part in turns]:
            counts.update(piece for piece, _ in cut.pre_tokenize_str(turn))
    parts = [*world.STARTS, *(ending for group in world.ENDINGS.values() for ending in group)]
    numbers = [f"{n:0{digits}d}" for digits in (1, 2, 3) for n in range(10**digits) if digits < 3 or n >= 100]
    return [*parts, *numbers, *sorted(piece for piece, count in counts.items() if count >= 4)]


@dataclass(frozen=True)
class Row:
    """Token ids of an example and how much each counts: nothing in a prompt, something in an answer."""

    ids: list[int]
    weights: list[float]


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> list[Row]:
    """Return the rows of `examples`; those longer than the context are left out.

    A token of an answer of n tokens weighs one over the square root of n: halfway between answers that count the same
    and tokens that count the same, or the short answers would drown in the long quotations. The end of a judgement
    weighs four times that: it is one word after a long quotation.
    """
    pieces: list[str] = []
    for example in examples:
        turns = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in example.prompt)
        pieces += [f"{turns}{START}assistant\n" if example.prompt else "", f"{example.answer}{END}"]
        for asked, answered in example.more:
            pieces += [f"\n{START}user\n{asked}{END}\n{START}assistant\n", f"{answered}{END}"]
    tokens = iter(tokenizer(pieces, add_special_tokens=False)["input_ids"])
    rows = []
    for example in examples:
        ids: list[int] = []
        weights: list[float] = []
        for _ in range(1 + len(example.more)):
            asked_ids, answered_ids = next(tokens), next(tokens)
            learned = [len(answered_ids) ** -0.5] * len(answered_ids)
            if example.task.startswith("judge"):
                learned[-3:] = [4 * weight for weight in learned[-3:]]
            ids += asked_ids + answered_ids
            weights += [0.0] * len(asked_ids) + learned
        if len(ids) <= CONTEXT:
            rows.append(Row(ids, weights))
    return rows


@dataclass(frozen=True)
class Batch:
    """Right-padded ids, and for each the token that comes next and its weight; shape (rows, width) each."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def make_batch(rows: Sequence[Row]) -> Batch:
    """Return one batch of rows that are about equally long."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        weights[index, : len(row.ids) - 1] = torch.tensor(row.weights[1:])
    return Batch(ids, ids.roll(-1, dims=1), weights)
