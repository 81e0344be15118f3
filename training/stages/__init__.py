"""The training stages: each takes a model directory and a dataset and leaves a model directory.

A stage is one file with one class; `training.train` knows them by name.
"""

import os

# Read when `trl.experimental` is imported, where ORPO and CPO live: TRL is pinned, so what may change there can't here.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
