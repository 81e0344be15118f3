"""`sensitive@1`: an item holds no personal data and no secret, wherever it came from."""

from __future__ import annotations

import json
from collections.abc import Collection

from data_catalog.records import Item, Verdict
from generators.filters.base import failed, passed
from generators.sensitive import Sensitive, find_sensitive

CHECK = "sensitive@1"


def check(item: Item, kinds: Collection[Sensitive]) -> Verdict:
    """Return whether an item's payload is free of `kinds`; what was found is named, never quoted."""
    # Line breaks as they are: written as \\n they would glue an `n` to the next word.
    text = json.dumps(item.payload, ensure_ascii=False).replace("\\n", "\n")
    found = find_sensitive(text, kinds)
    return failed(item, CHECK, f"holds {', '.join(found)}") if found else passed(item, CHECK)
