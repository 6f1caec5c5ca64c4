"""Locations with a date in them: `incoming/{run_date}`, or `s3://BUCKET/{run_date:%Y/%m/%d}`."""

import re
from datetime import date
from string import Formatter

from mnist_pipeline.store.base import Location, parse_location

_PLACEHOLDER = "run_date"
_DIRECTIVES = "%Y %y %m %d %j %G %V %u"
_FORMAT = re.compile(r"([^%{}]|%[YymdjGVu%])*")  # numbers alone: the names of days depend on the machine's language
_EXPECTED = (
    "expected no braces but {run_date}, or {run_date:FORMAT} with "
    + _DIRECTIVES
    + " and %%; write {{ and }} for braces in a name"
)


def is_template(location: Location) -> bool:
    """Whether a location has to be resolved: it has a placeholder, or braces that are written double."""
    return "{" in str(location) or "}" in str(location)


def resolved(template: Location, run_date: date) -> Location:
    """The location that a template means for the run of a date.

    Raises:
        ValueError: it has another placeholder, another directive or a brace too many; or what it means is no location.
    """
    parts = []
    try:
        for text, placeholder, how, conversion in Formatter().parse(str(template)):
            parts.append(text)
            if placeholder is not None:
                if placeholder != _PLACEHOLDER or conversion or not _FORMAT.fullmatch(how or ""):
                    raise ValueError(placeholder)
                parts.append(format(run_date, how or "%Y-%m-%d"))
    except ValueError:
        raise ValueError(_EXPECTED) from None
    return parse_location("".join(parts))
