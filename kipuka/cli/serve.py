"""`kipuka serve`.

In the room: composing, the operational log, and the event loop. Not in the room: everything that runs in it
(`kipuka.runtime`, `kipuka.http.app`).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from kipuka.cli.failures import NotReady
from kipuka.cli.options import config_option

__all__ = ["command"]


@click.command()
@config_option
def command(*, config: Path) -> None:
    """Run the server in the foreground.

    SIGTERM and Ctrl-C stop it: no new connection is taken, requests under way come to their end.
    """
    from kipuka.cli.check import permissive, run_check
    from kipuka.cli.logs import configure_logs
    from kipuka.http.app import run
    from kipuka.http.memory import settle
    from kipuka.runtime import compose, open_runtime

    composition = compose(config, os.environ)
    log = composition.settings.log
    configure_logs(form=log.format, level=log.level)
    findings = run_check(composition.settings, composition.plugins, ports=False)
    errors = [str(finding).removeprefix("error: ") for finding in findings if finding.severity == "error"]
    if errors:
        raise NotReady("\n".join(errors))

    async def serve() -> None:
        async with open_runtime(composition, permissive=permissive(findings)) as runtime:
            settle()
            await run(runtime)

    asyncio.run(serve())
