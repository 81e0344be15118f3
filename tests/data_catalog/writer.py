"""A process that writes completions to a catalogue and says which are durable; run by the tests of concurrency.

    python writer.py HOME NAME BATCHES SIZE [FILE_SIZE_LIMIT]

Prints the request keys of each batch, in one line, once `add_completions` has returned.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.errors import TutelageError
from tests.data_catalog.small_world import completion, request


def main(home: str, name: str, batches: str, size: str, file_size_limit: str = "") -> int:
    catalogue = Catalogue(Path(home))
    print("ready", flush=True)
    if file_size_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(file_size_limit), int(file_size_limit)))
    for batch in range(int(batches)):
        asked = [request(f"{name} {batch} {number}") for number in range(int(size))]
        try:
            catalogue.add_completions(asked, [completion(one, one.key * 4) for one in asked])
        except TutelageError as error:
            print(type(error).__name__, error, file=sys.stderr)
            return error.exit_code
        print(" ".join(one.key for one in asked), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
