"""Asking again where too little was accepted: a target for every subject instead of the same number of tries for all.

A subject is what a prompt is about: a sentence, or a document. The number of samples of a subject grows by
`RecipeSpec.samples` in each round until its accepted items reach `target` or its samples reach `max_samples`. That
depends on what was answered and accepted alone, so an interrupted job comes to the same requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data_catalog.records import Item, Request
from generators.specs import RecipeSpec


@dataclass
class Supply:
    """How many samples each subject of each recipe gets; recipes by their place in the configuration."""

    specs: Sequence[RecipeSpec]
    samples: dict[int, dict[str, int]] = field(default_factory=dict)

    def of(self, recipe: int) -> Mapping[str, int]:
        """Return the subjects of a recipe that get more samples than the configuration's first ones."""
        return self.samples.get(recipe, {})

    def grow(
        self, asked: Mapping[int, Iterable[Request]], accepted: Iterable[Item], declined: Collection[str]
    ) -> Mapping[int, int]:
        """Give subjects that lack accepted items more samples.

        Args:
            asked: the requests of every recipe so far.
            accepted: what passed the checks.
            declined: keys of requests to which the teacher said that there is nothing to ask about. Where that is half
                of the answers or more, the subject is left alone.

        Returns:
            recipe to how many subjects are asked again; empty where nothing is left to do.
        """
        good = Counter(key for item in accepted for key in item.request_keys)
        grown = {}
        for recipe, requests in asked.items():
            spec = self.specs[recipe]
            if not spec.target:
                continue
            keys_of: dict[str, list[str]] = {}
            for request in requests:
                keys_of.setdefault(request.origin["subject"], []).append(request.key)
            count = 0
            for subject, keys in keys_of.items():
                taken = self.samples.setdefault(recipe, {}).get(subject, spec.samples)
                refused = sum(key in declined for key in keys)
                lacking = sum(good[key] for key in keys) < spec.target
                if lacking and taken < spec.max_samples and 2 * refused < len(keys):
                    self.samples[recipe][subject] = min(taken + spec.samples, spec.max_samples)
                    count += 1
            if count:
                grown[recipe] = count
        return grown
