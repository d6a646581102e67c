"""Reports as one self-contained HTML file: figures, tables, and pairs of videos to look through."""

try:
    import matplotlib  # noqa: F401 - the one package of the extra that nothing else needs
except ImportError as error:
    raise ImportError("descore.report draws with matplotlib: pip install 'descore[report]'") from error

from descore.report import figures
from descore.report.evaluations import report_on
from descore.report.page import Cell, Figure, Highlight, Page, Section, Table, Viewer, write_page
from descore.report.viewer import browse

__all__ = [
    "Cell",
    "Figure",
    "Highlight",
    "Page",
    "Section",
    "Table",
    "Viewer",
    "browse",
    "figures",
    "report_on",
    "write_page",
]
