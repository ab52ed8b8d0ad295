"""`kipuka cert list|show|revoke|rename|withdraw-rename`.

In the room: filters, paging, layout, and the order that a command line stands for. Not in the room: the record
(`kipuka.store.certificates`) and what revoking means (`kipuka.revocation`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kipuka.api import timestamp
from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option, moment
from kipuka.cli.output import write_json, write_pairs, write_table

if TYPE_CHECKING:
    from kipuka.revocation import RevocationOrder
    from kipuka.store.certificates import CertificateState, RecordedCertificate, Revoked
    from kipuka.store.database import Store

__all__ = ["command"]

PAGE = 500


@click.group()
def command() -> None:
    """Look at the certificates that were issued, and revoke them."""


def _serial(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from kipuka.store.certificates import normal_serial

    if value is None:
        return None
    try:
        return normal_serial(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _state(found: RecordedCertificate) -> str:
    if found.state == "valid" and found.not_after < datetime.now(UTC):
        return "expired"
    return found.state


def _summary(found: RecordedCertificate) -> dict[str, Any]:
    return {
        "fingerprint": found.fingerprint,
        "ca": found.ca,
        "serial": found.serial,
        "subject": found.subject,
        "names": list(found.names),
        "state": _state(found),
        "revoked_at": None if found.revoked_at is None else timestamp(found.revoked_at),
        "revocation_reason": found.revocation_reason,
        "not_before": timestamp(found.not_before),
        "not_after": timestamp(found.not_after),
        "issued_at": timestamp(found.issued_at),
        "label": found.label,
        "profile": found.profile,
        "method": found.method,
        "identity": found.identity_name,
    }


def _details(found: RecordedCertificate) -> dict[str, Any]:
    return _summary(found) | {
        "enrolment": found.enrolment,
        "spki_sha256": found.spki_sha256,
        "invalidity_date": None if found.invalidity_date is None else timestamp(found.invalidity_date),
        "ca_untold": found.untold_reason,
    }


@command.command(name="list")
@config_option
@click.option("--subject", metavar="TEXT", help="Only those with this text in the subject or in an alternative name.")
@click.option("--serial", callback=_serial, metavar="HEX", help="Only those with this serial number.")
@click.option("--state", type=click.Choice(["valid", "expired", "revoked"]), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@json_option
def list_certificates(
    *,
    config: Path,
    subject: str | None,
    serial: str | None,
    state: CertificateState | None,
    limit: int,
    as_json: bool,
) -> None:
    """List certificates, newest first."""
    from kipuka.cli.host import with_store
    from kipuka.store import certificates

    async def collect(store: Store) -> tuple[list[RecordedCertificate], bool]:
        found: list[RecordedCertificate] = []
        after: str | None = None
        while len(found) < limit:
            page = await store.read(
                partial(
                    certificates.listing,
                    subject=subject,
                    serial=serial,
                    state=state,
                    after=after,
                    limit=min(PAGE, limit - len(found)),
                )
            )
            found += page.items
            after = page.next
            if after is None:
                break
        return found, after is not None

    found, more = with_store(config, collect)
    if as_json:
        write_json([_summary(item) for item in found])
    else:
        write_table(
            ["CA/SERIAL", "STATE", "REASON", "EXPIRES", "SUBJECT", "NAMES", "IDENTITY"],
            [
                [
                    f"{item.ca}/{item.serial}",
                    _state(item),
                    item.revocation_reason,
                    timestamp(item.not_after)[:19] + "Z",
                    item.subject,
                    ", ".join(item.names) or None,
                    f"{item.method}:{item.identity_name}",
                ]
                for item in found
            ],
        )
    if more:
        click.echo(f"there are more than {limit}: use --limit, or a filter", err=True)


@command.command()
@config_option
@click.option("--pem", is_flag=True, help="Print the certificate itself, and nothing else.")
@json_option
@click.argument("certificate", metavar="ID")
def show(*, config: Path, pem: bool, as_json: bool, certificate: str) -> None:
    """Show one certificate. ID is its SHA-256 fingerprint, CA/SERIAL, or a serial number that only one CA has used (RULES E4)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from kipuka.cli.host import with_store
    from kipuka.store import certificates

    found = with_store(config, lambda store: store.read(partial(certificates.find, id=certificate)))
    if found is None:
        raise Failure(f"there is no certificate {certificate}")
    text = x509.load_der_x509_certificate(found.der).public_bytes(Encoding.PEM).decode("ascii")
    if pem:
        click.echo(text, nl=False)
        return
    details = _details(found)
    if as_json:
        write_json(details | {"pem": text})
        return
    write_pairs({**details, "names": ", ".join(found.names) or None})


