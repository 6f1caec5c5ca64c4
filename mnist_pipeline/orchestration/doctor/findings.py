"""The result of a check of `mnist-pipeline doctor`, and how an error in a check becomes one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mnist_pipeline.errors import PipelineError

SET_UP = "mnist-pipeline setup"


@dataclass(frozen=True)
class Finding:
    """The result of one check. `advice` names the next command, or is empty.

    `healthy` is None if nothing was looked at, or if a person chose what was found: neither well nor a failure.
    """

    what: str
    healthy: bool | None
    found: str
    advice: str = ""


def guarded(what: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of one check; an error ends the check and is a finding itself."""
    findings = []
    try:
        for finding in look():
            findings.append(finding)  # one by one: those before an error are kept
    except PipelineError as error:
        findings.append(Finding(what, False, str(error), "fix this, then `mnist-pipeline doctor`"))
    except Exception as error:  # doctor must report all its findings
        advice = "`mnist-pipeline doctor` again; if it persists, check the log of the Prefect server"
        findings.append(Finding(what, False, f"cannot be checked: {error!r}", advice))
    return findings
