"""JSON schema: form only, in a fence or bare; a schema that is none is refused before anything is asked."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from data_catalog.errors import ConfigError, MissingDependency
from evaluation.scorers.json_schema import JsonSchema
from tests.evaluation.scored import scored

SCHEMA = {"type": "object", "properties": {"weight": {"type": "number"}}, "required": ["weight"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"weight": 12}', 1),
        ('```json\n{"weight": 12}\n```', 1),
        ('{"weight": "12"}', 0),
        ('{"weight": NaN}', 0),
        ('Here you are: {"weight": 12}', 0),
        ("[" * 100_000, 0),
        ("", 0),
    ],
)
def test_form(text: str, value: float) -> None:
    assert scored(JsonSchema(json_schema=SCHEMA), text) == value


def test_the_parameters_have_their_effect() -> None:
    assert scored(JsonSchema(), '{"height": 3}') == 1
    assert scored(JsonSchema(json_schema=SCHEMA), '{"height": 3}') == 0
    assert scored(JsonSchema(fenced=False), '```\n{"weight": 12}\n```') == 0


def test_references_inside_the_schema_are_followed() -> None:
    schema = {"$defs": {"name": {"type": "string"}}, "type": "array", "items": {"$ref": "#/$defs/name"}}
    assert scored(JsonSchema(json_schema=schema), '["a"]') == 1
    assert scored(JsonSchema(json_schema=schema), "[1]") == 0


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "thing"}, "no JSON Schema: 'thing' is not valid"),
        ({"items": [{"$ref": "https://schemas.example/x.json"}]}, "refers to 'https://schemas.example/x.json'"),
    ],
)
def test_a_schema_that_is_none_or_lies_elsewhere_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        JsonSchema(json_schema=schema).prepare()


def test_without_the_package_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingDependency, match="jsonschema") as caught:
        JsonSchema().prepare()
    assert "pip install 'tutelage[eval]'" in caught.value.next_step
