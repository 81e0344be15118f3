"""A process that promotes and rolls back without end, to be killed; run by the test of kills.

    python switcher.py HOME MODEL MODEL ...

Reads lines from standard input. For each one it forks a child that switches `production` to and fro until it is killed,
and prints the child's process id; the child prints `seq hash` of each move, once `promote` or `rollback` has returned.
Forked from a process that has imported everything, since a start takes longer than a hundred moves.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.errors import RegistryError
from data_catalog.records import Stage
from data_catalog.registry import Registry


def switch(home: str, models: list[str], seed: int) -> None:
    """Move `production` at random for ever."""
    rng = random.Random(seed)
    registry = Registry(Catalogue(Path(home)))
    while True:
        try:
            if rng.random() < 0.3:
                event = registry.rollback(Stage.PRODUCTION, actor="switcher")
            else:
                event = registry.promote(rng.choice(models), Stage.PRODUCTION, actor="switcher")
        except RegistryError as error:
            if "no earlier version" not in error.message:
                raise
            continue
        # One write, so that a kill leaves a whole line or none.
        os.write(1, f"moved {event.seq} {event.hash}\n".encode())


def main(home: str, *models: str) -> int:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            switch(home, list(models), int(line))
        os.write(1, f"child {child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
