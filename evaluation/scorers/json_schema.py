"""JSON schema: the answer is JSON of the form asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from data_catalog.errors import ConfigError, MissingDependency
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Scorer

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)


class JsonSchema(Scorer):
    """The answer is JSON that a JSON Schema allows; needs the extra `eval`.

    Source: JSON Schema, draft 2020-12, or the draft that the schema names.
    """

    name: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})
    """The schema, written as YAML. References may only point into the schema itself."""
    fenced: bool = True
    """Whether the JSON may stand in a Markdown code fence, with nothing round it."""

    def prepare(self) -> None:
        """Find out whether jsonschema is installed and the schema is one."""
        try:
            from jsonschema import SchemaError
            from jsonschema.validators import validator_for
        except ImportError as error:
            raise MissingDependency(
                "the scorer `json_schema` needs the package jsonschema",
                next_step="pip install 'tutelage[eval]' (in a checkout: pip install '.[eval]')",
            ) from error
        outside = [target for target in _references(self.json_schema) if not target.startswith("#")]
        if outside:
            raise ConfigError(
                f"`json_schema` refers to {outside[0]!r}, which is not part of it",
                valid="references that begin with `#`; nothing is fetched",
                next_step="copy what is referred to under `$defs`",
            )
        try:
            validator_for(self.json_schema).check_schema(self.json_schema)
        except SchemaError as error:
            raise ConfigError(
                f"`json_schema` is no JSON Schema: {error.message} (at {error.json_path})",
                next_step="correct the schema in the suite's `scorer`",
            ) from error

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return 1 when the text is JSON that the schema allows, else 0."""
        from jsonschema.validators import validator_for

        fence = _FENCE.fullmatch(answer.text) if self.fenced else None
        try:
            value = json.loads(fence[1] if fence else answer.text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        return float(validator_for(self.json_schema)(self.json_schema).is_valid(value))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _references(schema: Any) -> Iterator[str]:
    """Yield what `$ref` and its kin point to, anywhere in a schema."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
