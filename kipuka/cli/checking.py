"""`kipuka check`.

In the room: the command's options and its exit code. Not in the room: what is looked at (`kipuka.cli.check`).
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from kipuka.cli.options import config_option, json_option

__all__ = ["command"]


@click.command()
@config_option
@click.option("--strict", is_flag=True, help="End with exit code 1 for a warning too.")
@json_option
def command(*, config: Path, strict: bool, as_json: bool) -> None:
    """Examine a configuration, and the files it names, without starting the server.

    Errors stop a start; warnings are what works but is weak, permissive or about to end. Exit code 3 for an error.
    docs/reference/check.md lists everything that is looked at.
    """
    from kipuka.cli.check import check_file, exit_code, render, render_json

    findings = check_file(config, os.environ)
    click.echo(render_json(findings) if as_json else render(findings))
    raise click.exceptions.Exit(int(exit_code(findings, strict=strict)))
