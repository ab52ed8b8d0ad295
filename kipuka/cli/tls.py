"""`kipuka tls renew`.

In the room: replacing the files of the server's own certificate. Not in the room: having it signed
(`kipuka.cli.server_certificate`).
"""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from pathlib import Path

import click
from cryptography import x509

from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option

__all__ = ["command"]

PRIVATE = 0o600
PUBLIC = 0o644


@click.group()
def command() -> None:
    """Renew the server's own certificate."""


def _present_hosts(file: Path) -> tuple[str, ...]:
    """The DNS names and addresses in the certificate that is there."""
    certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )


def _stage(file: Path, content: bytes, *, mode: int) -> Path:
    """The content beside the file, durable, to be renamed into its place."""
    staged = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return staged


@command.command()
@config_option
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A DNS name or IP address. Default: as it is now.")
@click.option("--ca", help="The id of the [[ca]] item that signs. Default: the one of the path without a label.")
@click.option("--days", type=click.IntRange(1, 3650), default=825, show_default=True, help="How long it is valid.")
def renew(*, config: Path, hosts: tuple[str, ...], ca: str | None, days: int) -> None:
    """Issue a new certificate for this server, with a new key, in the place of the files that [tls] names.

    The certificate is recorded like any other. A running server uses it from SIGHUP on.
    """
    from kipuka.cli.host import open_ca, run_as_operator
    from kipuka.cli.server_certificate import ServerCertificate, host_name, issue_server_certificate
    from kipuka.runtime import compose

    composition = compose(config, os.environ)
    settings = composition.settings
    names = tuple(dict.fromkeys(hosts or _present_hosts(settings.tls.cert)))
    if not names:
        raise Failure(f"{settings.tls.cert} has no names to keep: give them with --host")
    for name in names:
        try:
            host_name(name)
        except ValueError as error:
            raise click.BadParameter(f"{name}: {error}", param_hint="--host") from error
    chosen = ca or settings.labels[None].ca
    if all(item.id != chosen for item in settings.cas):
        raise Failure(f"there is no [[ca]] item with the id {chosen}")
    password = settings.tls.key_password

    async def issue() -> ServerCertificate:
        async with open_ca(composition, chosen) as (store, backend):
            return await issue_server_certificate(
                store,
                backend,
                ca=chosen,
                hosts=names,
                validity=timedelta(days=days),
                password=None if password is None else password.get_secret_value().encode(),
            )

    made = run_as_operator(issue())
    staged_key = _stage(settings.tls.key, made.key, mode=PRIVATE)
    staged_certificate = _stage(settings.tls.cert, made.chain, mode=PUBLIC)
    staged_key.replace(settings.tls.key)
    staged_certificate.replace(settings.tls.cert)
    click.echo(f"wrote {settings.tls.cert} for {', '.join(names)}; send the server SIGHUP to have it used", err=True)
