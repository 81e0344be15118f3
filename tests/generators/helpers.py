"""What the tests of the generators share: a small handbook, a word counter, completions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_catalog.records import Chunk, Completion, Document, Request
from generators.chunks import chunk_document
from generators.recipes import build_requests
from generators.specs import RecipeSpec

HANDBOOK = """# Veltrano 40

The Veltrano 40 is a dough press built by Mira Kessel in Ostrava. It weighs 312 kg and stands on four legs.

## Maintenance

Grease the upper bearing every 250 hours. The oil filter must be replaced twice a year.

```sh
press --reset
```

## 安全

操作人员必须佩戴防护手套。温度不得超过80度。
"""


def count_words(text: str) -> int:
    """Count words, each Chinese character one: a tokenizer that needs no file."""
    return len(re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", text))


def handbook(text: str = HANDBOOK, path: str = "veltrano.md") -> Document:
    return Document.of(path=path, title="Veltrano 40", text=text)


def cut(document: Document, max_tokens: int = 64, evaluation_share: float = 0.0) -> list[Chunk]:
    return chunk_document(document, max_tokens=max_tokens, count_tokens=count_words, evaluation_share=evaluation_share)


def requests_for(
    recipe: str, documents: Sequence[Document] | None = None, *, context_tokens: int = 500, **spec: object
) -> list[Request]:
    documents = [handbook()] if documents is None else documents
    return build_requests(
        RecipeSpec.model_validate({"recipe": recipe, **spec}),
        documents,
        [chunk for document in documents for chunk in cut(document)],
        teacher_fingerprint="teacher-1",
        count_tokens=count_words,
        context_tokens=context_tokens,
    )


def completed(request: Request, text: str, finish_reason: str = "stop") -> Completion:
    return Completion(request_key=request.key, text=text, finish_reason=finish_reason)
