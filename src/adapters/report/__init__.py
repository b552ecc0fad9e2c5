"""A run as one HTML page that needs nothing else: no network, no library, any browser."""

from __future__ import annotations

from adapters.report.page import write_report

__all__ = ["write_report"]
