"""Whom a job of the teacher asks and within which limits, and what it says when it has to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_catalog.errors import TeacherError, TeacherUnreachable
from data_catalog.records import FailureKind, RequestFailure
from generators.concurrency import AdaptiveLimit
from generators.specs import TeacherSpec


@dataclass(frozen=True)
class JobSettings:
    """See `generators.teacher.OpenAITeacher` for the fields."""

    spec: TeacherSpec
    urls: tuple[str, ...]
    model: str
    api_key: str
    proxy: str | None
    batch_size: int
    backoff_seconds: float
    limits: dict[str, AdaptiveLimit]
    """By address, what earlier jobs found that an endpoint bears."""
    answered_before: int = 0
    failed_before: Mapping[str, FailureKind] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The endpoints, for messages."""
        return ", ".join(self.urls)

    def too_many_failures(self, what: str, last: RequestFailure) -> TeacherError:
        """Return the error that stops a job whose error budget is spent; `what` is how many of how many failed."""
        return TeacherError(
            f"{what} got no answer from {self.where}; the last one after {last.attempts} tries: {last.reason}",
            valid=f"failures up to teacher.failure_share ({self.spec.failure_share:g}) of all requests, and of the "
            f"last {self.spec.failure_window} (teacher.failure_window)",
            next_step="look at the server's log and at `tutelage requests`, then run the same command again: what was "
            "answered is kept",
        )

    def refusal(self, url: str, reason: str) -> TeacherError:
        """Return the error that stops a job which an endpoint refuses as a whole."""
        return TeacherError(
            f"{url} refuses every request for model {self.model!r}: {reason}",
            next_step="check teacher.model (the name that the endpoint serves), teacher.base_url (it ends in /v1) and "
            "the key in teacher.api_key_env",
        )

    def no_text_completions(self, url: str, reason: str) -> TeacherError:
        """Return the error of a job that asks an endpoint to go on with a text outside any chat, which it can't."""
        return TeacherError(
            f"{url} does not go on with a bare text for model {self.model!r}: {reason}",
            valid="a server with /v1/completions, such as vLLM, SGLang or llama.cpp; many that only chat have none",
            next_step="take the recipe magpie out of generate.recipes, or name such a server in teacher.base_url; "
            "if it is one, check teacher.model (the name that it serves)",
        )

    def unreachable(self, reasons: Mapping[str, str]) -> TeacherUnreachable:
        """Return the error of a job that no endpoint ever answered; `reasons` by endpoint."""
        return TeacherUnreachable(
            f"the teacher at {self.where} never answered: {'; '.join(dict.fromkeys(reasons.values()))}",
            next_step="check teacher.base_url (host, port, /v1), whether the server runs "
            f"(curl {self.urls[0].rstrip('/')}/models), and proxies and firewalls between",
        )

    def never_answers(self, reasons: Mapping[str, str]) -> TeacherError:
        """Return the error of a job whose endpoints can be reached but answer nothing; `reasons` by endpoint."""
        return TeacherError(
            f"got no answer, not even one token, from {'; '.join(map(': '.join, reasons.items()))}",
            valid="an endpoint that answers one token (a page that says it is healthy does not count)",
            next_step="look at the server's log, then run the same command again",
        )

    def all_dead(self, reasons: Mapping[str, str]) -> TeacherError:
        """Return the error of a job whose endpoints have all died; `reasons` by endpoint."""
        died = "; ".join(map(": ".join, reasons.items()))
        return TeacherError(
            f"the teacher stopped answering, and did not come back within {self.spec.request_timeout:g} s: {died}",
            valid="an endpoint that answers one token (a page that says it is healthy does not count)",
            next_step="look at the server's log, then run the same command again: what was answered is kept, and what "
            "was in flight is asked last and alone",
        )
