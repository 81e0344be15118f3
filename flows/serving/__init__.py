"""Serving a stage: an OpenAI-compatible endpoint over whatever model version the stage points to."""
