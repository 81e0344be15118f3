"""`reward@1`: a reward model that a `reward` stage of the project has trained thinks well enough of the answers.

A reward has no scale of its own: of two answers the better has the greater one (Bradley-Terry, arXiv 2203.02155,
section 3.5). So the usual cut is by rank, the best share of what each recipe made; a least reward is for who has looked
at some.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from data_catalog.records import Item, Kind, Message, Request, Reward, Sampling, Verdict
from generators.embeddings import Ask
from generators.filters.base import failed, origin_of, passed, unscored
from generators.specs import RewardFilterSpec

CHECK = "reward@1"


@dataclass(frozen=True)
class Rater:
    """The reward model: how it is asked, and its fingerprint."""

    ask: Ask
    model: str


def check(items: Sequence[Item], rater: Rater, spec: RewardFilterSpec) -> list[Verdict]:
    """Return a verdict for each conversation; the score is its reward. Texts are left out.

    With `keep`, of the items of one recipe and one side of the split so many of the highest rewards pass, rounded up;
    of equal rewards the earlier item's.

    Args:
        items: in a fixed order.
        rater: gives the rewards.
        spec: the cut.
    """
    items = [item for item in items if item.kind is Kind.MESSAGES]
    requests = {item.id: _request(item, rater.model) for item in items}
    answers = rater.ask(list(requests.values()))
    rewards = {id_: Reward.of(answers[one.key]).reward for id_, one in requests.items() if one.key in answers}
    least = _least(items, rewards, spec)
    return [_verdict(item, requests[item.id], rewards, least) for item in items]


def _request(item: Item, model: str) -> Request:
    return Request(
        model=model,
        messages=tuple(Message.model_validate(turn) for turn in item.payload["messages"]),
        sampling=Sampling(max_tokens=0),
        purpose=CHECK,
        origin=origin_of(item),
    )


def _least(items: Sequence[Item], rewards: Mapping[str, float], spec: RewardFilterSpec) -> dict[str, float]:
    """Return the least reward that passes, by item id; with `keep`, infinity for who is not among the best."""
    if spec.min_reward is not None:
        return dict.fromkeys(rewards, spec.min_reward)
    assert spec.keep is not None, "the specification has one of the two"
    groups: dict[Hashable, list[str]] = {}
    for item in items:
        if item.id in rewards:
            groups.setdefault((item.recipe, item.split), []).append(item.id)
    least: dict[str, float] = {}
    for ids in groups.values():
        ranked = sorted(ids, key=lambda id_: -rewards[id_])  # stable: of equals the earlier one
        kept = ranked[: math.ceil(spec.keep * len(ids))]
        least |= dict.fromkeys(ids, math.inf) | dict.fromkeys(kept, rewards[kept[-1]])
    return least


def _verdict(item: Item, request: Request, rewards: Mapping[str, float], least: Mapping[str, float]) -> Verdict:
    keys = (request.key,)
    if item.id not in rewards:
        return unscored(item, CHECK, "the reward model could not read it: too long, or no conversation", keys=keys)
    reward = rewards[item.id]
    if reward >= least[item.id]:
        return passed(item, CHECK, score=reward, keys=keys)
    bound = least[item.id]
    reason = "not among the best of its recipe" if math.isinf(bound) else f"below {bound:g}"
    return failed(item, CHECK, f"reward {reward:.3f}, {reason}", score=reward, keys=keys)
