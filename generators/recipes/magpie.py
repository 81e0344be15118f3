"""`magpie`: the teacher writes the user's turn itself, from nothing but its beginning, then answers it; no document.

After Magpie (arXiv 2406.08464): an aligned model that is given its chat template up to where a user would write goes on
as users do. The first step sends such an opening as bare text, outside any chat, as often as there are samples; the
second puts what came of it as a question of its own. It needs a server with `/v1/completions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from data_catalog.records import Item, Message, Request, Sampling, Split
from generators.prompts import Template, neutralise
from generators.recipes.answers import Answer, ParseFailure
from generators.recipes.base import Ask, FollowUp, Recipe, Source
from generators.recipes.evol_instruct import declines
from generators.specs import RecipeSpec


class Magpie(Recipe):
    """As many instructions per opening as there are samples, and the response to each."""

    name: ClassVar[str] = "magpie"
    version: ClassVar[int] = 1
    needs_openings: ClassVar[bool] = True

    def asks(self, source: Source) -> Iterator[Ask]:
        """Yield every opening."""
        for opening in source.openings:
            yield Ask({}, {"split": Split.TRAIN.value, "opening": opening})

    def requests_on(
        self, ask: Ask, spec: RecipeSpec, templates: Sequence[Template], *, samples: range, **how: Any
    ) -> Iterator[Request]:
        """Yield the opening once per sample, as it is; a response is asked for with the templates."""
        if "from" in ask.origin:
            yield from super().requests_on(ask, spec, templates, samples=samples, **how)
            return
        origin = {
            **ask.origin,
            "recipe": self.name,
            "subject": ask.subject,
            "unknown_answer": how["unknown_answer"],
            "neutralised": 0,
        }
        for index in samples:
            yield Request(
                model=how["model"],
                messages=(Message(role="assistant", content=ask.origin["opening"]),),
                sampling=Sampling(temperature=spec.temperature, top_p=spec.top_p, max_tokens=spec.max_tokens),
                sample_index=index,
                purpose=self.label,
                origin=origin,
            )

    def read(self, request: Request, answer: Answer) -> Item | ParseFailure | FollowUp:
        """Go from an instruction to the request for its response, or from that to a conversation."""
        if "from" in request.origin:
            if declines(answer):
                return ParseFailure("the teacher declines the task")
            return self.conversation(request, [(request.origin["task"], neutralise(answer).text)])
        if neutralise(answer).count:
            return ParseFailure("control tokens in the instruction: the server does not stop where a turn ends")
        origin = {"split": request.origin["split"], "task": str(answer), "from": request.key}
        return FollowUp((Ask({"task": str(answer)}, origin),))
