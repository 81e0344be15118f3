"""Which warnings of the libraries are not worth a user's time, each with its reason. Everything else stays visible."""

from __future__ import annotations

import logging

_LOGGERS = (
    # Warns on each import that an optional kernel for 4-bit products, fetched from a hub, is not installed.
    "bitsandbytes.backends.cpu.ops",
)


def silence() -> None:
    """Quieten what is known to be harmless. Called before the libraries are imported."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
