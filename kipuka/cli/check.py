"""What `kipuka check` finds: everything that can be said of a configuration without starting the server.

In the room: looking at the files that settings name, at the CAs, the clock and the ports, and rendering what was found. Not in the
room: reading the configuration (`kipuka.config`), what settings alone show (`kipuka.cli.advice`), what is wrong inside a
plugin's section (the kind's own `check`), the command (`kipuka.cli.checking`).

Errors are what stops a start; warnings are what works but is weak, permissive or about to end. Nothing is written, the
database is not opened, and no CA is asked that is not on this machine (kinds with `remote`).
"""

from __future__ import annotations

import asyncio
import difflib
import errno
import json
import os
import socket
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import BaseModel, SecretStr

from kipuka.administrators import lets_everybody_in, own_authority_finding
from kipuka.api.errors import BackendUnavailable, ConfigError, PluginError, StartupError
from kipuka.api.kinds import AnyKind
from kipuka.api.values import CertificateChain
from kipuka.audit.heads import NodeKey, load_public_key
from kipuka.cli import mounts
from kipuka.cli.advice import advice, client_auth, periods, postgresql_advice
from kipuka.cli.certificates import (
    UNREADABLE,
    is_issued_by,
    looks_public,
    names_its_issuers_place,
    spki,
    title,
    weak_key,
)
from kipuka.cli.failures import ExitCode
from kipuka.cli.mounts import file_system_of
from kipuka.cli.no_store import NoStore
from kipuka.config import (
    Address,
    AuditSection,
    CAItem,
    DatabaseSection,
    Known,
    Label,
    ServerSection,
    Settings,
    TLSSection,
)
from kipuka.distinguished_names import format_dn
from kipuka.est.enveloped import signs_messages, unsuited
from kipuka.http.limits import files_needed, limits_of_worker, most_open_files
from kipuka.plugins import Plugins
from kipuka.runtime import Composition, CompositionError, compose, needs_of
from kipuka.x509.path import AnchorSet, check_chain

__all__ = ["CheckFinding", "check_file", "exit_code", "findings_of", "permissive", "render", "render_json", "run_check"]

EXPIRES_SOON = timedelta(days=30)
OPENING_TIMEOUT = 15.0  # seconds
CLOCK_TOLERANCE = timedelta(hours=1)
MANY_ANCHORS = 20

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckFinding:
    """One thing that is wrong, or weak: where it stands, what it is, what to do."""

    severity: Severity
    file: str
    key: str  # dotted; "" for the file as a whole
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{self.severity}: {where}: {self.problem}; {self.remedy}"


def run_check(
    settings: Known, plugins: Plugins, *, now: datetime | None = None, ports: bool = True
) -> Sequence[CheckFinding]:
    """Everything that can be found, errors first. Of settings that are not whole, what the good sections and the files they
    name show. `ports` False leaves out whether the addresses are free, for a server
    that is about to bind them. Not to be called in an event loop.
    """
    look = _Look(settings=settings, plugins=plugins, now=now or datetime.now(UTC))
    look.all(ports=ports)
    return sorted(look.findings, key=lambda finding: finding.severity)


def check_file(path: Path, environ: Mapping[str, str]) -> Sequence[CheckFinding]:
    """As `run_check`, from the file; what stops the reading or the loading is found too, and stops no look at the rest."""
    try:
        composition = compose(path, environ)
    except CompositionError as error:
        return [*findings_of(error, error.draft.settings.file), *run_check(error.draft.settings, error.draft.plugins)]
    except StartupError as error:
        return findings_of(error, path)
    return run_check(composition.settings, composition.plugins)


def findings_of(error: StartupError, path: Path) -> Sequence[CheckFinding]:
    """What a start would say, as findings."""
    problems = error.problems if isinstance(error, ConfigError | CompositionError) else ()
    faults = error.faults if isinstance(error, PluginError | CompositionError) else ()
    findings = [
        CheckFinding(severity="error", file=item.file, key=item.key, problem=item.problem, remedy=item.remedy)
        for item in problems
    ]
    for fault in faults:
        owner = f" ({fault.distribution} {fault.version})" if fault.distribution else ""
        problem = f"plugin {fault.plugin}{owner}, {fault.stage}: {fault.problem}"
        findings.append(CheckFinding(severity="error", file=str(path), key="", problem=problem, remedy=fault.remedy))
    if not findings:
        findings.append(CheckFinding(severity="error", file=str(path), key="", problem=str(error), remedy="mend it"))
    return findings


