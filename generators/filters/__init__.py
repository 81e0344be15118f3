"""Filters: checks on items, each a file of its own; `curate` runs them all."""

from __future__ import annotations

from generators.filters.pipeline import CurateReport, FunnelRow, curate, demand_minimum

__all__ = ["CurateReport", "FunnelRow", "curate", "demand_minimum"]
