"""What a sweep varies: settings of a stage by name, each with a range or choices, and the stage with values put in."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from data_catalog.errors import ConfigError
from training.specs import TrainSpec

Value = bool | int | float | str | None
Values = Mapping[str, Value]
SCALES = ("log", "linear")
DIGITS = 3
"""Significant digits of a value that is drawn from a range: more than a sweep can tell apart, and fit to be read."""
_NOT_VARIED = {
    "stage": "another kind of stage is another plan",
    "seed": "the best of several seeds is luck",
    "checkpoint_steps": "it does not change what is learned",
    "log_steps": "it does not change what is learned",
}
_SPEC: TypeAdapter[Any] = TypeAdapter(TrainSpec)


@dataclass(frozen=True)
class Parameter:
    """One setting of a stage: `choices`, or else a range from `low` to `high`, both included."""

    name: str
    """As in the configuration below `train`: `learning_rate`, `method.rank`."""
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    """Only whole numbers of the range."""
    log: bool = False
    """Even in the logarithm."""

    def draw(self, source: random.Random) -> Value:
        """Return a value by lot."""
        if self.choices:
            return source.choice(self.choices)
        if self.log:
            return self.rounded(math.exp(source.uniform(math.log(self.low), math.log(self.high))))
        return self.rounded(source.randint(int(self.low), int(self.high)) if self.whole else self._uniform(source))

    def rounded(self, value: float) -> Value:
        """Return a value of the range as it is tried and written down."""
        short = round(value) if self.whole else float(f"{value:.{DIGITS}g}")
        inside = min(max(short, self.low), self.high)
        return int(inside) if self.whole else inside

    def _uniform(self, source: random.Random) -> float:
        return source.uniform(self.low, self.high)


def parse_parameter(text: str, train: TrainSpec) -> Parameter:
    """Read `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log` (or `:linear`) or `NAME=ONE,TWO,...`.

    A range between whole numbers gives whole numbers. Ranges of rates are logarithmic unless they say `:linear`: what
    matters of a learning rate is its order of magnitude.

    Raises:
        ConfigError: it is nothing of that, the stage has no such setting, or a value can't be the stage's.
    """
    name, found, said = (part.strip() for part in text.partition("="))
    if not found or not said:
        raise _refused(text, "learning_rate=1e-5..1e-3, method.rank=8,16,32 or batch_size=4..32:log")
    name = _known(name, train)
    parameter = _range(text, name, said) if ".." in said else _choices(text, name, said)
    for value in parameter.choices or (parameter.rounded(parameter.low), parameter.rounded(parameter.high)):
        with_values(train, {name: value})
    return parameter


def names_of(train: TrainSpec) -> list[str]:
    """Return the settings that may be varied, as the configuration calls them."""
    return [name for name in _flat(train.model_dump(mode="json")) if name not in (*_NOT_VARIED, "method.name")]


def with_values(train: TrainSpec, values: Values) -> TrainSpec:
    """Return the stage's settings with some of them replaced.

    Raises:
        ConfigError: the stage does not take these values, or not together.
    """
    content = train.model_dump(mode="json")
    for name, value in sorted(values.items(), key=lambda entry: entry[0].count(".")):
        if name == "method" and value == content["method"]["name"]:
            continue  # it keeps its own settings, such as the rank
        *above, last = name.split(".")
        section = content
        for part in above:
            if not isinstance(section.get(part), dict):
                section[part] = {"name": section.get(part)}
            section = section[part]
        section[last] = value
    try:
        return _SPEC.validate_python(content)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        told = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ConfigError(
            f"stage kind {content['stage']} does not take {told}: {first['msg'].removeprefix('Value error, ')}",
            next_step="correct --parameter; docs/configuration.md says what each setting may be",
        ) from error


def _known(name: str, train: TrainSpec) -> str:
    valid = names_of(train)
    if name in valid:
        return name
    if name in _NOT_VARIED:
        raise ConfigError(f"`{name}` is not varied: {_NOT_VARIED[name]}", valid=", ".join(valid))
    beginning = [one for one in valid if one.rpartition(".")[2].startswith(name.rpartition(".")[2])]
    near = beginning or difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    raise ConfigError(
        f"a stage of kind {train.stage} by {train.method.name} has no `{name}`{hint}", valid=", ".join(valid)
    )


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield above + key
        if isinstance(value, dict) and "name" in value:
            yield from _flat(value, f"{above}{key}.")


def _range(text: str, name: str, said: str) -> Parameter:
    ends, _, scale = said.partition(":")
    if scale and scale not in SCALES:
        raise _refused(text, f"a scale of {' or '.join(SCALES)} behind the range")
    low, high = (_value(end) for end in ends.split("..", 1))
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        raise _refused(text, "a range of two numbers, such as 1e-5..1e-3; choices stand apart by commas")
    assert isinstance(low, int | float), "looked at above"
    assert isinstance(high, int | float), "looked at above"
    if low == high:
        raise _refused(text, "two different ends")
    if low > high:
        raise _refused(text, f"the smaller number first: {name}={high:g}..{low:g}")
    log = scale == "log" or (not scale and name.endswith("rate"))
    if log and low <= 0:
        raise _refused(text, "numbers above 0 on a logarithmic scale, or `:linear` behind the range")
    whole = isinstance(low, int) and isinstance(high, int)
    return Parameter(name, low=float(low), high=float(high), whole=whole, log=log)


def _choices(text: str, name: str, said: str) -> Parameter:
    parts = [part.strip() for part in said.split(",")]
    values = [_value(part) for part in parts]
    distinct = len({(type(value), str(value)) for value in values})
    if "" in parts or len(values) < 2 or distinct < len(values):
        raise _refused(text, "two or more different values with commas between them, or a range LOW..HIGH")
    return Parameter(name, choices=tuple(values))


def _value(text: str) -> Value:
    for kind in (int, float):  # YAML takes 1e-5 for a text
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    return value if isinstance(value, bool) or value is None else text


def _refused(text: str, valid: str) -> ConfigError:
    return ConfigError(f"--parameter {text} can't be used", valid=valid)
