from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from data_catalog.records import Chunk, Document, Split
from generators.chunks import chunk_document, longest_prefix, prose_sentences
from generators.markdown import PLAIN_TEXT, BlockKind, blocks
from tests.generators.helpers import HANDBOOK, count_words, cut, handbook


def test_chunks_follow_headings_and_keep_their_path() -> None:
    chunks = cut(handbook())
    assert [chunk.heading for chunk in chunks] == ["Veltrano 40", "Veltrano 40 > Maintenance", "Veltrano 40 > 安全"]
    assert chunks[0].text.startswith("The Veltrano 40 is a dough press")
    assert "press --reset" in chunks[1].text
    assert chunks[2].text == "操作人员必须佩戴防护手套。温度不得超过80度。"


def test_a_sibling_closes_the_headings_below_it() -> None:
    text = "# A\n\na\n\n## B\n\nb\n\n#### C\n\nc\n\n## D\n\nd\n\nE\n===\n\ne\n"
    paths = [chunk.heading_path for chunk in cut(handbook(text))]
    assert paths == [("A",), ("A", "B"), ("A", "B", "C"), ("A", "D"), ("E",)]


def test_the_title_in_the_front_matter_anchors_every_chunk_and_is_no_body() -> None:
    chunks = cut(handbook("---\ntitle: Press book\n---\n\nfirst\n\n## Care\n\nsecond\n"))
    assert [(chunk.heading_path, chunk.text) for chunk in chunks] == [
        (("Press book",), "first"),
        (("Press book", "Care"), "second"),
    ]


def test_what_looks_like_a_heading_inside_a_fence_is_code() -> None:
    text = "# A\n\n````\n# not a heading\n```\nstill code\n````\n\nafter\n"
    (chunk,) = cut(handbook(text))
    assert chunk.heading_path == ("A",)
    assert [block.kind for block in blocks(text)] == [BlockKind.HEADING, BlockKind.CODE, BlockKind.PARAGRAPH]


def test_code_and_tables_stay_whole_where_they_fit() -> None:
    table = "| part | count |\n|---|---|\n| bolt | 4 |\n| nut | 8 |"
    code = "```\n" + "\n".join(f"line {number}" for number in range(6)) + "\n```"
    text = f"{'word ' * 20}.\n\n{table}\n\n{code}\n"
    chunks = cut(handbook(text), max_tokens=24)
    assert [chunk.text for chunk in chunks][1:] == [table, code]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = " ".join(f"Sentence number {number} has exactly seven words." for number in range(10))
    chunks = cut(handbook(text), max_tokens=16)
    assert len(chunks) == 5
    assert all(chunk.text.endswith("words.") for chunk in chunks)


def test_a_text_without_a_single_boundary_is_cut_by_force() -> None:
    chunks = chunk_document(
        handbook("x" * 1000), max_tokens=64, count_tokens=lambda text: len(text), evaluation_share=0
    )
    assert [len(chunk.text) for chunk in chunks] == [64] * 15 + [40]


def test_the_longest_prefix_is_found_without_counting_everything() -> None:
    counted = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text)

    assert longest_prefix("x" * 1_000_000, 100, count) == 100
    assert max(counted) < 1000


def test_plain_text_has_no_markup() -> None:
    document = Document.of(path="a.txt", title="a", text="# one\n\n- two\n", media_type=PLAIN_TEXT)
    (chunk,) = chunk_document(document, max_tokens=64, count_tokens=count_words, evaluation_share=0)
    assert chunk.text == "# one\n\n- two"
    assert chunk.heading_path == ()


def test_sentences_of_prose_leave_out_headings_code_tables_and_list_markers() -> None:
    prose, code = "1. Turn the wheel.\n2. Wait.", "```\ncode. here.\n```"
    table = "| a. | b. |\n|---|---|\n| c. | d. |"
    text = f"# Head\n\n{prose}\n\n{code}\n\n{table}\n"
    document = handbook(text)
    assert [span.of(text) for span in prose_sentences(document)] == ["Turn the wheel.", "Wait."]


def test_the_split_stays_with_the_text_whatever_stands_around_it() -> None:
    sections = [f"# Machine {number}\n\nText of machine {number}.\n" for number in range(400)]
    document, other = handbook("\n".join(sections)), handbook("# New\n\nfirst\n\n" + "\n".join(reversed(sections)))
    before = {chunk.text: chunk.split for chunk in cut(document, evaluation_share=0.2)}
    after = {chunk.text: chunk.split for chunk in cut(other, evaluation_share=0.2)}
    assert before.items() <= after.items()
    share = list(before.values()).count(Split.EVALUATION) / len(before)
    assert 0.12 < share < 0.28  # four standard deviations of a binomial with n = 400
    assert all(chunk.split is Split.TRAIN for chunk in cut(document, evaluation_share=0))


def test_a_hostile_line_takes_no_quadratic_time() -> None:
    spaces = " " * 200_000
    hostile = f"# {spaces}x\n\n|a\n|-{spaces}x\n\n{'.' * 200_000}x\n\n{'- ' * 100_000}x\n"
    assert cut(handbook(hostile))


MARKDOWN_LINES = st.sampled_from(
    [
        "# Heading", "## ", "Title\n=====", "Under\n---", "---", "***", "```", "~~~~", "```py\ncode. # x\n```",
        "| a | b |\n|---|:-:|\n| 1 | 2 |", "- item one. And two.", "1. first", "", "", "  indented text", "\t",
        "Dr. Smith paid 3.5 EUR. Then he left!", "泵的重量是5公斤。它很重！", "> quoted", "word " * 30, "a|b",
        "\x0cfeed",
    ]
)  # fmt: skip


