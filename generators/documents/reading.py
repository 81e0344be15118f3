"""The order of work: what can be read here is, the rest is parsed apart, and every text is taken once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_catalog.errors import DocumentError
from data_catalog.records import Document
from generators.documents import plain
from generators.documents.files import bytes_of, candidates, printable
from generators.documents.formats import TEXT, format_of, is_zip
from generators.documents.hidden import one_line
from generators.documents.results import Answer, Job, Options, Parsed, ReadResult, Refusal, Refused, Remark
from generators.specs import DocumentsSpec

ParseApart = Callable[[Sequence[Job], Options], Iterator[Answer]]
"""Parses files in a process of its own: at least one answer for every job, the last of each marked."""


def read_documents(spec: DocumentsSpec, parse_apart: ParseApart) -> ReadResult:
    """Read every document that `spec` names; `parse_apart` is called only where a file needs it.

    Raises:
        DocumentError: a configured path does not exist, or not one usable document was found.
    """
    found = candidates(spec)
    options = Options.of(spec)
    names = [printable(path) for path, _ in found.files]
    answers: list[list[Answer]] = []
    jobs: dict[int, Job] = {}
    for position, (path, folder) in enumerate(found.files):
        here = _read_here(path, folder, options)
        answers.append([here] if here is not None else [])
        if here is None:
            jobs[position] = Job(str(path), str(folder) if folder else None, names[position])
    if jobs:
        positions = list(jobs)
        for answer in parse_apart(list(jobs.values()), options):
            answers[positions[answer.job]].append(answer)
    shelf = _Shelf()
    for name, of_file in zip(names, answers, strict=True):
        shelf.put(name, of_file)
    if not shelf.documents:
        raise _nothing_usable(spec, shelf.refusals)
    return ReadResult(tuple(shelf.documents), tuple(shelf.refusals), tuple(shelf.remarks), dict(found.not_included))


def _read_here(path: Path, folder: Path | None, options: Options) -> Answer | None:
    """Read a text in UTF-8; None where the file is of another kind."""
    if format_of(path.name) is not TEXT or is_zip(path.name):
        return None
    try:
        content = bytes_of(path, folder, options.max_bytes)
        return Answer(0, documents=tuple(plain.parse(content, path.name, options, guess=False)))
    except plain.NeedsGuessing:
        return None
    except Refused as refused:
        return Answer(0, refusals=(Refusal("", str(refused)),))


class _Shelf:
    """The documents as they come in; a text that is there already is refused."""

    def __init__(self) -> None:
        self.documents: list[Document] = []
        self.refusals: list[Refusal] = []
        self.remarks: list[Remark] = []
        self._first_with: dict[str, str] = {}

    def put(self, name: str, answers: Sequence[Answer]) -> None:
        """Take what became of one file."""
        repeated: Counter[str] = Counter()
        for answer in answers:
            self.refusals += [Refusal(name + refusal.path, refusal.reason) for refusal in answer.refusals]
            for parsed in answer.documents:
                self._take(name, parsed, repeated)
        if repeated:
            count, first = repeated.total(), next(iter(repeated))
            rows = f"{count:,} rows repeat a text" if count > 1 else "1 row repeats a text"
            self.refusals.append(Refusal(name, f"{rows} that was read before, such as that of {first}"))

    def _take(self, name: str, parsed: Parsed, repeated: Counter[str]) -> None:
        path = name + parsed.part
        title = one_line(parsed.title) or Path(path if parsed.part.startswith("!") else name).stem
        document = Document.of(path=path, title=title, text=parsed.text, media_type=parsed.media_type)
        first = self._first_with.setdefault(document.id, path)
        if first != path:
            # One line for the rows of a table: there may be a million of them.
            if "#" in parsed.part:
                repeated[first] += 1
            else:
                self.refusals.append(Refusal(path, f"same text as {first}"))
            return
        self.documents.append(document)
        if parsed.removed or parsed.notes:
            self.remarks.append(Remark(path, dict(parsed.removed), parsed.notes))


def _nothing_usable(spec: DocumentsSpec, refusals: Sequence[Refusal]) -> DocumentError:
    where = ", ".join(printable(path) for path in spec.paths)
    shown = "".join(f"\n  {refusal.path}: {refusal.reason}" for refusal in refusals[:10])
    more = f"\n  and {len(refusals) - 10:,} more" if len(refusals) > 10 else ""
    return DocumentError(
        f"no usable document in {where}{shown}{more}",
        valid=f"files named {', '.join(spec.include)} with text in them",
        next_step="put documents there, or change documents.paths or documents.include",
    )
