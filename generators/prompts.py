"""Prompts: Jinja templates in files, rendered with documents as values.

A document is data, never instructions and never a template:

* Its text enters as a value, so `{{7*7}}` in it stays `{{7*7}}`.
* Chat-control tokens in it (`<|im_end|>`, `</s>`, `[INST]` ...) get a space after their first character
  (`< |im_end|>`): a reader still sees what stood there, and no tokenizer takes it for control. The same is done to the
  tags with which the product's templates delimit data (`</document>`), so that a document can't close its own frame.
* The product's templates say that what stands between the tags is data.

A template renders to one user message. Where it has `{% block user %}`, that block is the user message, and an optional
`{% block system %}` is the system message before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data_catalog.errors import ConfigError
from data_catalog.records import Message

TEMPLATES = Path(__file__).parent / "templates"

VARIABLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "grounded_qa": frozenset({"heading", "chunk", "focus"}),
        "answer": frozenset({"heading", "chunk", "question"}),
        "judge": frozenset({"heading", "chunk", "question", "answer"}),
        "paraphrase": frozenset({"heading", "sentence"}),
        "unanswerable": frozenset({"heading", "chunk"}),
        "rubric": frozenset({"question", "answer", "reference", "criteria", "scale"}),
        "pairwise": frozenset({"question", "first", "second", "reference", "criteria"}),
        "multi_hop": frozenset({"heading", "chunk", "other_heading", "other_chunk", "link"}),
        "multi_turn": frozenset({"heading", "chunk", "focus", "other_focus"}),
        "chain_of_thought": frozenset({"heading", "chunk", "focus"}),
        "instructions": frozenset({"heading", "chunk"}),
        "rewrites": frozenset({"heading", "chunk"}),
        "entigraph_plan": frozenset({"heading", "chunk"}),
        "entigraph": frozenset({"heading", "chunk", "entities"}),
        "active_reading_plan": frozenset({"heading", "chunk"}),
        "active_reading": frozenset({"heading", "chunk", "strategy"}),
        "personas_plan": frozenset({"heading", "chunk"}),
        "personas": frozenset({"heading", "chunk", "persona"}),
        "self_instruct": frozenset({"tasks"}),
        "evol_instruct_plan": frozenset({"task"}),
        "evol_instruct": frozenset({"task"}),
        "magpie": frozenset({"task"}),
        "aspect_ratings": frozenset({"heading", "chunk", "question", "answer", "reference"}),
    }
)
"""What each kind of template is given; using anything else is an error before a single request is sent."""
SOURCE_VARIABLES = frozenset({"chunk", "focus", "sentence", "task", "tasks"})
"""Those that carry the document, or the tasks where there is none: a template with none of them asks about nothing."""
JUDGED_VARIABLES = frozenset({"answer", "first", "second"})
"""Those that carry what is judged, where no document is shown."""

DELIMITERS = (
    *("document", "passage", "sentence", "question", "answer"),
    *("names", "entities", "strategy", "persona", "task"),
    *("answer_1", "answer_2", "reference_answer"),
)
"""The tags with which the product's templates frame data."""
_CONTROL = re.compile(
    r"<\|[^<>|\n]{1,60}\|>"  # ChatML, Llama 3, Phi, Qwen: <|im_start|>, <|eot_id|>, <|endoftext|>
    "|<\uff5c[^<>\uff5c\n]{1,60}\uff5c>"  # DeepSeek, with full-width bars
    r"|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response)>"
    r"|<(?:start|end)_of_(?:turn|image)>"  # Gemma
    r"|<(?:unused|extra_id_|reserved_)\d{1,5}>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG)\]"  # Mistral
    r"|<</?SYS>>"  # Llama 2
    rf"|</?(?:{'|'.join(DELIMITERS)})>",
    re.IGNORECASE,
)
_PRODUCT_FILE = re.compile(r"(?P<name>[a-z0-9_]+)\.v(?P<version>\d+)\.(?P<language>[a-z]{2})\.jinja")


@dataclass(frozen=True)
class Neutralised:
    """A text without control tokens, and how many it had."""

    text: str
    count: int


