"""Pairs of chunks for questions that need both: what links them, what does not, and how many there are."""

from __future__ import annotations

from collections import Counter

from data_catalog.records import Document, Split
from generators.chunks import chunk_document
from generators.linking import MAX_CHUNKS, PARTNERS, linked_chunks
from tests.generators.helpers import count_words, cut, handbook


def about(title: str, text: str) -> Document:
    return handbook(f"# {title}\n\n{text}\n", path=f"{title}.md")


def test_a_name_inside_sentences_links_and_words_that_only_open_them_do_not() -> None:
    documents = [
        about("Press", "The frame was cast by Mira Kessel. Grease it."),
        about("Slicer", "It was drawn by Mira Kessel in ink. Clean it."),
        about("Oven", "Grease it well. Clean it well. It is hot."),
    ]
    chunks = [chunk for one in documents for chunk in cut(one)]
    (link,) = linked_chunks(chunks)
    assert [link.first.heading, link.second.heading] == ["Press", "Slicer"]
    assert link.names == ("Kessel", "Mira")
    assert linked_chunks(chunks) == [link]


def test_the_title_of_a_document_links_where_it_is_spoken_of_in_chinese_too() -> None:
    documents = [about("维特拉诺40", "上轴承每250小时加一次油。"), about("索尔默7", "它与维特拉诺40使用同一种润滑脂。")]
    (link,) = linked_chunks([chunk for one in documents for chunk in cut(one)])
    assert link.names == ("维特拉诺40",)


def test_pairs_of_different_documents_come_first_and_no_chunk_is_in_more_than_its_share() -> None:
    documents = [about(f"Press {number}", f"The Press {number} is kept by Ilsa Marn.") for number in range(9)]
    links = linked_chunks([chunk for one in documents for chunk in cut(one)])
    taken = Counter(chunk.id for link in links for chunk in (link.first, link.second))
    assert len(links) >= 8
    assert max(taken.values()) == PARTNERS
    one = cut(handbook())
    across = linked_chunks([*one, *cut(about("Mixer", "The Veltrano 40 feeds it."))])
    assert sum(link.second.heading == "Mixer" for link in across) == PARTNERS, "before any pair of one document"


def test_what_is_everywhere_links_nothing() -> None:
    documents = [about(f"P{number}", "It is kept by Ilsa at night.") for number in range(MAX_CHUNKS + 1)]
    assert linked_chunks([chunk for one in documents for chunk in cut(one)]) == []
    assert linked_chunks([chunk for one in documents[:3] for chunk in cut(one)]) != []


def test_neither_the_split_nor_an_overlap_is_crossed() -> None:
    document = about("Press", " ".join(f"The Press has part {number} by Mira Kessel." for number in range(12)))
    overlapping = chunk_document(document, max_tokens=24, count_tokens=count_words, evaluation_share=0.0, overlap=9)
    pairs = [(link.first, link.second) for link in linked_chunks(overlapping)]
    assert pairs
    assert all(first.end <= second.start for first, second in pairs)
    press, slicer = (cut(one, 200)[0] for one in (document, about("Slicer", "It is like the Press by Mira Kessel.")))
    assert len(linked_chunks([press, slicer])) == 1
    assert linked_chunks([press, slicer.model_copy(update={"split": Split.EVALUATION})]) == []
