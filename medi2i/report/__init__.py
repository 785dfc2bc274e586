"""Reports: one self-contained HTML page per scan, and a list of them."""

from medi2i.report.finished import find_finished, page_of, refuse_existing, report_on
from medi2i.report.index import write_index
from medi2i.report.page import Entry, write_report
from medi2i.report.panels import Kind, Panel
from medi2i.report.viewer import find_viewer

__all__ = [
    "Entry",
    "Kind",
    "Panel",
    "find_finished",
    "find_viewer",
    "page_of",
    "refuse_existing",
    "report_on",
    "write_index",
    "write_report",
]
