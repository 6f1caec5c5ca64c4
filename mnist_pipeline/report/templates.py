"""The templates of the HTML pages, which lie beside this file."""

import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mnist_pipeline.report.terminal import percent


@cache
def environment() -> Environment:
    """The environment of all templates: escapes every value, and fails on an undefined one."""
    made = Environment(
        loader=PackageLoader("mnist_pipeline", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "number": "{:,}".format}
    return made


@cache
def fingerprint() -> str:
    """Another for any other templates."""
    made = environment()
    assert made.loader
    sources = [made.loader.get_source(made, name)[0] for name in made.list_templates(["jinja"])]
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def template(name: str) -> Template:
    """The template of that file name."""
    return environment().get_template(name)