@given(st.lists(MARKDOWN_LINES, max_size=25).map("\n".join), st.integers(min_value=1, max_value=40))
def test_markdown_chunks_are_exact_in_order_within_limits_and_lose_no_body(text: str, max_tokens: int) -> None:
    document = handbook(text)
    chunks = cut(document, max_tokens=max_tokens)
    covered: set[int] = set()
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert count_words(chunk.text) <= max_tokens
        span = set(range(chunk.start, chunk.end))
        assert not span & covered
        covered |= span
    body = {
        position
        for block in blocks(text)
        if block.kind in (BlockKind.PARAGRAPH, BlockKind.CODE, BlockKind.TABLE)
        for position in range(block.start, block.end)
        if not text[position].isspace()
    }
    assert body <= covered
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)


@given(st.lists(MARKDOWN_LINES, max_size=25).map("\n".join))
def test_every_character_of_a_text_is_in_exactly_one_block(text: str) -> None:
    positions = [position for block in blocks(text) for position in range(block.start, block.end)]
    assert len(positions) == len(set(positions))
    outside = set(range(len(text))) - set(positions)
    assert all(text[position].isspace() for position in outside)


@given(st.text(max_size=400), st.integers(min_value=1, max_value=30))
def test_plain_text_chunks_cover_everything_that_is_not_blank(text: str, max_tokens: int) -> None:
    document = Document.of(path="a.txt", title="a", text=text, media_type=PLAIN_TEXT)
    chunks = chunk_document(document, max_tokens=max_tokens, count_tokens=len, evaluation_share=0.5)
    covered = {position for chunk in chunks for position in range(chunk.start, chunk.end)}
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert all(text[position].isspace() for position in set(range(len(text))) - covered)
    assert all(len(chunk.text) <= max_tokens for chunk in chunks)


def with_overlap(text: str, max_tokens: int, overlap: int, evaluation_share: float = 0.0) -> list[Chunk]:
    return chunk_document(
        handbook(text),
        max_tokens=max_tokens,
        overlap=overlap,
        count_tokens=count_words,
        evaluation_share=evaluation_share,
    )


def test_overlap_repeats_whole_sentences_within_its_limit() -> None:
    text = " ".join(f"Sentence {number} has five words." for number in range(9))
    chunks = with_overlap(text, 16, 6)
    assert [chunk.text.count("Sentence") for chunk in chunks] == [2, 3, 3, 3, 2]
    for before, after in itertools.pairwise(chunks):
        repeated = text[after.start : before.end]
        assert repeated.startswith("Sentence ")
        assert repeated.endswith("words.")
        assert count_words(repeated) <= 6


def test_overlap_in_chinese_repeats_whole_sentences() -> None:
    text = "".join(f"第{number}条要求操作人员佩戴手套。" for number in "一二三四五六七八")
    chunks = with_overlap(text, 48, 16)
    assert len(chunks) > 2
    assert all(chunk.text.startswith("第") and chunk.text.endswith("。") for chunk in chunks)
    assert all(after.start < before.end for before, after in itertools.pairwise(chunks))


def test_overlap_takes_a_table_whole_or_not_at_all_and_stays_under_its_heading() -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    text = f"# A\n\n{'one ' * 20}.\n\n{table}\n\n{'two ' * 20}.\n\n# B\n\n{'three ' * 20}.\n"
    small = with_overlap(text, 40, 5)
    large = with_overlap(text, 44, 16)
    assert [chunk.text.partition(" ")[0] for chunk in small] == ["one", "two", "three"]
    assert [chunk.text.partition(" ")[0] for chunk in large] == ["one", "|", "|", "three"]


def test_overlap_never_crosses_the_evaluation_split() -> None:
    text = " ".join(f"Sentence {number} has five words." for number in range(600))
    chunks = with_overlap(text, 10, 5, evaluation_share=0.5)
    for before, after in itertools.pairwise(chunks):
        assert (before.split is after.split) == (after.start < before.end)
    assert {chunk.split for chunk in chunks} == set(Split)


@given(
    st.lists(MARKDOWN_LINES, max_size=25).map("\n".join),
    st.integers(min_value=2, max_value=40),
    st.data(),
)
def test_chunks_with_overlap_are_exact_within_limits_and_lose_no_body(
    text: str, max_tokens: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(min_value=1, max_value=max_tokens // 2))
    chunks = with_overlap(text, max_tokens, overlap, evaluation_share=0.3)
    plain = cut(handbook(text), max_tokens=max_tokens - overlap, evaluation_share=0.3)
    assert [(chunk.end, chunk.split) for chunk in chunks] == [(chunk.end, chunk.split) for chunk in plain]
    for chunk, base in zip(chunks, plain, strict=True):
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.start <= base.start
        assert count_words(chunk.text) <= max_tokens
        assert count_words(text[chunk.start : base.start]) <= overlap


def test_the_ids_of_a_text_never_change() -> None:
    # Dataset versions and the cache of requests stand on them. Where this fails, users' data are made anew.
    document = handbook()
    chunks = cut(document)
    assert document.id == "doc-3c65e83d451ef81ea59548147b476774"
    assert [chunk.id for chunk in chunks] == [
        "chunk-231f228f0927313b66b35f74468d9227",
        "chunk-03ba3d9a03c927915ab7a0faef4a6aa3",
        "chunk-34236cc17e6128d58deb11de8cba7558",
    ]


def test_chunking_depends_on_the_text_alone() -> None:
    assert cut(handbook()) == cut(handbook(path="elsewhere.md"))
    assert HANDBOOK.count("\n") == handbook().text.count("\n")
