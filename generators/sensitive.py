"""Personal data and secrets in a text, by patterns that are checked where the kind has a check digit.

What is found is named by its kind only: a reason that quotes a key would carry it into the catalogue and the report.
Names of people are not looked for; no pattern tells a customer from an author.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import partial


class Sensitive(StrEnum):
    """A kind of text that should not be learned by heart."""

    EMAIL = "email"
    """An e-mail address; those under the domains of RFC 2606 (example.com) are nobody's."""
    IBAN = "iban"
    """A bank account, its check digits right (ISO 13616, modulo 97)."""
    PAYMENT_CARD = "payment_card"
    """13 to 19 digits of a card network, the last one right (ISO/IEC 7812, Luhn)."""
    CHINESE_ID = "chinese_id"
    """A resident identity number, date and check character right (GB 11643)."""
    PHONE = "phone"
    """A number in international form (`+` and 8 to 15 digits, E.164) or a Chinese mobile number."""
    IP_ADDRESS = "ip_address"
    """A public IPv4 address."""
    PRIVATE_KEY = "private_key"
    """The first line of a key in PEM form."""
    API_KEY = "api_key"
    """A token that bears the mark of its issuer (AWS, GitHub, GitLab, Google, Hugging Face, OpenAI, Slack, Stripe)."""
    JWT = "jwt"
    """A signed JSON web token (RFC 7519)."""
    URL_PASSWORD = "url_password"  # noqa: S105 - the name of a kind
    """A user's password in an address."""


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda found: True


def _is_somebodys(address: str) -> bool:
    domain = address.rsplit("@", 1)[1].lower()
    return not re.search(r"(?:^|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost)$", domain)


def _is_iban(text: str) -> bool:
    account = re.sub(r"\s", "", text).upper()
    if not 15 <= len(account) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


# American Express, Diners, Visa, Mastercard (two ranges), Discover and UnionPay, JCB.
_NETWORKS = re.compile(
    r"3[47]\d{13}|3[068]\d{12}|4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|6[25]\d{14,17}|35\d{14}"
)


def _is_card(text: str) -> bool:
    number = re.sub(r"\D", "", text)
    if not _NETWORKS.fullmatch(number):
        return False
    doubled = (int(digit) * 2 if place % 2 else int(digit) for place, digit in enumerate(reversed(number)))
    return sum(digit - 9 if digit > 9 else digit for digit in doubled) % 10 == 0


_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def _is_chinese_id(text: str) -> bool:
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, text, strict=False))
    return "10X98765432"[total % 11] == text[17].upper()


def _is_phone(text: str) -> bool:
    return not text.startswith("+") or 8 <= sum(character.isdigit() for character in text) <= 15


def _is_public(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return False


_ISSUERS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    r"gh[pousr]_[A-Za-z0-9]{36,}",
    r"github_pat_[A-Za-z0-9_]{60,}",
    r"glpat-[A-Za-z0-9_-]{20,}",
    r"AIza[0-9A-Za-z_-]{35}",
    r"hf_[A-Za-z]{34}",
    r"sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,}",
    r"xox[abprs]-[A-Za-z0-9-]{10,}",
    r"[rs]k_live_[A-Za-z0-9]{16,}",
)
# ASCII, so that a Chinese character beside a number is no part of it.
_ascii = partial(re.compile, flags=re.ASCII)
# No digit, letter or sign of a longer number may stand beside a number: `1.2.3.4.5` is a version.
_RULES: Mapping[Sensitive, _Rule] = {
    Sensitive.EMAIL: _Rule(
        _ascii(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
        _is_somebodys,
    ),
    Sensitive.IBAN: _Rule(_ascii(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"), _is_iban),
    Sensitive.PAYMENT_CARD: _Rule(_ascii(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![ -]?\d)(?![\w-])"), _is_card),
    Sensitive.CHINESE_ID: _Rule(_ascii(r"(?<!\w)[1-9]\d{16}[\dXx](?!\w)"), _is_chinese_id),
    Sensitive.PHONE: _Rule(
        _ascii(r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}\d){7,14}(?!\d)|(?<![\w.,-])1[3-9]\d{9}(?![\w.,-])"), _is_phone
    ),
    Sensitive.IP_ADDRESS: _Rule(_ascii(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)"), _is_public),
    Sensitive.PRIVATE_KEY: _Rule(_ascii(r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")),
    Sensitive.API_KEY: _Rule(_ascii(rf"(?<![A-Za-z0-9])(?:{'|'.join(_ISSUERS)})(?![A-Za-z0-9])")),
    Sensitive.JWT: _Rule(_ascii(r"(?<!\w)eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    Sensitive.URL_PASSWORD: _Rule(_ascii(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/:@]{3,128}@[\w.-]+")),
}


def find_sensitive(text: str, kinds: Collection[Sensitive]) -> list[Sensitive]:
    """Return which of `kinds` occur in a text, in the order of `Sensitive`."""
    return [
        kind
        for kind, rule in _RULES.items()
        if kind in kinds and any(rule.holds(match[0]) for match in rule.pattern.finditer(text))
    ]
