"""Which elements of an HTML page nobody sees: hidden, transparent, without size, off the page, white on white.

What is understood: inline styles, the old colour attributes, and rules with one plain selector (`.note`, `#x`, `p`) in
the page's own `<style>`. Style sheets elsewhere are not fetched, scripts are not run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lxml.html import HtmlElement

NEAR = 24
"""Two colours whose channels (0 to 255) differ by no more can't be told apart by a reader."""
TINY_PIXELS = 2.0
FAR_PIXELS = -900.0
_WHITE = (255, 255, 255)

Colour = tuple[int, int, int]
Style = Mapping[str, str]

_NAMED: Mapping[str, Colour] = {
    "white": _WHITE, "snow": (255, 250, 250), "ghostwhite": (248, 248, 255), "ivory": (255, 255, 240),
    "whitesmoke": (245, 245, 245), "black": (0, 0, 0), "red": (255, 0, 0), "green": (0, 128, 0),
    "blue": (0, 0, 255), "yellow": (255, 255, 0), "gray": (128, 128, 128), "grey": (128, 128, 128),
    "silver": (192, 192, 192), "navy": (0, 0, 128),
}  # fmt: skip
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_NESTED = re.compile(r"@[^{};]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_PLAIN_SELECTOR = re.compile(r"[.#]?-?[a-zA-Z_][\w-]*")
_HEX = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})")
_RGB = re.compile(r"rgba?\(\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)(?:[\s,/]+([\d.]+)(%?))?\s*\)")
_LENGTH = re.compile(r"(-?[\d.]+)(px|pt|em|rem|%)?")
_PIXELS = {"px": 1.0, "pt": 4 / 3, "em": 16.0, "rem": 16.0, "%": 0.16, None: 1.0}


@dataclass(frozen=True)
class Sight:
    """What an element inherits: its colour and what lies behind it."""

    colour: Colour = (0, 0, 0)
    background: Colour = _WHITE


@dataclass
class Styles:
    """The declarations of a page's own style sheets, by plain selector."""

    rules: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, sheet: str) -> None:
        """Read a style sheet; what is nested in `@media` and the like depends on the device and is left out."""
        for match in _RULE.finditer(_NESTED.sub("", _COMMENT.sub("", sheet))):
            for selector in match[1].split(","):
                if _PLAIN_SELECTOR.fullmatch(selector.strip()):
                    self.rules.setdefault(selector.strip(), {}).update(_declarations(match[2]))

    def of(self, element: HtmlElement) -> Style:
        """Return what applies to an element, the most specific last."""
        found: dict[str, str] = {}
        for name in ("color", "bgcolor"):
            if value := element.get(name):
                found["background-color" if name == "bgcolor" else name] = value.strip().lower()
        selectors = [str(element.tag), *(f".{name}" for name in (element.get("class") or "").split())]
        for selector in (*selectors, f"#{element.get('id')}"):
            found.update(self.rules.get(selector, {}))
        found.update(_declarations(element.get("style") or ""))
        return found


def _declarations(text: str) -> dict[str, str]:
    pairs = (entry.partition(":") for entry in text.lower().split(";"))
    return {name.strip(): value.replace("!important", "").strip() for name, _, value in pairs if value.strip()}


def seen_in(style: Style, outside: Sight) -> Sight:
    """Return colour and background inside an element that stands in `outside`."""
    background = style.get("background-color") or style.get("background", "")
    return Sight(
        colour=_colour(style.get("color", "")) or outside.colour,
        background=_colour(background) or outside.background,
    )


def hides(element: HtmlElement, style: Style) -> bool:
    """Say whether an element and all that is in it is not shown."""
    if element.get("hidden") is not None or str(element.tag) == "template":
        return True
    if style.get("display") == "none" or style.get("visibility") in ("hidden", "collapse"):
        return True
    if (opacity := _number(style.get("opacity", ""))) is not None and opacity <= 0.05:
        return True
    if (size := _pixels(style.get("font-size", ""))) is not None and size <= TINY_PIXELS:
        return True
    if (indent := _pixels(style.get("text-indent", ""))) is not None and indent <= FAR_PIXELS:
        return True
    if style.get("position") in ("absolute", "fixed"):
        places = (_pixels(style.get(side, "")) for side in ("left", "top", "right", "bottom"))
        return any(place is not None and place <= FAR_PIXELS for place in places)
    return False


def blends_in(style: Style, sight: Sight) -> bool:
    """Say whether text of this style can't be told from what lies behind it."""
    if style.get("color") == "transparent" or (_alpha(style.get("color", "")) or 1.0) <= 0.05:
        return True
    if "url(" in style.get("background", "") or "url(" in style.get("background-image", ""):
        return False  # a picture lies behind it, and nobody knows its colours
    return all(abs(ours - theirs) <= NEAR for ours, theirs in zip(sight.colour, sight.background, strict=True))


def _colour(value: str) -> Colour | None:
    for word in (value, *value.split()):
        if word in _NAMED:
            return _NAMED[word]
        if _HEX.fullmatch(word):
            digits = word[1:] if len(word) == 7 else "".join(digit * 2 for digit in word[1:])
            return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)
    match = _RGB.search(value)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _alpha(value: str) -> float | None:
    match = _RGB.search(value)
    if match is None or match[4] is None:
        return None
    # Zero must not look like "none given".
    return max(1e-9, float(match[4]) / (100 if match[5] else 1))


def _number(value: str) -> float | None:
    try:
        return float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        return None


def _pixels(value: str) -> float | None:
    match = _LENGTH.fullmatch(value)
    number = _number(match[1]) if match else None
    return number * _PIXELS[match[2]] if match and number is not None else None