REASONS = (
    "unspecified",
    "keyCompromise",
    "cACompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "certificateHold",
    "removeFromCRL",
    "privilegeWithdrawn",
    "aACompromise",
)
"""The names of `kipuka.x509.revocation.Reason`, which `kipuka --help` does without."""


@command.command()
@config_option
@click.option(
    "--reason",
    type=click.Choice(REASONS, case_sensitive=False),
    default="unspecified",
    show_default=True,
    metavar="REASON",
    help=f"Why, as RFC 5280 spells it: {', '.join(REASONS)}. removeFromCRL lifts a hold.",
)
@click.option(
    "--invalidity-date", callback=moment, metavar="TIME", help="Since when the key is thought to be compromised."
)
@click.option("--comment", metavar="TEXT", help="A line for the audit log.")
@json_option
@click.argument("certificate", metavar="ID")
def revoke(
    *,
    config: Path,
    reason: str,
    invalidity_date: datetime | None,
    comment: str | None,
    as_json: bool,
    certificate: str,
) -> None:
    """Revoke a certificate. ID is its SHA-256 fingerprint, CA/SERIAL, or a serial number that only one CA has used (RULES E4).

    From then on it authenticates nobody, on open connections neither. With the reason keyCompromise its key is refused in new requests too.
    A revocation is final, but certificateHold can be lifted (removeFromCRL) or made final, and any reason can become keyCompromise.
    """
    from kipuka.cli.host import with_revocations
    from kipuka.revocation import RevocationOrder
    from kipuka.x509.revocation import Reason

    order = RevocationOrder(id=certificate, reason=Reason(reason), invalidity_date=invalidity_date, comment=comment)
    revoked = with_revocations(config, order)
    if as_json:
        write_json(_details(revoked.certificate))
    click.echo(_report(revoked, order), err=True)
    if revoked.certificate.untold_reason is not None:
        click.echo("the CA could not be told yet: the server goes on trying", err=True)


@command.command()
@config_option
@click.option("--subject", default="", metavar="DN", help="The new subject, as RFC 4514 writes it. Default: none.")
@click.option(
    "--san",
    "names",
    multiple=True,
    metavar="NAME",
    help="A new alternative name: DNS:a.example, IP:192.0.2.1, email:a@example.com, URI:urn:device:1. May be repeated. Default: none.",
)
@click.option("--until", callback=moment, required=True, metavar="TIME", help="When the approval ends.")
@json_option
@click.argument("certificate", metavar="ID")
def rename(
    *, config: Path, subject: str, names: tuple[str, ...], until: datetime, as_json: bool, certificate: str
) -> None:
    """Let a certificate change its names. ID is its SHA-256 fingerprint, CA/SERIAL, or a serial number that only one CA has used (RULES E4).

    Its holder may renew it once under exactly these names, by a request with ChangeSubjectName (RFC 6402), where the profile says
    change_subject_name. A second approval takes the place of the first; withdraw-rename takes it back.
    """
    from kipuka.cli.host import with_store
    from kipuka.name_changes import NameChangeOrder, approve_name_change

    order = NameChangeOrder(id=certificate, subject=subject, names=names, until=until)
    approval = with_store(config, lambda store: approve_name_change(store, order))
    if as_json:
        write_json(
            {
                "id": approval.certificate,
                "subject": approval.subject,
                "names": list(approval.names),
                "until": timestamp(approval.until),
            }
        )
    shown = ", ".join(name for name in (approval.subject, *approval.names) if name)
    click.echo(f"{approval.certificate[:16]}... may be renewed as {shown} until {timestamp(approval.until)}", err=True)


@command.command(name="withdraw-rename")
@config_option
@click.argument("certificate", metavar="ID")
def withdraw_rename(*, config: Path, certificate: str) -> None:
    """Take back what rename has approved. ID is its SHA-256 fingerprint, CA/SERIAL, or a serial number that only one CA has used (RULES E4).

    A certificate that was issued under the new names meanwhile stays as it is: revoke takes that back.
    """
    from kipuka.cli.host import with_store
    from kipuka.name_changes import withdraw_name_change

    withdrawn = with_store(config, lambda store: withdraw_name_change(store, certificate))
    shown = ", ".join(name for name in (withdrawn.subject, *withdrawn.names) if name)
    click.echo(f"{withdrawn.certificate[:16]}... may no longer be renewed as {shown}", err=True)


def _report(revoked: Revoked, order: RevocationOrder) -> str:
    name = f"{revoked.certificate.ca}/{revoked.certificate.serial}"
    match revoked.change:
        case "nothing":
            return f"{name} was revoked for {order.reason.value} before"
        case "hold_lifted":
            return f"{name} is valid again"
        case "revoked" | "amended":
            return f"revoked {name} for {order.reason.value}"
