"""Filters: checks on items, each a file of its own; `Curator` runs them all."""

from __future__ import annotations

from generators.filters.pipeline import CurateReport, Curator, FunnelRow, demand_minimum

__all__ = ["CurateReport", "Curator", "FunnelRow", "demand_minimum"]
