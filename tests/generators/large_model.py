"""What a large model would answer to the recipes that a small teacher can't follow, by rules on sentences.

Questions quote what a sentence begins with and ask how it ends, so that judge and round trip can find the answer again
in the document alone, and find none where there is none.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping

from data_catalog.text import contains_words, fold_space, is_cjk, normalise_answer, words
from generators.sentences import sentences

Given = Mapping[str, str]

ABSTENTION = "The text does not say."
PADDING = "This is what one has to know of it before the work begins, and what one looks up when in doubt."
PADDING_ZH = "开工之前要知道这一点，拿不准的时候也要查这一点。"


def facts(text: str) -> list[str]:
    """Return the sentences of a text, each as one line."""
    return [found for span in sentences(text) if len(words(found := fold_space(span.of(text)))) > 3]


def cut(sentence: str) -> tuple[str, str]:
    """Return a sentence up to its last word (of a Chinese one, its last two characters), and that."""
    bare = sentence.rstrip(".。")
    if is_cjk(bare[-1]):
        ending = re.search(r"\d+.\Z|..\Z", bare)
        assert ending is not None
        return bare[: ending.start()], ending[0]
    stem, _, last = bare.rpartition(" ")
    return stem, last


def ask(heading: str, *stems: str) -> str:
    """Return a question for how sentences end."""
    return f"{heading}: what follows {' and '.join(f'“{stem}”' for stem in stems)}?"


def found_in(document: str, question: str) -> str:
    """Return how the sentences that a question quotes end in a document, or an abstention."""
    text, ends = fold_space(document), []
    for stem in re.findall("“([^”]*)”", question):
        rest = text.partition(stem)[2]
        if not rest.strip():
            return ABSTENTION
        ends.append((re.match(r"\d+.|..", rest) or rest)[0] if is_cjk(stem[-1]) else rest.split()[0].rstrip("."))
    return ", ".join(ends) or ABSTENTION


def judge(given: Given) -> str:
    """Judge as told: the short answer must be what the document has; the response to a task must keep to its words."""
    if "“" in given["question"]:
        said = given["answer"].rpartition("\n\n")[2]
        right = normalise_answer(found_in(given["chunk"], given["question"])) == normalise_answer(said)
    else:
        right = set(words(given["answer"])) <= set(words(f"{given['chunk']} {given['heading']} {given['question']}"))
    return json.dumps({"reason": "compared with the document", "verdict": "yes" if right else "no"})


def multi_hop(given: Given) -> str:
    first, second = facts(given["chunk"])[-1], facts(given["other_chunk"])[-1]
    (stem, last), (other_stem, other_last) = cut(first), cut(second)
    question = ask(given["link"], stem, other_stem)
    return _json(evidence=first, other_evidence=second, question=question, answer=f"{last}, {other_last}")


def multi_turn(given: Given) -> str:
    (stem, last), (other_stem, other_last) = cut(given["focus"]), cut(given["other_focus"])
    return _json(
        evidence=given["focus"],
        question=ask(given["heading"], stem),
        answer=last,
        follow_up_evidence=given["other_focus"],
        follow_up="And what comes after that?",
        follow_up_alone=ask(given["heading"], other_stem),
        follow_up_answer=other_last,
    )


def chain_of_thought(given: Given) -> str:
    stem, last = cut(given["focus"])
    reasoning = f"What is asked for is how it goes on. One has learnt that “{stem}” comes first, so its end decides."
    return _json(evidence=given["focus"], question=ask(given["heading"], stem), reasoning=reasoning, answer=last)


def personas(given: Given) -> str:
    sentence = facts(given["chunk"])[len(given["persona"]) % len(facts(given["chunk"]))]
    stem, last = cut(sentence)
    question = f"As one who must know, {ask(given['heading'], stem)}"
    return _json(evidence=sentence, question=question, answer=last)


def instructions(given: Given) -> str:
    first = facts(given["chunk"])[0]
    task = given["template"].split("/")[1].partition(".")[0]
    instruction, response = {
        "summarise": ("Summarise this passage in one sentence of at most 40 words.", first),
        "extract": (
            "List what the passage says first, as JSON with the key fact.",
            json.dumps({"fact": first}, ensure_ascii=False),
        ),
        "classify": ("Is this Origin, Maintenance or 安全? Answer by the label.", "Maintenance"),
    }[task]
    return _json(instruction=instruction, response=response)


def rewrites(given: Given) -> str:
    name, told = given["heading"], facts(given["chunk"])
    form = given["template"].split("/")[1].partition(".")[0]
    rows = "\n".join(f"| {number} | {fact} |" for number, fact in zip("abcdef", told, strict=False))
    steps = "\n".join(f"{number}. {fact}" for number, fact in enumerate(told, start=1))
    answers = "\n\n".join(f"**Question:** What is known here?\n**Answer:** {fact}" for fact in told)
    return {
        "table": f"What is known of {name}. {PADDING}\n\n| Fact | Statement |\n| --- | --- |\n{rows}",
        "faq": f"## Frequently Asked Questions\n\n{answers}\n\n{PADDING}",
        "tutorial": f"# Getting Started\n\n{PADDING}\n\n{steps}",
        "problem": f"**Problem:** Somebody asks what holds. {PADDING}\n\n**Solution:** {' '.join(told)}",
    }[form]


def entities(given: Given) -> str:
    spoken = re.findall(
        r"[A-Z][a-z]+(?: [A-Z][a-z]+| \d+)*|操作人员|防护手套|温度|upper bearing|oil filter", given["chunk"]
    )
    return json.dumps({"entities": [*dict.fromkeys(spoken), "the far side of the Moon"]}, ensure_ascii=False)


def relation(given: Given) -> str:
    named = " ".join(given["entities"].split("; "))
    padding = PADDING_ZH if is_cjk(named[-1]) else PADDING
    told = [fact for fact in facts(given["chunk"]) if any(one in fact for one in given["entities"].split("; "))]
    return f"{named}: {' '.join(told)} {padding}"


def strategies(given: Given) -> str:
    return json.dumps({"strategies": ["Tell it as a story.", "Ask yourself and answer."]})


def active_reading(given: Given) -> str:
    return f"{given['strategy']} {PADDING}\n\n" + "\n".join(f"- {fact}" for fact in facts(given["chunk"]))


def readers(given: Given) -> str:
    return json.dumps({"personas": ["An apprentice.", "A buyer who compares."]})


def new_task(given: Given) -> str:
    """Write a task that no seed is like, another one for each prompt."""
    topic = given["tasks"].splitlines()[0].split()[-1].strip(".。")[-6:]
    return _json(instruction=f"Spell {topic} backwards and say it {len(topic)} times.", response=f"{topic[::-1]}, then")


def evolve(given: Given) -> str:
    operator = given["template"].split("/")[1].partition(".")[0]
    return _json(instruction=f"{given['task']} Mind the {operator} of it.")


def go_on(given: Given) -> str:
    """Write the user's turn that an opening begins, another one each time."""
    return f"What is the use of {next(_USES)} in a {'工厂' if '工程师' in given['text'] else 'workshop'}?"