def permissive(findings: Iterable[CheckFinding]) -> tuple[str, ...]:
    """The settings that are warned about, for the audit event at the start."""
    return tuple(dict.fromkeys(finding.key for finding in findings if finding.severity == "warning" and finding.key))


def exit_code(findings: Iterable[CheckFinding], *, strict: bool = False) -> ExitCode:
    """DONE without an error (warnings are told, and with `strict` they are FAILED); CONFIGURATION with one."""
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return ExitCode.CONFIGURATION
    return ExitCode.FAILED if strict and severities else ExitCode.DONE


def render(findings: Sequence[CheckFinding]) -> str:
    """A line each, and a line that sums up."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    return "\n".join([*map(str, findings), f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"])


def render_json(findings: Sequence[CheckFinding]) -> str:
    """One JSON document: `ok` (no error), and `findings` with severity, file, key, problem and remedy."""
    rows = [
        {
            "severity": finding.severity,
            "file": finding.file,
            "key": finding.key,
            "problem": finding.problem,
            "remedy": finding.remedy,
        }
        for finding in findings
    ]
    ok = all(finding.severity != "error" for finding in findings)
    return json.dumps({"ok": ok, "findings": rows}, indent=2, ensure_ascii=False)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """One look at everything; findings pile up."""

    settings: Known
    plugins: Plugins
    now: datetime
    findings: list[CheckFinding] = field(default_factory=list[CheckFinding])
    own_chains: dict[str, CertificateChain] = field(default_factory=dict[str, CertificateChain])
    est_anchors: list[x509.Certificate] = field(default_factory=list[x509.Certificate])

    @property
    def whole(self) -> Settings | None:
        """The settings, where they are whole: only then has it sense to look at more than single sections."""
        return self.settings if isinstance(self.settings, Settings) else None

    def all(self, *, ports: bool) -> None:
        self._configuration_file()
        self._client_certificates()
        self._administrators()
        self._kinds()
        if self.whole is not None:
            self._methods()
            for found in advice(self.whole):
                self._say(found.severity, found.key, found.problem, found.remedy)
            self._needs(self.whole)
        self._authorities()
        if self.settings.tls is not None:
            self._server_certificate(self.settings.tls)
        if self.whole is not None:
            self._key_generation(self.whole)
        if self.settings.db is not None:
            self._database(self.settings.db)
        if self.whole is not None:
            self._audit_keys(self.whole.audit)
        self._clock()
        if self.whole is not None:
            self._traffic(self.whole.server)
            if ports:
                self._ports(self.whole.server)

    def _error(self, key: str, problem: str, remedy: str) -> None:
        self._say("error", key, problem, remedy)

    def _warn(self, key: str, problem: str, remedy: str) -> None:
        self._say("warning", key, problem, remedy)

    def _say(self, severity: Severity, key: str, problem: str, remedy: str) -> None:
        variable = next((name for place, name in self.settings.overrides.items() if place == key), None)
        file = str(self.settings.file) if variable is None else f"environment variable {variable}"
        self.findings.append(CheckFinding(severity=severity, file=file, key=key, problem=problem, remedy=remedy))

    # --- files ---

    def _read(self, key: str, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self._error(key, f"there is no file {path}", "write the path of one that is there")
        except OSError as error:
            problem = f"{path} cannot be read: {error.strerror or error}"
            self._error(key, problem, "let the account that kipuka runs under read it")
        return None

    def _certificates(self, key: str, path: Path) -> list[x509.Certificate]:
        content = self._read(key, path)
        if content is None:
            return []
        try:
            return x509.load_pem_x509_certificates(content)
        except UNREADABLE as error:
            self._error(key, f"{path} has no readable PEM certificate: {error}", "put PEM certificates into it")
            return []

    def _permissions(self, key: str, path: Path, what: str) -> None:
        """That nobody but the server can read a secret. A group that may read is usual where root owns the file."""
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            return  # whoever needs the file has said so
        if mode & 0o037:
            problem = f"{path} has mode {mode:04o}: others than the server can read or change {what}"
            self._warn(key, problem, f"chmod 600 '{path}'")

    def _configuration_file(self) -> None:
        path = self.settings.file
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # it was read a moment ago; the next start says what became of it
        if mode & 0o022:
            problem = f"it has mode {mode:04o}: others than its owner can change it"
            self._warn("", problem, f"chmod go-w '{path}'")
        secrets = set(_secrets(self._models()))
        db = self.settings.db
        if db is not None and urlsplit(db.url).password:
            secrets.add(db.url)
        if mode & 0o037 and any(text in secrets for text in _strings(values)):
            remedy = f'write the secret as "file:PATH" or "env:NAME", or chmod 600 \'{path}\''
            self._warn("", f"it holds a secret and has mode {mode:04o}: others than the server can read it", remedy)
        for name in sorted(self.settings.disabled):
            if name not in self.plugins.installed:
                near = difflib.get_close_matches(name, sorted(self.plugins.installed), n=1)
                remedy = f"did you mean {near[0]}?" if near else "take it out"
                self._warn("plugins.disabled", f"no installed plugin is called {name}", remedy)
            elif name in values:
                remedy = f"take the section out, or {name} out of disabled"
                self._warn(name, f"the plugin {name} is disabled: this section has no effect", remedy)

    def _models(self) -> Iterator[BaseModel]:
        settings = self.settings
        if self.whole is not None:
            yield self.whole.est
        yield from (section for section in (settings.tls, settings.db, settings.admin) if section is not None)
        yield from settings.authenticators.values()
        yield from (item.settings for item in settings.cas)
        yield from (item.settings for item in settings.sinks)

    # --- TLS ---

    def _server_certificate(self, tls: TLSSection) -> None:
        chain = self._certificates("tls.cert", tls.cert)
        self._private_key(
            "tls.key", tls.key, tls.key_password, chain[0] if chain else None, of="tls.cert", where=tls.cert
        )
        self._permissions("tls.key", tls.key, "the server's private key")
        if not chain:
            return
        leaf = chain[0]
        self._dates("tls.cert", leaf, "the server's certificate")
        self._server_names(leaf)
        self._server_strength(leaf)
        for below, above in pairwise(chain):
            try:
                below.verify_directly_issued_by(above)
            except (*UNREADABLE, InvalidSignature):
                problem = f"{title(above)} does not follow from {title(below)}, which stands before it"
                remedy = "put the server's certificate first, then each certificate's issuer after it"
                self._error("tls.cert", problem, remedy)
        self._server_chain(chain)

    def _private_key(
        self, name: str, path: Path, secret: SecretStr | None, leaf: x509.Certificate | None, *, of: str, where: Path
    ) -> None:
        """That the key can be read, and is that of the certificate under the key `of` in the file `where`."""
        content = self._read(name, path)
        if content is None:
            return
        password = None if secret is None else secret.get_secret_value().encode("utf-8")
        try:
            key = load_pem_private_key(content, password)
        except TypeError:
            # cryptography says so of a password that is missing, and of one that is not needed
            if password is None:
                own = f"{name.rpartition('.')[2]}_password"
                self._error(f"{name}_password", f"{path} is encrypted", f'write {own} = "file:PATH"')
            else:
                own = f"{name.rpartition('.')[2]}_password"
                self._error(f"{name}_password", f"{path} is not encrypted", f"take {own} out")
            return
        except (ValueError, UnsupportedAlgorithm):
            remedy = "write the right password" if password else "put a PEM private key into it"
            self._error(name, f"{path} cannot be read as a private key", remedy)
            return
        if leaf is None:
            return
        try:
            same = spki(leaf.public_key()) == spki(key.public_key())
        except UNREADABLE:
            self._error(of, "the certificate's public key cannot be read", "use another certificate")
            return
        if not same:
            remedy = "write the key that the certificate was made for"
            self._error(name, f"it is not the key of the certificate in {where}", remedy)

    def _server_names(self, leaf: x509.Certificate) -> None:
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = None
        except UNREADABLE as error:
            self._error("tls.cert", f"the certificate's extensions cannot be read: {error}", "use another certificate")
            return
        if not names:
            problem = "the server's certificate has no subject alternative name: many clients refuse it (RFC 9525)"
            self._warn("tls.cert", problem, "use a certificate with the server's DNS names or addresses")
        try:
            usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return
        if ExtendedKeyUsageOID.SERVER_AUTH not in usages:
            problem = "the certificate's extended key usage leaves out server authentication: clients will refuse it"
            self._error("tls.cert", problem, "use a certificate for serverAuth")

    def _server_strength(self, leaf: x509.Certificate) -> None:
        weak = weak_key(leaf)
        if weak is not None:
            self._error("tls.cert", f"the server's key is weak: {weak}", "use P-256, or RSA with 2048 bits or more")
        try:
            algorithm = leaf.signature_hash_algorithm
        except UNREADABLE:
            return  # said by the comparison with the key
        if algorithm is not None and algorithm.name in {"md5", "sha1"}:
            problem = f"the server's certificate is signed with {algorithm.name.upper()}: clients will refuse it"
            self._error("tls.cert", problem, "use a certificate signed with SHA-256 or better")

    def _server_chain(self, chain: Sequence[x509.Certificate]) -> None:
        """RFC 8446, 4.4.2: a client has the root alone, so what stands between it and the server must be sent along."""
        last = chain[-1]
        for ca in self.own_chains.values():
            for authority in ca.certificates:
                if authority.issuer != authority.subject and is_issued_by(last, authority):
                    problem = f"the intermediate certificate of {title(authority)} is missing at its end"
                    self._warn("tls.cert", problem, "append it: clients that know the root only cannot go without")
                    return
        if len(chain) == 1 and last.issuer != last.subject and names_its_issuers_place(last):
            problem = f"it has the server's certificate alone, whose issuer {format_dn(last.issuer)} is hardly a root"
            self._warn("tls.cert", problem, "append the intermediate certificates up to but without the root")

    def _dates(self, key: str, certificate: x509.Certificate, what: str, *, severity: Severity = "error") -> None:
        if certificate.not_valid_after_utc < self.now:
            self._say(severity, key, f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d}", "replace it")
        elif certificate.not_valid_before_utc > self.now:
            day = f"{certificate.not_valid_before_utc:%Y-%m-%d}"
            self._say(severity, key, f"{what} is not valid before {day}", "look at the clock, or replace it")
        elif certificate.not_valid_after_utc - self.now < EXPIRES_SOON:
            self._warn(key, f"{what} expires on {certificate.not_valid_after_utc:%Y-%m-%d}", "replace it in time")

    # --- private keys that are made here ---

    def _key_generation(self, settings: Settings) -> None:
        """RULES J1: whom private keys are encrypted to, and who signs them."""
        est = settings.est
        if not any(label.serverkeygen for label in settings.labels.values()):
            return
        if est.serverkeygen_recipients is not None:
            self._recipients("est.serverkeygen_recipients", est.serverkeygen_recipients)
        if est.serverkeygen_signer_cert is None or est.serverkeygen_signer_key is None:
            self._server_as_signer(settings.tls)
            return
        name, of = "est.serverkeygen_signer_key", "est.serverkeygen_signer_cert"
        chain = self._certificates(of, est.serverkeygen_signer_cert)
        leaf, where = (chain[0] if chain else None), est.serverkeygen_signer_cert
        secret = est.serverkeygen_signer_key_password
        self._private_key(name, est.serverkeygen_signer_key, secret, leaf, of=of, where=where)
        self._permissions(name, est.serverkeygen_signer_key, "the key that answers for others")
        if leaf is not None:
            self._dates(of, leaf, "the certificate")
            if not signs_messages(leaf):
                problem = "private keys cannot be signed with its key, which is not RSA, ECDSA or Ed25519"
                self._error(of, problem, "use another certificate")

    def _server_as_signer(self, tls: TLSSection) -> None:
        try:
            leaf = x509.load_pem_x509_certificates(tls.cert.read_bytes())[0]
        except (OSError, *UNREADABLE):
            return  # it was said already
        if not signs_messages(leaf):
            problem = "the server's key is not RSA, ECDSA or Ed25519: private keys cannot be handed out encrypted"
            self._warn("est.serverkeygen", problem, "write serverkeygen_signer_cert and serverkeygen_signer_key")

    def _recipients(self, key: str, path: Path) -> None:
        for certificate in self._certificates(key, path):
            problem = unsuited(certificate)
            if problem is not None:
                remedy = "take it out, or list a certificate for key encipherment or key agreement"
                self._error(key, f"nothing can be encrypted to {title(certificate)}: {problem}", remedy)
            else:
                self._dates(key, certificate, title(certificate), severity="warning")

    # --- client certificates and methods ---

    def _client_certificates(self) -> None:
        section = client_auth(self.settings)
        if section is None:
            if "mtls" not in self.settings.disabled and self.whole is not None:
                problem = "client certificates are not asked for: nobody can re-enrol"
                self._warn("tls.client_auth", problem, "write [tls.client_auth] with trust_anchors")
            return
        if section.trust_anchors is not None:
            self.est_anchors.extend(self._anchors("tls.client_auth.trust_anchors", section.trust_anchors))
        for label in self.settings.labels.values():
            if label.name is not None and label.client_anchors is not None:
                key = f"est.label[{label.name}].client_anchors"
                self.est_anchors.extend(self._anchors(key, label.client_anchors))

    def _administrators(self) -> None:
        section = None if self.settings.admin is None else self.settings.admin.tls
        if section is None or section.mode == "none" or section.trust_anchors is None:
            return
        theirs = self._anchors("admin.tls.trust_anchors", section.trust_anchors)
        if not lets_everybody_in(section.patterns):
            return
        for anchor in theirs:
            if anchor in self.est_anchors:
                problem = f"{title(anchor)} is an anchor of EST's clients too: each of them could administer"
                self._warn(
                    "admin.tls.allow", problem, "write allow, or have administrators signed by a CA of their own"
                )

    def _anchors(self, key: str, path: Path) -> list[x509.Certificate]:
        found = self._certificates(key, path)
        if len(found) > MANY_ANCHORS:
            problem = f"{path} has {len(found)} CA certificates, like a bundle for browsers: whom each of them signs is let in"
            self._warn(key, problem, "leave those in whose client certificates you know")
        for certificate in found:
            self._anchor(key, path, certificate)
        return found

    def _anchor(self, key: str, path: Path, certificate: x509.Certificate) -> None:
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            is_ca = constraints.ca
        except x509.ExtensionNotFound:
            is_ca = False
        except UNREADABLE as error:
            self._error(key, f"a certificate in {path} cannot be read: {error}", "take it out")
            return
        named = title(certificate)
        if not is_ca:
            self._error(key, f"{named} is not a CA certificate", "take it out of the file")
        if looks_public(certificate):
            problem = f"{named} looks like a public CA: whomever it signs is let in, and that may be anybody"
            self._warn(key, problem, "take it out of the file, and name CAs that sign your clients only")
        weak = weak_key(certificate)
        if weak is not None:
            problem = f"{named} has a weak key ({weak}): no certificate under it is accepted"
            self._warn(key, problem, "have the CA renewed with P-256, or RSA with 2048 bits or more")
        self._dates(key, certificate, named, severity="warning")

    def _methods(self) -> None:
        if not self.settings.authenticators:
            self._warn(
                "auth", "no method of proving identity is on: nobody can enrol", "write [tls.client_auth] or [otp]"
            )
            return
        for label in self.settings.labels.values():
            if not label.auth:
                key = "est" if label.name is None else f"est.label[{label.name}]"
                self._warn(
                    f"{key}.auth", "every method of this label is disabled: nobody can enrol", "name another one"
                )
            self._schemes(label)

    def _schemes(self, label: Label) -> None:
        """Methods that read the same Authorization field are shown each other's secrets, and count them as failures (RULES C4)."""
        kinds = self.plugins.authenticators
        readers: dict[str, list[str]] = {}
        for name in label.auth:
            if (scheme := kinds[name].scheme) is not None:
                readers.setdefault(scheme.lower(), []).append(name)
        for scheme, names in readers.items():
            if len(names) > 1:
                key = "est" if label.name is None else f"est.label[{label.name}]"
                problem = f"{' and '.join(names)} all read {scheme.title()} credentials: what is meant for one is tried on the others first"
                self._warn(f"{key}.auth", problem, "give each a label of its own, and name one of them here")

    # --- plugins ---

    def _kinds(self) -> None:
        for name, section in self.settings.authenticators.items():
            key = "tls.client_auth" if name == "mtls" else name
            self._kind(name, self.plugins.authenticators[name], section, key)
        for item in self.settings.cas:
            self._kind(item.backend, self.plugins.ca_backends[item.backend], item.settings, f"ca[{item.id}]")
        for item in self.settings.sinks:
            self._kind(item.type, self.plugins.audit_sinks[item.type], item.settings, f"audit.sink[{item.id}]")

    def _kind(self, name: str, kind: AnyKind, section: BaseModel, key: str) -> None:
        """What the plugin says of its own section (RULES K2)."""
        if kind.check is None:
            return
        try:
            found = list(kind.check(section))
        except Exception as error:  # noqa: BLE001 - told below, as the plugin's fault
            fault = self.plugins.fault(name, stage="configure", problem=f"its check raised {type(error).__name__}")
            self._error(key, str(fault), fault.remedy)
            return
        for finding in found:
            place = f"{key}.{finding.key}" if finding.key else key
            self._say(finding.severity, place, finding.problem, finding.remedy)

    def _needs(self, settings: Settings) -> None:
        """What methods need of the server, and whether it has that."""
        try:
            found = needs_of(Composition(settings=settings, plugins=self.plugins))
        except PluginError as error:
            for fault in error.faults:
                self._error(fault.plugin, str(fault), fault.remedy)
            return
        server = settings.server
        for name, needs in found.items():
            if "max_header_size" in server.model_fields_set and server.max_header_size < needs.header_size:
                problem = f"it is {server.max_header_size}, and {name} can need {needs.header_size}"
                self._warn("server.max_header_size", problem, "take it out, or raise it")
            if needs.server_end_point is not None:
                self._server_end_point(f"{name}.{needs.server_end_point}", settings.tls)

    def _server_end_point(self, key: str, tls: TLSSection) -> None:
        from kipuka.http.tls import tls_server_end_point  # not before it is needed: it brings the whole of TLS along

        try:
            leaf = x509.load_pem_x509_certificates(tls.cert.read_bytes())[0]
        except (OSError, *UNREADABLE):
            return  # it was said already
        if tls_server_end_point(leaf) is None:
            problem = "the server's certificate is signed by an algorithm for which tls-server-end-point is undefined"
            remedy = "have the server's certificate signed with ECDSA or RSA, or do without the requirement"
            self._error(key, f"{problem} (RFC 5929, 4.1)", remedy)

    # --- certification authorities and profiles ---

    def _authorities(self) -> None:
        for item in self.settings.cas:
            key = f"ca[{item.id}]"
            refused = any(found.severity == "error" and found.key.startswith(key) for found in self.findings)
            if refused or self.plugins.ca_backends[item.backend].remote:
                continue  # a remote one is asked when the server starts, not by whoever tries a configuration
            chain = self._chain(item)
            if chain is not None:
                self.own_chains[item.id] = chain
                self._authority(item, chain)
        self._own_authorities()

    def _own_authorities(self) -> None:
        """RULES E2, as the start says it of all CAs, remote ones too."""
        section = None if self.settings.admin is None else self.settings.admin.tls
        if section is None or section.mode == "none" or section.trust_anchors is None:
            return
        if not lets_everybody_in(section.patterns):
            return
        try:
            anchors = AnchorSet(tuple(x509.load_pem_x509_certificates(section.trust_anchors.read_bytes())))
        except (OSError, *UNREADABLE):
            return  # said when the file was looked at
        for name, chain in self.own_chains.items():
            finding = own_authority_finding(name, chain, anchors)
            if finding is not None:
                self._error("admin.tls.allow", *finding)

    def _chain(self, item: CAItem) -> CertificateChain | None:
        kind = self.plugins.ca_backends[item.backend]

        async def ask() -> CertificateChain:
            async with asyncio.timeout(OPENING_TIMEOUT):
                async with kind.open(item.settings, NoStore(now=self.now, plugin=item.backend)) as backend:
                    return await backend.ca_certificates()

        try:
            return asyncio.run(ask())
        except BackendUnavailable:
            return None  # it needs the store, or something that is away: nothing wrong with the settings
        except Exception as error:  # noqa: BLE001 - told below, as the plugin's fault
            problem = f"the CA cannot be opened: {type(error).__name__}: {error}"
            self._error(f"ca[{item.id}]", problem, "mend what it says, or tell the maintainers of the plugin")
            return None

    def _authority(self, item: CAItem, chain: CertificateChain) -> None:
        key = f"ca[{item.id}]"
        try:
            check_chain(chain.certificates)
        except ValueError as error:
            # RULES F7
            self._error(key, str(error), "give the whole chain, from the issuing certificate to the root")
        told_by_plugin = self.plugins.ca_backends[item.backend].check is not None
        for certificate in chain.certificates[1:] if told_by_plugin else chain.certificates:
            self._dates(key, certificate, title(certificate))
        end = min(certificate.not_valid_after_utc for certificate in chain.certificates)
        for place, profile, validity in () if self.whole is None else periods(self.whole, item):
            if self.now + validity > end:
                name = f"certificates of the profile {profile}" if profile else "certificates"
                problem = f"{name} for {validity / timedelta(days=1):g} days would outlive the CA: they end with it on {end:%Y-%m-%d}"
                self._warn(place, problem, "write fewer validity_days, or renew the CA")

    # --- the rest ---

    def _database(self, db: DatabaseSection) -> None:
        if not db.url.startswith("sqlite:"):
            self._postgresql(db.url)
            return
        path = Path(db.url.removeprefix("sqlite:///"))
        if path.is_dir():
            self._error("db.url", f"{path} is a directory", "write the path of a file")
        elif path.exists():
            if not os.access(path, os.R_OK | os.W_OK):
                self._error(
                    "db.url", f"{path} cannot be read and written", "let the account that kipuka runs under do both"
                )
            self._permissions("db.url", path, "the database")
        else:
            self._error("db.url", f"there is no database {path}", "make one with `kipuka db upgrade`")
        # SQLite writes its journal beside the file
        if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
            problem = f"{path.parent} cannot be written, where SQLite keeps the database's journal"
            self._error("db.url", problem, "let the account that kipuka runs under write there")
        self._place_of_database(path.parent)

    def _postgresql(self, url: str) -> None:
        """What the URL shows; the database is not opened."""
        from kipuka.store.dialect import dialect_for  # SQLAlchemy, and the driver: half a second where SQLite is used

        try:
            dialect_for(url)
        except StartupError as error:
            self._error("db.url", str(error).removeprefix("[db] url: "), "mend it")
            return
        for finding in postgresql_advice(url, os.environ):
            self._say(finding.severity, finding.key, finding.problem, finding.remedy)

    def _place_of_database(self, folder: Path) -> None:
        try:
            mode = stat.S_IMODE(folder.stat().st_mode)
            kind = file_system_of(folder.resolve(), mounts.MOUNTS.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return  # no folder: there is no database either, which is said; no table of mounts: nothing is known
        if mode & stat.S_IWOTH:
            problem = (
                f"{folder} has mode {mode:04o}: others than the server can put another file in the database's place"
            )
            self._warn("db.url", problem, f"chmod o-w '{folder}'")
        if kind in mounts.NETWORK:
            problem = f"{folder} is on {kind}, where SQLite's locks and journal cannot be relied on"
            self._warn("db.url", problem, "keep the database on a disk of this machine")

    def _audit_keys(self, audit: AuditSection) -> None:
        if audit.node_key is not None:
            key = "audit.node_key"
            try:
                NodeKey.load(audit.node_key)
            except StartupError as error:
                self._error(key, str(error), "write the path of the node's key, or make one: `kipuka audit key create`")
            else:
                self._permissions(key, audit.node_key, "the key that signs the audit log")
        for file in audit.trusted_keys:
            try:
                load_public_key(file)
            except StartupError as error:
                self._error("audit.trusted_keys", str(error), "write the path of a node's public key")

    def _clock(self) -> None:
        """A clock that is behind makes certificates of the past, and lets expired ones in."""
        files = {"the configuration": self.settings.file}
        db = self.settings.db
        if db is not None and db.url.startswith("sqlite:"):
            files["the database"] = Path(db.url.removeprefix("sqlite:///"))
        for what, file in files.items():
            try:
                written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            except OSError:
                continue  # told where the file is looked at
            if written - self.now > CLOCK_TOLERANCE:
                then, now = f"{written:%Y-%m-%d %H:%M}", f"{self.now:%Y-%m-%d %H:%M}"
                problem = f"this machine's clock says {now}, but {what} was written at {then} (UTC)"
                self._warn("", problem, "set the clock, and have it kept right (NTP)")

    def _traffic(self, server: ServerSection) -> None:
        needed, most = files_needed(limits_of_worker(server, workers=server.workers)), most_open_files()
        if most is not None and needed > most:
            problem = f"it needs {needed} open files, and this account may have {most}"
            self._warn(
                "server.max_connections", problem, "raise the limit (LimitNOFILE= of systemd), or lower the number"
            )
        if server.max_connections_per_address >= server.max_connections > 1:
            problem = "one address may take all connections"
            self._warn("server.max_connections_per_address", problem, f"write less than {server.max_connections}")
        if server.max_requests_per_minute_per_address == 0:
            problem = "one address may send any number of requests"
            self._warn("server.max_requests_per_minute_per_address", problem, "write a number, or take the key out")

    def _ports(self, server: ServerSection) -> None:
        self._port("server.listen", server.listen)
        if server.admin_listen is not None:
            self._port("server.admin_listen", server.admin_listen)

    def _port(self, key: str, address: Address) -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            self._error(
                key, f"{address.host} has no address: {error.strerror or error}", "write an address of this machine"
            )
            return
        for family, kind, protocol, _, where in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind(where)
                    probe.listen(1)
                except OSError as error:
                    self._refused_port(key, address, error)
                    return

    def _refused_port(self, key: str, address: Address, error: OSError) -> None:
        if error.errno == errno.EADDRINUSE:
            # no error: whoever changes the configuration of a running server checks it before the restart
            problem = f"another process listens on {address}"
            self._warn(key, problem, "stop it if it is not this very server, or write another port")
        elif error.errno == errno.EACCES:
            problem = f"this account may not listen on port {address.port}"
            self._error(key, problem, "write a port from 1024 on, or give the service CAP_NET_BIND_SERVICE")
        else:
            problem = f"{address} cannot be listened on: {error.strerror or error}"
            self._error(key, problem, "write an address of this machine")


def _secrets(models: Iterable[BaseModel]) -> Iterator[str]:
    for model in models:
        for name in type(model).model_fields:
            value: object = getattr(model, name)
            if isinstance(value, SecretStr):
                yield value.get_secret_value()
            elif isinstance(value, BaseModel):
                yield from _secrets([value])


def _strings(values: object) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for value in cast("dict[str, object]", values).values():
            yield from _strings(value)
    elif isinstance(values, list):
        for value in cast("list[object]", values):
            yield from _strings(value)
