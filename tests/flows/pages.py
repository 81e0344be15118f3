"""A page taken apart, and what must hold for every page: it needs nothing else, and runs nothing."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})


class Page(HTMLParser):
    """A page taken apart; refuses tags that don't close in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} repeats an attribute"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> out of order, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.text += f" {data}"

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def plain(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())


def assert_self_contained(html: str) -> None:
    """Nothing on the page is executed, and nothing is fetched for it."""
    page = Page(html)
    assert not page.tags.keys() & {"script", "img", "iframe", "object", "embed", "form", "base", "audio", "video"}
    assert not page.values("src")
    assert page.tags["link"] == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "default-src 'none'" in "".join(page.values("content"))


def assert_links_work(html: str) -> None:
    """Ids are unique, and every link leads to a place on the page or to a file beside it."""
    page = Page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [value for value in page.values("href") if value.startswith("#")]
    assert [target for target in targets if target[1:] not in ids] == []
    assert not [value for value in page.values("href") if re.match(r"(?!data:,$)[a-z]+:", value)]
