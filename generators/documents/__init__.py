"""Reading documents: each file is either read whole or refused with a reason, and never stops the others.

Markdown and plain text in UTF-8 are read here and now. Everything else is parsed by libraries that a hostile file may
break, so it goes to a process of its own (`generators.documents.worker`, started by whoever calls `read_documents`),
which gives every file its own limits of time and memory.

    results.py    what comes out of reading: documents, refusals, remarks
    files.py      which files there are, and their bytes
    reading.py    the order of work: here, apart, and which text was read before
    formats.py    which parser reads which file
    plain.py, html.py (with concealment.py), pdf.py, docx.py, tables.py, parquet.py, archive.py      one format each
    hidden.py     text that a reader does not see
    worker.py     the process of its own
"""

from generators.documents.reading import ParseApart, read_documents
from generators.documents.results import Answer, Job, Options, ReadResult, Refusal, Remark

__all__ = ["Answer", "Job", "Options", "ParseApart", "ReadResult", "Refusal", "Remark", "read_documents"]
