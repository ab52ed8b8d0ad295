"""`kipuka plugins`.

In the room: the table of installed plugins. Not in the room: finding and loading them (`kipuka.plugins`). It works also
when the configuration or a plugin is broken: that is when it is needed most.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from kipuka.api import StartupError
from kipuka.cli.failures import ExitCode
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import write_json, write_table

__all__ = ["command"]


@click.command()
@config_option
@click.option("--why", is_flag=True, help="Say all that is known of each, and why it is used or not.")
@json_option
def command(*, config: Path, why: bool, as_json: bool) -> None:
    """List the installed plugins: which are used by the configuration, and what is wrong with any of them.

    A plugin is imported only when the configuration uses it; what an unused one brings is therefore not known. With --why: which
    distribution and file it comes from, which key uses it or what would, the version of the API it states, what each of its hooks
    returned, its place in the order of methods, and what is wrong with it or with its settings. Exit code 3 when a plugin is broken.
    """
    if why:
        from kipuka.cli import plugins_why

        explained = plugins_why.explain(config, os.environ)
        if as_json:
            write_json(plugins_why.as_json(explained))
        else:
            plugins_why.show(explained)
        if any(one.troubles and one.state != "disabled" for one in explained):
            raise click.exceptions.Exit(int(ExitCode.CONFIGURATION))
        return
    from kipuka import plugins
    from kipuka.config import load

    used: dict[str, str] = {}
    disabled: frozenset[str] = frozenset()
    try:
        raw = load(config, os.environ)
        used, disabled = dict(raw.uses()), raw.disabled
    except StartupError as error:
        click.echo(f"warning: no configuration is read, so no plugin counts as used: {error}", err=True)
    rows = plugins.list_plugins(plugins.discover(), used, disabled=disabled)
    if as_json:
        write_json(
            [
                {
                    "name": row.name,
                    "distribution": row.distribution,
                    "version": row.version,
                    "state": row.state,
                    "kinds": list(row.kinds),
                    "problem": row.problem,
                }
                for row in rows
            ]
        )
    else:
        write_table(
            ["NAME", "STATE", "DISTRIBUTION", "VERSION", "BRINGS"],
            [
                [row.name, row.state, row.distribution or None, row.version or None, ", ".join(row.kinds) or None]
                for row in rows
            ],
        )
        for row in rows:
            if row.problem is not None:
                click.echo(f"error: plugin {row.name} ({row.distribution or 'not installed'}): {row.problem}", err=True)
    if any(row.state == "broken" for row in rows):
        raise click.exceptions.Exit(int(ExitCode.CONFIGURATION))
