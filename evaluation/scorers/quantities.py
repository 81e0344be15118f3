"""Quantities in texts: numbers with units, in English and Chinese, as values that can be compared.

The table is short on purpose: units of manuals and data sheets. What is not in it is no unit, so `12 bolts` is 12.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit: value in the dimension's base unit = factor * value + offset."""

    dimension: str
    factor: float
    offset: float = 0.0


class Quantity(NamedTuple):
    """A number as it stands in a text, and its unit, if one that is known follows."""

    value: float
    unit: Unit | None

    def value_in(self, unit: Unit) -> float:
        """Return the value in another unit of the same dimension."""
        assert self.unit is not None, "only a quantity with a unit can be converted"
        return (self.value * self.unit.factor + self.unit.offset - unit.offset) / unit.factor


# Factors: BIPM, The International System of Units, 9th edition (2019), tables 2, 4, 7 and 8; NIST Special Publication
# 811 (2008), appendix B, for inch, foot, mile, pound, ounce, psi and horsepower.
_NAMES: dict[str, dict[float, str]] = {
    "mass": {
        1e-6: "mg milligram milligrams 毫克",
        1e-3: "g gram grams 克",
        1.0: "kg Kg KG kilogram kilograms kilo kilos 千克 公斤",
        1e3: "t tonne tonnes 吨",
        0.45359237: "lb lbs pound pounds 磅",
        0.028349523125: "oz ounce ounces 盎司",
    },
    "length": {
        1e-9: "nm nanometre nanometres nanometer nanometers 纳米",
        1e-6: "μm um micrometre micrometres micrometer micrometers 微米",
        1e-3: "mm millimetre millimetres millimeter millimeters 毫米",
        1e-2: "cm centimetre centimetres centimeter centimeters 厘米 公分",
        1.0: "m metre metres meter meters 米",
        1e3: "km kilometre kilometres kilometer kilometers 千米 公里",
        0.0254: "inch inches 英寸",
        0.3048: "ft foot feet 英尺",
        1609.344: "mile miles 英里",
    },
    "time": {
        1e-3: "ms millisecond milliseconds 毫秒",
        1.0: "s sec second seconds 秒",
        60.0: "min minute minutes 分钟",
        3600.0: "h hr hour hours 小时",
        86400.0: "d day days 天",
        604800.0: "week weeks 周",
    },
    "area": {
        1e-6: "mm2 平方毫米",
        1e-4: "cm2 平方厘米",
        1.0: "m2 平方米",
        1e4: "ha hectare hectares 公顷",
        1e6: "km2 平方公里",
    },
    "volume": {
        1e-6: "ml mL cm3 millilitre millilitres milliliter milliliters 毫升",
        1e-3: "l L litre litres liter liters 升",
        1.0: "m3 立方米",
    },
    "pressure": {
        1.0: "Pa pascal pascals 帕",
        1e2: "hPa mbar",
        1e3: "kPa 千帕",
        1e5: "bar bars 巴",
        1e6: "MPa 兆帕",
        6894.757293168: "psi",
    },
    "power": {
        1e-3: "mW",
        1.0: "W watt watts 瓦",
        1e3: "kW kilowatt kilowatts 千瓦",
        1e6: "MW megawatt megawatts 兆瓦",
        745.6998715822702: "hp horsepower 马力",
    },
    "energy": {1.0: "J joule joules 焦耳", 1e3: "kJ", 1e6: "MJ", 3600.0: "Wh", 3.6e6: "kWh 千瓦时"},
    "voltage": {1e-3: "mV", 1.0: "V volt volts 伏", 1e3: "kV 千伏"},
    "current": {1e-3: "mA 毫安", 1.0: "A amp amps ampere amperes 安"},
    "frequency": {1.0: "Hz hertz 赫兹", 1e3: "kHz", 1e6: "MHz", 1e9: "GHz"},
    "rotation": {1.0: "rpm 转/分 转每分钟"},
    "force": {1.0: "N newton newtons 牛", 1e3: "kN 千牛"},
    "torque": {1.0: "Nm N·m 牛米"},
    "speed": {1.0: "m/s 米/秒", 1 / 3.6: "km/h kph 公里/小时 千米/小时"},
    "share": {0.01: "% percent 个百分点", 0.001: "‰"},
}
_TEMPERATURES = {
    "°C": Unit("temperature", 1.0),
    "degrees Celsius": Unit("temperature", 1.0),
    "摄氏度": Unit("temperature", 1.0),
    "°F": Unit("temperature", 5 / 9, -160 / 9),
    "degrees Fahrenheit": Unit("temperature", 5 / 9, -160 / 9),
    "K": Unit("temperature", 1.0, -273.15),
}
UNITS: dict[str, Unit] = _TEMPERATURES | {
    name: Unit(dimension, factor)
    for dimension, names in _NAMES.items()
    for factor, listed in names.items()
    for name in listed.split()
}
_LONGEST_FIRST = sorted(UNITS, key=len, reverse=True)
_ANY_CASE = 3
"""From this length on, a unit's name is found in any case; `mW` and `MW` are not the same."""

_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "万": 1e4, "亿": 1e8}

# A hyphen or a letter before a number makes it part of a name, such as XR-200. A comma before three digits groups
# thousands, before others it is a decimal comma, as in `data_catalog.text`.
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.\-\u2212])(?P<sign>[-\u2212+]?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:[.,](?P<part>\d+))?(?:[eE](?P<exponent>[-+]?\d+))?"
    rf"(?:\s*(?P<scale>{'|'.join(_SCALES)}))?\s*"
)


def quantities(text: str) -> list[Quantity]:
    """Return the numbers of a text in order, each with the unit that follows it."""
    folded = unicodedata.normalize("NFKC", text)
    return [Quantity(_value(match), _unit_at(folded, match.end())) for match in _NUMBER.finditer(folded)]


def _value(match: re.Match[str]) -> float:
    number = match["whole"].replace(",", "") + "." + (match["part"] or "0") + "e" + (match["exponent"] or "0")
    sign = -1.0 if match["sign"] in ("-", "\u2212") else 1.0
    return sign * float(number) * _SCALES.get(match["scale"] or "", 1.0)


def _unit_at(text: str, start: int) -> Unit | None:
    for name in _LONGEST_FIRST:
        found = text[start : start + len(name)]
        if found == name or (len(name) >= _ANY_CASE and found.casefold() == name.casefold()):
            behind = text[start + len(name) : start + len(name) + 1]
            if not (name[-1].isascii() and name[-1].isalnum() and behind.isascii() and behind.isalnum()):
                return UNITS[name]
    return None
