"""A run, or the output of an extraction, as one HTML page that needs no network and no other file."""

from adapters.report.page import write_report
from adapters.report.view import write_view

__all__ = ["write_report", "write_view"]
