"""A chat template (Jinja) as fixed text around each turn, which is all that Ollama's templates (Go) need to know.

Found by rendering marked conversations, and proved by rendering others: a template that does more than to put text
around turns is refused, never approximated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import TrainingError
from training.models import open_source

Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages, bool], str]
"""Conversation and whether the model is to answer now, to text."""

_SYSTEM, _ASKED, _SAID, _AGAIN = ("\ue000system\ue001", "\ue000asked\ue001", "\ue000said\ue001", "\ue000again\ue001")


@dataclass(frozen=True)
class ChatFormat:
    """What stands around each turn."""

    without_system: str
    """What begins a conversation that has no system message."""
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    """Before and behind; the first also stands where the model is to answer."""

    def render(self, messages: Messages) -> str:
        """Return the prompt for a conversation that the model is to answer."""
        text = "" if messages[0]["role"] == "system" else self.without_system
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        for message in messages:
            before, behind = around[message["role"]]
            text += f"{before}{message['content']}{behind}"
        return text + self.assistant[0]

    def go_template(self) -> str:
        """Return the same as a template of Go's text/template with Ollama's variables."""
        system = f"{_literal(self.system[0])}{{{{ .System }}}}{_literal(self.system[1])}"
        turns = "".join(
            f'{{{{ {word} eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(behind)}'
            for word, role, (before, behind) in (
                ("if", "user", self.user),
                ("else if", "assistant", self.assistant),
            )
        )
        return (
            f"{{{{ if .System }}}}{system}{{{{ else }}}}{_literal(self.without_system)}{{{{ end }}}}"
            f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}{_literal(self.assistant[0])}"
        )


def chat_format(render: Render) -> ChatFormat:
    """Return what a chat template puts around turns.

    Raises:
        TrainingError: it does something else.
    """
    try:
        found = _take_apart(render)
        proved = all(found.render(messages) == render(messages, True) for messages in _proofs())
    except ValueError as error:
        raise _refused(str(error)) from error
    if not proved:
        raise _refused("it renders a longer conversation differently")
    return found


def _take_apart(render: Render) -> ChatFormat:
    user = {"role": "user", "content": _ASKED}
    answered = [user, {"role": "assistant", "content": _SAID}]
    asked = render([user], False)
    opening = _behind(render([user], True), asked)  # what stands where the model is to answer
    begin, user_end = _around(asked, _ASKED)
    middle = _around(_behind(render(answered, False), begin + _ASKED), _SAID)
    if not middle[0].endswith(opening) or middle[0].removesuffix(opening) != user_end:
        raise ValueError("an answer does not begin with what the model is given to begin it")
    again = render([*answered, {"role": "user", "content": _AGAIN}], False)
    between, last = _around(_behind(again, begin + _ASKED + middle[0] + _SAID), _AGAIN)
    if not between.startswith(middle[1]) or last != user_end:
        raise ValueError("a turn looks different once another follows")
    user_begin = between.removeprefix(middle[1])
    told = render([{"role": "system", "content": _SYSTEM}, user], False)
    system_begin, rest = _around(told, _SYSTEM)
    system_end = _around(rest, _ASKED)[0]
    if not begin.endswith(user_begin) or not system_end.endswith(user_begin):
        raise ValueError("the first question looks different from the next")
    return ChatFormat(
        without_system=begin.removesuffix(user_begin) if user_begin else begin,
        system=(system_begin, system_end.removesuffix(user_begin)),
        user=(user_begin, user_end),
        assistant=(opening, middle[1]),
    )


def _behind(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError("what is rendered of the first turns changes when others follow")
    return text[len(start) :]


def _around(text: str, mark: str) -> tuple[str, str]:
    before, found, behind = text.partition(mark)
    if not found or mark in behind:
        raise ValueError("a turn's text is not put in once, as it is")
    return before, behind


def _proofs() -> Iterable[Messages]:
    system = {"role": "system", "content": "Be brief."}
    turns = [
        {"role": "user", "content": "What colour?"},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "And {{ why }}?\n\nSay it."},
        {"role": "assistant", "content": "So be it."},
        {"role": "user", "content": "红色吗？"},
    ]
    for end in (1, 3, 5):
        yield turns[:end]
        yield [system, *turns[:end]]


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _refused(why: str) -> TrainingError:
    return TrainingError(
        f"the model's chat template can't be said as an Ollama template: {why}",
        valid="a template that puts fixed text before and behind each turn (ChatML and its like)",
        next_step="serve the model with a program that reads the Jinja template itself (vLLM, llama.cpp): --format hf",
    )


def modelfile(model: Path, source: str, *, comment: Sequence[str]) -> str:
    """Return an Ollama Modelfile for a model directory; `source` is what FROM names.

    Raises:
        TrainingError: the directory has no chat template, or one that Ollama's can't express.
    """
    opened = open_source(model, needs_chat_template=True)
    tokenizer = opened.tokenizer
    # Ollama's tokenizer puts this token there by itself; in the template, too, it would stand twice.
    start = tokenizer.bos_token if tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id] else None

    def render(messages: Messages, to_answer: bool) -> str:
        text = str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=to_answer))
        return text.removeprefix(start) if start else text

    template = chat_format(render).go_template()
    if '"""' in template:
        raise _refused('it holds """, which ends a text in a Modelfile')
    positions = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    ends = [str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(opened.end_tokens)]
    lines = [
        *(f"# {line}" for line in comment),
        f"FROM {source}",
        f'TEMPLATE """{template}"""',
        *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends),
        *([f"PARAMETER num_ctx {positions}"] if positions else []),
        "# As the gate asked it.",
        "PARAMETER temperature 0",
    ]
    return "\n".join(lines) + "\n"
