"""Samples and completions in, scores and gate decisions out; starts nothing and calls nobody."""
