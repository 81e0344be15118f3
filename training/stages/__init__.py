"""The training stages: each takes a model directory and a dataset and leaves a model directory.

A stage is one file with one class; `training.train` knows them by name.
"""