def neutralise(text: str) -> Neutralised:
    """Return `text` with a space after the first character of every chat-control token and delimiter tag.

    To read the original, take that space out again; the count says whether there is any.
    """
    total = 0
    # Again until nothing is found: taking one apart can leave another that enclosed it.
    while True:
        text, count = _CONTROL.subn(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        if not count:
            return Neutralised(text, total)
        total += count


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, and how many control tokens were neutralised in its data."""

    messages: tuple[Message, ...]
    neutralised: int


@dataclass(frozen=True)
class Template:
    """A prompt template; `name#digest` is its identity."""

    name: str
    """Recipe, name, version and language, such as `grounded_qa/direct.v1.en`."""
    digest: str
    """SHA-256 of the file's text, 64 hex digits."""
    recipe: str
    variables: frozenset[str]
    """What it is given."""
    _compiled: JinjaTemplate = field(repr=False, compare=False)

    @property
    def identity(self) -> str:
        """Name and the first 12 digits of the digest, as a `Request` carries it."""
        return f"{self.name}#{self.digest[:12]}"

    def render(self, **variables: str) -> Prompt:
        """Render the messages; every variable is data and is neutralised.

        Raises:
            ConfigError: the template failed on these values, or rendered to nothing.
        """
        safe = {name: neutralise(value) for name, value in variables.items()}
        values = {name: data.text for name, data in safe.items()}
        try:
            messages = self._messages(values)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"template {self.name} can't be rendered: {error}") from error
        if not messages or messages[-1].role != "user" or not messages[-1].content:
            raise ConfigError(
                f"template {self.name} rendered no user message",
                valid="text, or {% block user %} with an optional {% block system %}",
            )
        return Prompt(messages, sum(data.count for data in safe.values()))

    def _messages(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        blocks = self._compiled.blocks
        if "user" not in blocks:
            return (Message(role="user", content=self._compiled.render(values).strip()),)
        parts: list[Message] = []
        for role in ("system", "user"):
            if role in blocks:
                content = "".join(blocks[role](self._compiled.new_context(dict(values)))).strip()
                if content:
                    parts.append(Message.model_validate({"role": role, "content": content}))
        return tuple(parts)


def product_templates(recipe: str, language: str) -> tuple[str, ...]:
    """Return the names of the product's own templates of a recipe: the newest version of each, sorted."""
    newest: dict[str, int] = {}
    for path in (TEMPLATES / recipe).glob("*.jinja"):
        match = _PRODUCT_FILE.fullmatch(path.name)
        if match and match["language"] == language:
            newest[match["name"]] = max(newest.get(match["name"], 0), int(match["version"]))
    return tuple(f"{recipe}/{name}.v{version}.{language}" for name, version in sorted(newest.items()))


def load_template(
    name_or_path: str,
    recipe: str,
    language: str,
    base_dir: Path | None = None,
    *,
    variables: frozenset[str] | None = None,
) -> Template:
    """Load and check one template.

    Args:
        name_or_path: a `*.jinja` file, relative to `base_dir`; the name of one of the product's own; or an empty string
            for the product's first one.
        recipe: which variables it is given: a key of `VARIABLES`; or the name of a recipe of the user's own.
        language: `en` or `zh`, for the product's own.
        base_dir: the configuration's folder; the current one when left out.
        variables: what it is given, for a recipe of the user's own.

    Raises:
        ConfigError: there is no such file, it is no valid template, or it uses what it is not given.
    """
    own = product_templates(recipe, language) if variables is None else ()
    if name_or_path.endswith(".jinja"):
        path = (base_dir or Path()) / name_or_path
        name = f"{recipe}/{path.name.removesuffix('.jinja')}"
    else:
        name = name_or_path or own[0]
        path = TEMPLATES / f"{name}.jinja"
        if name_or_path and name_or_path not in own:
            known = f", or {', '.join(own)}" if own else ""
            raise ConfigError(f"no template {name_or_path!r} for {recipe}", valid=f"a *.jinja file{known}")
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"template {path} can't be read: {error}",
            valid=f"a *.jinja file relative to the configuration, or one of {', '.join(own)}",
        ) from error
    given = VARIABLES[recipe] if variables is None else variables
    return Template(name, sha256(source.encode()).hexdigest(), recipe, given, _compile(source, name, recipe, given))


def load_templates(
    names: tuple[str, ...],
    recipe: str,
    language: str,
    base_dir: Path | None = None,
    *,
    variables: frozenset[str] | None = None,
) -> tuple[Template, ...]:
    """Load the templates that a recipe names, or all of the product's own for the language when it names none.

    Raises:
        ConfigError: see `load_template`; or a recipe of the user's own (`variables`) names none.
    """
    if variables is not None and not names:
        raise ConfigError(
            f"the recipe {recipe} has no templates", valid="*.jinja files relative to the configuration in `templates`"
        )
    return tuple(
        load_template(name, recipe, language, base_dir, variables=variables)
        for name in names or product_templates(recipe, language)
    )


def _compile(source: str, name: str, recipe: str, given: frozenset[str]) -> JinjaTemplate:
    # No loader: a template is one file, so that its digest says all of it.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    try:
        tree = environment.parse(source, name)
        compiled = environment.from_string(source)
    except TemplateError as error:
        line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
        raise ConfigError(f"template {name} is no valid Jinja{line}: {error}") from error
    if any(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))):
        raise ConfigError(f"template {name} includes another file", valid="a template in one file")
    used = find_undeclared_variables(tree)
    if used - given:
        raise ConfigError(
            f"template {name} uses {', '.join(sorted(used - given))}, which {recipe} is not given",
            valid=", ".join(sorted(given)),
        )
    carriers = given & SOURCE_VARIABLES or given & JUDGED_VARIABLES or given
    if not used & carriers:
        what = "what it is to judge" if carriers <= JUDGED_VARIABLES else "the document"
        raise ConfigError(f"template {name} uses nothing of {what}", valid=", ".join(sorted(carriers)))
    return compiled
