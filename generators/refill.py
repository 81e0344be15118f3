"""Asking again where too little was accepted: a target for every subject instead of the same number of tries for all.

A subject is what a prompt is about: a sentence, or a document. In each round those with fewer accepted items than
`RecipeSpec.target` get `RecipeSpec.samples` more per template, up to `max_samples`. That depends on what was answered
and accepted alone, so an interrupted job comes to the same requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from data_catalog.records import Item, Request
from generators.specs import RecipeSpec


class Supply:
    """Which samples of each subject a round asks for; recipes by their place in the configuration."""

    def __init__(self, specs: Sequence[RecipeSpec]) -> None:
        self._specs = specs
        self._taken: dict[tuple[int, str], int] = {}
        """Samples so far of the subjects that were asked about again."""
        self._grown: dict[tuple[int, str], range] | None = None
        """What the present round asks for; None in the first one, which asks about everything."""

    def wanted(self, place: int, subject: str) -> range:
        """Return the indices of the samples that the present round asks for."""
        if self._grown is None:
            return range(self._specs[place].samples)
        return self._grown.get((place, subject), range(0))

    def grow(
        self, asked: Mapping[int, Iterable[Request]], accepted: Iterable[Item], declined: Collection[str]
    ) -> Mapping[int, int]:
        """Begin the next round: give subjects that lack accepted items more samples.

        Args:
            asked: the requests of every recipe, of all rounds so far.
            accepted: what passed the checks.
            declined: keys of requests to which the teacher said that there is nothing to ask about. Where that is half
                of the answers or more, the subject is left alone.

        Returns:
            recipe to how many subjects are asked again; empty where nothing is left to do.
        """
        good = Counter(key for item in accepted for key in item.request_keys)
        self._grown = {}
        for place, requests in asked.items():
            spec = self._specs[place]
            keys_of: dict[str, list[str]] = {}
            for request in requests if spec.target else ():
                keys_of.setdefault(request.origin["subject"], []).append(request.key)
            for subject, keys in keys_of.items():
                taken = self._taken.get((place, subject), spec.samples)
                refused = sum(key in declined for key in keys)
                lacking = sum(good[key] for key in keys) < spec.target
                if lacking and taken < spec.max_samples and 2 * refused < len(keys):
                    more = min(taken + spec.samples, spec.max_samples)
                    self._grown[place, subject] = range(taken, more)
                    self._taken[place, subject] = more
        return Counter(place for place, _ in self._grown)

    def took(self, place: int, subject: str, sample: int) -> None:
        """Take note of a sample that is asked beside the rounds, so that later ones begin behind it."""
        taken = self._taken.get((place, subject), self._specs[place].samples)
        self._taken[place, subject] = max(taken, sample + 1)

    def demand(self, asked: Mapping[int, Iterable[Request]], failed: Callable[[Request], bool]) -> Mapping[int, int]:
        """Begin a round for what a model failed: `samples` more for every subject of which a request is `failed`.

        Whatever the subject has accepted already, and beyond `max_samples`: it was not enough. A recipe that asks
        greedily (temperature 0) would be told the same again, so it is left out.

        Args:
            asked: the requests of every recipe, of all rounds so far.
            failed: whether a request is about what the model failed.

        Returns:
            recipe to how many subjects are asked again; empty where nothing can be asked.
        """
        self._grown = {}
        for place, requests in asked.items():
            spec = self._specs[place]
            chosen = [one.origin["subject"] for one in requests if spec.temperature > 0 and failed(one)]
            for subject in dict.fromkeys(chosen):
                taken = self._taken.get((place, subject), spec.samples)
                self._grown[place, subject] = range(taken, taken + spec.samples)
                self._taken[place, subject] = taken + spec.samples
        return Counter(place for place, _ in self._grown)
