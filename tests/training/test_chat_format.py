"""Chat templates as Ollama's: rendered by another program, they give the same prompt; what can't be said is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jinja2
import pytest

from data_catalog.errors import TrainingError
from tests.training.go_template import render as render_go
from training.chat_format import Messages, Render, chat_format, modelfile
from training.models import open_source

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + CHATML
)
LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BRACES = CHATML.replace("<|im_start|>", "{{ '{{' }}turn ")
SYSTEM_IN_THE_FIRST_QUESTION = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{% if messages[0].role == 'system' and loop.index0 == 1 %}<<SYS>>{{ messages[0].content }}<</SYS>> {% endif %}"
    "{{ m.content }} [/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
ONLY_THE_LAST_QUESTION = (
    "{% for m in messages %}{% if loop.last or m.role != 'user' %}<{{ m.role }}>{{ m.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NUMBERED = (
    "{% for m in messages %}<{{ m.role }} {{ loop.index }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant {{ messages | length + 1 }}>{% endif %}"
)
SHOUTED = CHATML.replace("{{ m.content }}", "{{ m.content | upper }}")

CONVERSATION: Messages = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "What {{ colour }} is it?"},
    {"role": "assistant", "content": "Red."},
    {"role": "user", "content": "再说一遍"},
]


def jinja(template: str) -> Render:
    compiled = jinja2.Environment(autoescape=False).from_string(template)
    return lambda messages, to_answer: compiled.render(messages=messages, add_generation_prompt=to_answer)


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA3, ZEPHYR, BRACES])
@pytest.mark.parametrize("start", [0, 1], ids=["system", "no-system"])
def test_gos_rendering_is_jinjas(template: str, start: int) -> None:
    render = jinja(template)
    messages = CONVERSATION[start:]
    assert render_go(chat_format(render).go_template(), messages) == render(messages, True)


@pytest.mark.parametrize("template", [SYSTEM_IN_THE_FIRST_QUESTION, ONLY_THE_LAST_QUESTION, NUMBERED, SHOUTED])
def test_what_go_can_not_say_is_refused(template: str) -> None:
    with pytest.raises(TrainingError, match="can't be said as an Ollama template"):
        chat_format(jinja(template))


def test_a_modelfile_renders_what_the_tokenizer_renders_and_stops_where_the_model_does(base: Path) -> None:
    text = modelfile(base, "./model", comment=["who made it"])
    assert text.startswith("# who made it\nFROM ./model\n")
    found = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    assert found is not None
    tokenizer = open_source(base, needs_chat_template=True).tokenizer
    expected = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert render_go(found[1], CONVERSATION) == expected
    stops = [json.loads(stop) for stop in re.findall(r"PARAMETER stop (.*)", text)]
    assert set(stops) == {"<|im_end|>", "<|endoftext|>"}
    assert "PARAMETER num_ctx 512" in text
