"""What counts as personal data or a secret, what only looks like it, and what is withheld of a document."""

from __future__ import annotations

import time

import pytest

from data_catalog.records import Document
from generators.chunks import cut
from generators.recipes.unanswerable import opening
from generators.sensitive import Sensitive, find_sensitive
from generators.specs import DocumentsSpec
from generators.withholding import withhold

ALL = tuple(Sensitive)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jo.doe+x@firm.co.uk.", Sensitive.EMAIL),
        ("account DE89 3704 0044 0532 0130 00", Sensitive.IBAN),
        ("GB82WEST12345698765432", Sensitive.IBAN),
        ("card 4111 1111 1111 1111, please", Sensitive.PAYMENT_CARD),
        ("3782-822463-10005", Sensitive.PAYMENT_CARD),
        ("身份证号11010519491231002X。", Sensitive.CHINESE_ID),
        ("call +49 (30) 901820", Sensitive.PHONE),
        ("手机 13800138000", Sensitive.PHONE),
        ("server at 8.8.8.8", Sensitive.IP_ADDRESS),
        ("-----BEGIN RSA PRIVATE KEY-----", Sensitive.PRIVATE_KEY),
        ("key=AKIA" + "ABCD" * 4, Sensitive.API_KEY),
        ("ghp_" + "a1" * 18, Sensitive.API_KEY),
        ("sk-" + "a1" * 24, Sensitive.API_KEY),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4", Sensitive.JWT),
        ("postgres://admin:secret@localhost/x", Sensitive.URL_PASSWORD),
    ],
)
def test_what_is_sensitive_is_found_under_its_kind_alone(text: str, kind: Sensitive) -> None:
    assert find_sensitive(text, ALL) == [kind]
    assert find_sensitive(text, [other for other in ALL if other is not kind]) == []


@pytest.mark.parametrize(
    "text",
    [
        "mail to me@example.com",
        "DE89 3704 0044 0532 0130 01",  # check digits
        "4111 1111 1111 1112",
        "serial 1234567890123",  # no card network
        "110105194912310021",
        "11010519491331002X",  # a thirteenth month
        "torque 579 newton metres at 1,200 to 1,350 turns",
        "version 1.2.3.4.5 and 10.0.0.1 and 192.168.1.1",
        "the sk-learn library",
        "https://firm.org:8080/path@2",
        "an order of 13800138000123 pieces",
    ],
)
def test_what_only_looks_like_it_is_not_found(text: str) -> None:
    assert find_sensitive(text, ALL) == []


@pytest.mark.parametrize(
    "text",
    ["1 " * 100_000, "4" * 200_000, "a." * 100_000 + "@", "+1" + " " * 100_000, "AB12" + " ABCD" * 50_000],
    ids=["pairs", "digits", "dots", "spaces", "groups"],
)
def test_a_long_text_takes_no_quadratic_time(text: str) -> None:
    started = time.process_time()
    find_sensitive(text, ALL)
    find_sensitive(text * 2, ALL)
    assert time.process_time() - started < 20, "quadratic patterns take minutes"


def test_a_chunk_with_a_secret_is_withheld_and_the_offsets_of_the_others_hold() -> None:
    text = "# Press\n\nIt weighs 312 kg.\n\n## Service\n\nWrite to jo@firm.org.\n\n## Oil\n\nIt takes Zonlube.\n"
    document, clean = Document.of(path="a.md", title="Press", text=text), Document.of(path="b.md", title="B", text="B.")
    spec = DocumentsSpec.model_validate({"paths": ["."]})
    chunks = [chunk for one in (document, clean) for chunk in cut(one, spec, lambda piece: len(piece.split()))]
    seen = withhold([document, clean], chunks, ALL)
    assert (seen.withheld, seen.kinds) == (1, {Sensitive.EMAIL: 1})
    assert len(seen.chunks) == len(chunks) - 1
    blanked = seen.documents[0]
    assert "jo@firm.org" not in blanked.text
    assert [blanked.text[chunk.start : chunk.end] for chunk in seen.chunks if chunk.document_id == document.id] == [
        chunk.text for chunk in seen.chunks if chunk.document_id == document.id
    ]
    assert seen.documents[1] is clean
    shown = opening(blanked.text, [chunk for chunk in seen.chunks if chunk.document_id == document.id], 1000, len)
    assert "jo@firm" not in shown
    assert "## Service\n\n## Oil" in shown
    assert withhold([document, clean], chunks, ()).chunks == tuple(chunks)
