"""The command `kipuka`: the host's own sub-commands, and one sub-command per plugin that brings some.

In the room: which sub-commands there are, found without importing what is not used. Not in the room: what they do (a
module each), errors (`kipuka.cli.failures`), and plugins' commands (`kipuka.cli.host`).
"""

from __future__ import annotations

import importlib
from typing import Any

import click

import kipuka
from kipuka.cli.failures import reported

__all__ = ["Kipuka", "main"]

COMMANDS = {
    "admin": ("kipuka.cli.admin", "Bearer tokens of administrators."),
    "audit": ("kipuka.cli.audit", "Look at the audit log, and verify it."),
    "ca": ("kipuka.cli.ca", "Make certification authorities."),
    "cert": ("kipuka.cli.cert", "Look at the certificates that were issued."),
    "check": ("kipuka.cli.checking", "Examine a configuration without starting the server."),
    "db": ("kipuka.cli.db", "Bring the database's schema up to date, and copy it."),
    "init": ("kipuka.cli.init", "Write a complete deployment into a new folder."),
    "lockout": ("kipuka.cli.lockout", "List locked addresses, and release them."),
    "plugin": ("kipuka.cli.plugin_new", "Begin a plugin of your own."),
    "plugins": ("kipuka.cli.plugins", "List the installed plugins and what is wrong with them."),
    "serve": ("kipuka.cli.serve", "Run the server in the foreground."),
    "tls": ("kipuka.cli.tls", "Renew the server's own certificate."),
}
"""Each host command, the module it is in (there it is called `command`), and its line in the list."""


class Kipuka(click.Group):
    """The group of all sub-commands. A module is imported when its command is used, a plugin when its name is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The host's commands; plugins are listed by `format_epilog`, since they are not imported to be asked."""
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The host's command of that name, else the commands of the plugin of that name."""
        del ctx
        if cmd_name in COMMANDS:
            module, _summary = COMMANDS[cmd_name]
            command: click.Command = importlib.import_module(module).command
            return command
        from kipuka.cli.host import plugin_group

        return plugin_group(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])
        from kipuka.cli.host import plugin_summaries

        if summaries := plugin_summaries():
            with formatter.section("Installed plugins (kipuka NAME --help lists the commands one brings)"):
                formatter.write_dl(summaries)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line as far as it is the group's own."""
        with reported():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what kipuka raises on purpose becomes a line on stderr and an exit code."""
        with reported():
            return super().invoke(ctx)


@click.group(cls=Kipuka, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(kipuka.__version__, prog_name="kipuka")
def main() -> None:
    """kipuka, an EST server (RFC 7030): devices prove who they are and leave with a certificate.

    A deployment starts with `kipuka init DIR`; `kipuka serve -c DIR/kipuka.toml` runs it.
    """
