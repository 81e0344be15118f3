"""`tutelage chat`: questions to a registered model, answered by its verified bytes with its own chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.records import Completion, Message, Request, Sampling
from data_catalog.registry import Registry
from flows import workers

Complete = Callable[[Path, str, Sequence[Request]], Sequence[Completion]]


@dataclass(frozen=True)
class OpenModel:
    """A registered model whose bytes have been verified."""

    version: str
    directory: Path
    home: Path


def open_model(home: Path, name: str) -> OpenModel:
    """Return the model that a stage, an id or the beginning of an id names.

    Raises:
        RegistryError: there is none, or its files are not those that were registered.
    """
    registry = Registry(Catalogue(home))
    version = registry.resolve(name)
    registry.verify(version.id)
    return OpenModel(version.id, home / version.path, home)


def answer(
    model: OpenModel,
    questions: Sequence[str],
    *,
    system: str | None = None,
    max_tokens: int = 128,
    complete: Complete | None = None,
) -> list[str]:
    """Return one greedy answer per question; questions don't see one another.

    Args:
        model: who answers.
        questions: user turns.
        system: system message before each question.
        max_tokens: longest answer.
        complete: how to get completions from a directory, a fingerprint and requests; by default from local weights
            in a process of their own.
    """
    opening = (Message(role="system", content=system),) if system else ()
    requests = [
        Request(
            model=model.version,
            messages=(*opening, Message(role="user", content=question)),
            sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
            purpose="chat",
        )
        for question in questions
    ]
    asked = complete or _from_weights(model.home)
    answers = {
        completion.request_key: completion.text.strip()
        for completion in asked(
            model.directory, model.version, list({request.key: request for request in requests}.values())
        )
    }
    return [answers[request.key] for request in requests]


def _from_weights(home: Path) -> Complete:
    def complete(directory: Path, fingerprint: str, requests: Sequence[Request]) -> Sequence[Completion]:
        return workers.complete(directory, fingerprint, requests, home=home)

    return complete
