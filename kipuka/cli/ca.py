"""`kipuka ca create`.

In the room: asking a backend's `CreatesCA` ability for a new authority, and saying what to write into the configuration (RULES K2). Not
in the room: keys and certificates, which are the backend's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from cryptography.hazmat.primitives.hashes import SHA256

from kipuka.api import CACreated, CAPlan, CreatedCA
from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import write_json

__all__ = ["command", "created_event"]

KEY_TYPES = ("p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096", "ed25519")


@click.group()
def command() -> None:
    """Make certification authorities."""


def created_event(backend: str, made: CreatedCA) -> CACreated:
    """The audit event of a new CA; its subject and fingerprint are those of the issuing certificate."""
    from kipuka.distinguished_names import format_dn

    issuer = made.chain.issuer
    return CACreated(backend=backend, subject=format_dn(issuer.subject), fingerprint=issuer.fingerprint(SHA256()).hex())


def _passphrase(file: Path | None) -> bytes | None:
    if file is None:
        return None
    passphrase = file.read_bytes().rstrip(b"\r\n")
    if not passphrase:
        raise Failure(f"{file} is empty: a passphrase is needed")
    return passphrase


def _options(written: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in written:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Failure("--set takes KEY=VALUE")  # without what was written: it may be a secret
        if key in found:
            raise Failure(f"--set {key} is given twice")
        found[key] = value
    return found


@command.command()
@config_option
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--id", "ca_id", required=True, help="The id of the new [[ca]] item, for labels and the audit log.")
@click.option("--backend", default="local", show_default=True, help="The plugin that makes it, and later signs.")
@click.option("--common-name", help="What its certificates are called. Default: kipuka CA and the id.")
@click.option("--key-type", type=click.Choice(KEY_TYPES), default="p256", show_default=True, help="Of both keys.")
@click.option(
    "--root-days", type=click.IntRange(1, 36500), default=7300, show_default=True, help="Validity of the root."
)
@click.option(
    "--issuing-days",
    type=click.IntRange(1, 36500),
    default=3650,
    show_default=True,
    help="Validity of the issuing certificate.",
)
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the passphrase that both keys are encrypted with. Default: not encrypted.",
)
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="What the backend needs beyond that, for instance the module of an HSM. May be given several times.",
)
@json_option
def create(
    *,
    config: Path,
    directory: Path,
    ca_id: str,
    backend: str,
    common_name: str | None,
    key_type: str,
    root_days: int,
    issuing_days: int,
    passphrase_file: Path | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a root and an issuing CA under it in DIR, and print the [[ca]] item to write into the configuration.

    With a configuration file the event goes to its audit log; without one, as before the first deployment, nothing is recorded.
    Nothing that exists is overwritten.
    """
    from kipuka import plugins
    from kipuka.cli.host import with_store
    from kipuka.runtime import compose

    kinds = plugins.load(plugins.discover(), {backend: "kipuka ca create --backend"}).ca_backends
    creator = kinds[backend].creator if backend in kinds else None
    if creator is None:
        raise Failure(f"the plugin {backend} cannot make a CA; make it with the tools of that CA")
    recorded = config.exists()
    if recorded:
        compose(config, os.environ)  # a broken configuration is told before there is anything that it should record
    plan = CAPlan(
        id=ca_id,
        directory=directory.absolute(),
        common_name=common_name or f"kipuka CA {ca_id}",
        key_type=key_type,
        root_days=root_days,
        issuing_days=issuing_days,
        passphrase=_passphrase(passphrase_file),
        options=_options(options),
    )
    try:
        made = creator.create(plan)
    except ValueError as error:
        raise Failure(str(error)) from error
    if recorded:
        event = created_event(backend, made)
        with_store(config, lambda store: store.audit(event))
    else:
        click.echo(f"there is no {config}: nothing was recorded in an audit log", err=True)
    settings = {"id": ca_id, "backend": backend, **made.settings}
    if passphrase_file is not None:
        settings.setdefault("key_password", f"file:{passphrase_file.absolute()}")
    if as_json:
        write_json({"settings": settings, "files": [str(file) for file in made.files]})
        return
    click.echo("[[ca]]")
    for key, value in settings.items():
        click.echo(f"{key} = {json.dumps(value)}")
    for file in made.files:
        click.echo(f"wrote {file}", err=True)
