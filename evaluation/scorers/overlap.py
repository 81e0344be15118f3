"""What BLEU and chrF share: the optional package that computes both."""

from __future__ import annotations

import unicodedata
from typing import Any

from data_catalog.errors import MissingDependency


def sacrebleu() -> Any:
    """Return the package, or say how it is installed."""
    try:
        import sacrebleu as package
    except ImportError as error:
        raise MissingDependency(
            "the scorers `bleu` and `chrf` need the package sacrebleu",
            valid="scorers without it: token_f1, rouge_l",
            next_step="pip install 'tutelage[eval]' (in a checkout: pip install '.[eval]')",
        ) from error
    return package


def folded(text: str) -> str:
    """Return the text with full-width forms made half-width; case stays."""
    return unicodedata.normalize("NFKC", text).strip()
