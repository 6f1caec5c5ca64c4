"""The links between the pages of the folder of reports: their file names, and the line of them above each report.

That line alone changes when a neighbour is published, so it can be replaced in a report that is written already.
"""

import re
from dataclasses import dataclass

INDEX = "index.html"
_LINKS = re.compile(r'<nav class="links".*?</nav>', re.DOTALL)


@dataclass(frozen=True)
class Link:
    """A link to the run of a date: to its report, or to its line in the page of its month if it has none."""

    run_date: str
    href: str


@dataclass(frozen=True)
class Links:
    """The links of a report: to the index, and to the runs of the dates before and after, if there are any."""

    index: str
    previous: Link | None
    following: Link | None


def report_page(run_id: str) -> str:
    """The file of the report of a run."""
    return f"{run_id}.html"


def month_page(month: str) -> str:
    """The file of the page of a month, as in 2026-11."""
    return f"{month}.html"


def line_of(run_id: str) -> str:
    """Where a run stands in the page of its month, which always exists: a report may have been pruned."""
    return f"{month_page(run_id[:7])}#{run_id}"


def with_links(page: str, links: Links) -> str:
    """A report with these links in place of its own; unchanged if it is of a version that had none."""
    from mnist_pipeline.report.templates import template  # imported here: names of files need no templates

    line = template("links.html.jinja").render(links=links).strip()
    return _LINKS.sub(lambda _: line, page, count=1)
