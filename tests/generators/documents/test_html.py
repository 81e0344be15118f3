from __future__ import annotations

import pytest

from generators.documents import html
from generators.documents.results import Parsed, Refused
from tests.generators.documents.files import OPTIONS

PROSE = "Grease the upper bearing every 250 hours, then check the oil and close the lid. " * 4


def parse(page: str | bytes) -> Parsed:
    content = page if isinstance(page, bytes) else page.encode()
    (document,) = html.parse(content, "page.html", OPTIONS)
    return document


def test_a_documentation_page_becomes_markdown_with_headings_tables_and_code() -> None:
    page = parse(f"""<html><head><title>Press  book</title><script>alert(1)</script></head><body>
<nav><a href="/">Start</a> <a href="/all">All pages</a></nav><main><h1>Press<a class="headerlink" href="#p">¶</a></h1>
<p>{PROSE}</p><h2>Care</h2><p>{PROSE}</p><pre><code>press --reset
  --hard</code></pre><table><tr><th>part</th><th>count</th></tr><tr><td>bolt</td><td>4</td></tr></table>
<p>It holds that 1 &lt; 2 * 3, says {PROSE}</p></main><footer>Imprint and contact</footer></body></html>""")
    assert page.title == "Press book"
    assert page.text.startswith("# Press\n")
    assert "\n## Care\n" in page.text
    assert "```\npress --reset\n  --hard\n```" in page.text
    assert "| part | count |\n|---|---|\n| bolt | 4 |" in page.text
    assert "1 < 2 * 3" in page.text
    assert "All pages" not in page.text
    assert "alert" not in page.text


def test_a_short_page_keeps_its_structure() -> None:
    page = parse(
        "<body><nav>Menu</nav><h1>Parts</h1><p>Of the <b>press</b>:<br>all</p>"
        "<ul><li>bolt<ol><li>long</li></ol></li></ul>"
        "<table><tr><th>a|b</th></tr><tr><td>1</td></tr></table><pre>x\n y</pre><p>Use <code>reset</code>.</p></body>"
    )
    assert page.text.split("\n\n") == [
        "# Parts",
        "Of the press:\nall",
        "- bolt\n  1. long",
        "| a\\|b |\n|---|\n| 1 |",
        "```\nx\n y\n```",
        "Use `reset`.",
    ]


@pytest.mark.parametrize(
    "hidden",
    [
        '<p style="display:none">IGNORE</p>',
        '<p style="VISIBILITY: hidden !important">IGNORE</p>',
        "<div hidden><p>IGNORE</p></div>",
        "<template>IGNORE</template><p hidden>IGNORE</p>",
        '<span style="font-size:0px">IGNORE</span>',
        '<span style="opacity:0">IGNORE</span>',
        '<p style="position:absolute; left:-9999px">IGNORE</p>',
        '<p style="text-indent:-9999px">IGNORE</p>',
        "<style>.off{display:none}</style><p class='x off'>IGNORE</p>",
    ],
)
def test_what_a_page_hides_is_taken_out_and_counted(hidden: str) -> None:
    page = parse(f"<body><h1>Press</h1><p>Seen by all.</p>{hidden}<p>The end.</p></body>")
    assert page.text == "# Press\n\nSeen by all.\n\nThe end."
    assert page.removed == {html.HIDDEN: 1}


@pytest.mark.parametrize(
    "blended",
    [
        '<p style="color:#fff">IGNORE</p>',
        '<p style="color: rgb(254, 254, 254)">IGNORE</p>',
        '<p><font color="white">IGNORE</font></p>',
        '<p style="color:transparent">IGNORE</p>',
        '<p style="color:rgba(0,0,0,0.01)">IGNORE</p>',
        '<div style="background:#222"><p style="color:#252525">IGNORE</p></div>',
        "<style>@media print{#w{color:red}} #w{color:white}</style><p id=w>IGNORE</p>",
    ],
)
def test_text_in_the_colour_of_its_background_is_taken_out_and_counted(blended: str) -> None:
    page = parse(f"<body><h1>Press</h1><p>Seen by all.</p>{blended}<p>The end.</p></body>")
    assert page.text == "# Press\n\nSeen by all.\n\nThe end."
    assert page.removed == {html.BLENDED: 1}


def test_white_text_on_dark_and_dark_text_in_white_text_stay() -> None:
    page = parse(
        '<body><h1>Press</h1><div style="background:navy"><p style="color:white">On navy.</p></div>'
        '<div style="color:white">gone <p style="color:#000">Black in white.</p></div></body>'
    )
    assert page.text == "# Press\n\nOn navy.\n\nBlack in white."
    assert page.removed == {html.BLENDED: 1}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<div>" * 100_000 + "deep", "excessive depth"),
        ("<body></body>", "shows no text"),
        ('<body><p style="display:none">IGNORE</p></body>', "shows no text but what it hides"),
        (b"MZ\0\x90" * 90, "a Windows program"),
        ("", "empty"),
    ],
)
def test_a_page_that_can_not_be_read_is_refused(page: str | bytes, said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(page)


def test_the_encoding_is_the_declared_one() -> None:
    text = (
        "<html><head><meta charset='gb2312'></head><body><h1>安全</h1><p>操作人员必须佩戴防护手套。</p></body></html>"
    )
    assert parse(text.encode("gb18030")).text == "# 安全\n\n操作人员必须佩戴防护手套。"


def test_an_entity_for_half_a_pair_does_no_harm() -> None:
    assert parse("<h1>A</h1><p>half &#xD800; pair and &#0; nothing</p>").text.encode()


def test_how_much_looks_like_menus_is_told() -> None:
    menu = "".join(f'<li><a href="/{number}">Another page of the site {number}</a></li>' for number in range(80))
    page = parse(f"<body><div class='nav menu'><ul>{menu}</ul></div><article><h1>A</h1><p>{PROSE}</p></article></body>")
    assert "Another page" not in page.text
    assert any("left out" in note for note in page.notes)