_USES = itertools.cycle(
    f"{kind} {thing}" for kind in ("a worn", "an old") for thing in ("bearing", "hook", "pump", "vice")
)


def answer_user(given: Given) -> str:
    return f"One keeps it to learn from: {' '.join(reversed(given['task'].rstrip('?').split()))}."


def do_task(given: Given) -> str:
    return f"Done with care: {' '.join(reversed(given['task'].split()))}"


def aspect_ratings(given: Given) -> str:
    """Rate by the reference: what agrees with it gets all points, what has its words and more loses one for that."""
    said, wanted = words(given["answer"]), words(given["reference"])
    right = contains_words(said, wanted)
    points = {
        "instruction_following": "5" if said == wanted else "3",
        "truthfulness": "5" if right else "1",
        "honesty": "5" if right else "2",
        "helpfulness": "5" if right else "1",
    }
    return _json(**{key: text for aspect, given in points.items() for key, text in _with_reason(aspect, given)})


def _with_reason(aspect: str, points: str) -> list[tuple[str, str]]:
    return [(f"{aspect}_reason", "Compared with the reference."), (aspect, points)]


def _json(**texts: str) -> str:
    return json.dumps(texts, ensure_ascii=False)


LARGE_MODEL: Mapping[str, Callable[[Given], str]] = {
    "answer": lambda given: found_in(given["chunk"], given["question"]),
    "judge": judge,
    "multi_hop": multi_hop,
    "multi_turn": multi_turn,
    "chain_of_thought": chain_of_thought,
    "instructions": instructions,
    "rewrites": rewrites,
    "entigraph_plan": entities,
    "entigraph": relation,
    "active_reading_plan": strategies,
    "active_reading": active_reading,
    "personas_plan": readers,
    "personas": personas,
    "self_instruct": new_task,
    "evol_instruct_plan": evolve,
    "evol_instruct": do_task,
    "text": go_on,
    "magpie": answer_user,
    "aspect_ratings": aspect_ratings,
}
