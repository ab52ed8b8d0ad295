"""`kipuka serve`.

In the room: composing, examining, and the operational log. Not in the room: the processes and everything that runs in them
(`kipuka.http.supervisor`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kipuka.cli.failures import NotReady
from kipuka.cli.options import config_option

if TYPE_CHECKING:  # imported when the command runs
    from kipuka.config import Settings
    from kipuka.runtime import Draft

__all__ = ["command"]


@click.command()
@config_option
def command(*, config: Path) -> None:
    """Run the server in the foreground.

    SIGTERM and Ctrl-C stop it: no new connection is taken, requests under way come to their end; a second one drops them.
    SIGHUP makes it read its configuration again, and the files that it names; a configuration with a mistake changes nothing.
    """
    from kipuka.cli.check import permissive, run_check
    from kipuka.cli.logs import configure_logs
    from kipuka.http.supervisor import Verdict, examine, supervise
    from kipuka.runtime import CompositionError, compose

    def log_as_configured(settings: Settings) -> None:
        configure_logs(form=settings.log.format, level=settings.log.level)

    def examination(draft: Draft) -> Verdict:
        findings = run_check(draft.settings, draft.plugins, ports=False)
        errors = (str(finding).removeprefix("error: ") for finding in findings if finding.severity == "error")
        return Verdict(errors=tuple(errors), permissive=permissive(findings))

    try:
        composition = compose(config, os.environ)
    except CompositionError as error:
        raise NotReady("\n".join([str(error), *examine(error.draft, examination).errors])) from error
    log_as_configured(composition.settings)
    verdict = examine(composition, examination)
    if verdict.errors:
        raise NotReady("\n".join(verdict.errors))
    supervise(
        composition,
        permissive=verdict.permissive,
        examination=examination,
        configure_logs=log_as_configured,
        environ=os.environ,
    )
