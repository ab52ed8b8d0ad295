"""What `kipuka check` says of settings that work, and that the documents advise against.

In the room: pure functions from settings to findings. Not in the room: the files that settings name (`kipuka.cli.check`),
and plugins' sections (their own `check`).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from datetime import timedelta
from urllib.parse import parse_qsl, unquote, urlsplit

from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.api import Finding
from kipuka.audit.syslog.settings import SyslogSettings
from kipuka.config import Address, AdminSection, CAItem, Known, Label, Settings
from kipuka.mtls import ClientAuth
from kipuka.x509.profiles import Profile
from kipuka.x509.purposes import CMC_RA

__all__ = ["LONG_VALIDITY", "advice", "client_auth", "periods", "postgresql_advice"]

LONG_VALIDITY = timedelta(days=825)
"""Devices renew by themselves, so that nothing but habit asks for more; a key that was stolen is good for as long."""

LONG_WINDOW = timedelta(days=1)

SHORT_GRACE = timedelta(days=1)

_GUESSED = ("", "admin", "changeme", "kipuka", "password", "secret", "test", "token")
_GUESSED_HASHES = {f"sha256:{hashlib.sha256(word.encode()).hexdigest()}" for word in _GUESSED}


def advice(settings: Settings) -> Iterator[Finding]:
    """Everything that settings alone show, in the order of the configuration reference."""
    yield from _proxies(settings)
    yield from _modes(settings)
    for label in settings.labels.values():
        yield from _label(settings, label)
    yield from _replays(settings)
    yield from _authorities(settings)
    yield from _validity(settings)
    yield from _profiles(settings)
    yield from _encrypted_keys(settings)
    if settings.admin is not None:
        yield from _admin(settings, settings.admin)
    yield from _sinks(settings)
    if settings.log.level == "debug":
        yield _warning("log.level", "debug tells more of clients than a log should", 'write level = "info"')


def client_auth(settings: Known) -> ClientAuth | None:
    """`[tls.client_auth]`, where it is on."""
    section = settings.authenticators.get("mtls")
    return section if isinstance(section, ClientAuth) else None


def periods(settings: Settings, item: CAItem) -> Iterator[tuple[str, str, timedelta]]:
    """For each profile that this CA signs for: where its validity is written, its name ("" where it is the CA's), and how
    long that is.
    """
    profiles = {label.profile.name: label.profile for label in settings.labels.values() if label.ca == item.id}
    if any(profile.validity is None for profile in profiles.values()):
        capped = [profile.validity_under(item.validity) for profile in profiles.values() if profile.validity is None]
        yield f"ca[{item.id}].validity_days", "", max(capped)
    for profile in profiles.values():
        if profile.validity is not None:
            yield f"profile[{profile.name}].validity_days", profile.name, profile.validity


def postgresql_advice(url: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Of a PostgreSQL URL, and of what libpq takes from the environment where the URL is silent."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    hosts = (options.get("host") or unquote(parts.netloc.rpartition("@")[2]) or environ.get("PGHOST", "")).split(",")
    over_network = any(host and not host.startswith(("/", "@")) for host in hosts)
    sslmode = options.get("sslmode") or environ.get("PGSSLMODE") or "prefer"
    if over_network and sslmode != "verify-full":
        problem = f"with sslmode={sslmode} whoever is between this server and the database can be the database"
        yield _warning("db.url", problem, "add ?sslmode=verify-full&sslrootcert=PATH to the URL, or use a Unix socket")
    if "synchronous_commit" in options.get("options", "") + environ.get("PGOPTIONS", ""):
        problem = (
            "synchronous_commit among its options has no effect below on: every commit is on disk before it is answered"
        )
        yield _warning("db.url", problem, "take it out")


def _warning(key: str, problem: str, remedy: str) -> Finding:
    return Finding(severity="warning", key=key, problem=problem, remedy=remedy)


def _proxies(settings: Settings) -> Iterator[Finding]:
    """RULES C4: whoever may send a PROXY header has whatever address he likes."""
    if any(network.prefixlen == 0 for network in settings.server.proxy_protocol_from):
        problem = "every client may say that it has any address, and so is never locked out"
        yield _warning("server.proxy_protocol_from", problem, "write the addresses of your load balancers")


def _modes(settings: Settings) -> Iterator[Finding]:
    """RULES A2: what mode = "required" closes, and what it makes needless."""
    section = client_auth(settings)
    if section is None or section.mode != "required":
        return
    key = "tls.client_auth.mode"
    remedy = 'write mode = "optional", or give new devices trust anchors and a first certificate another way'
    yield _warning(key, "cacerts and every other path are closed to newcomers, who have no certificate yet", remedy)
    admin = settings.admin
    shared = settings.server.admin_listen is None
    if admin is not None and shared and admin.takes_bearer_tokens and admin.certificates != "required":
        problem = "administrators with a bearer token and no client certificate cannot connect"
        yield _warning(key, problem, "write admin_listen in [server], so that /admin has a listener of its own")
    for name in settings.authenticators:
        if name != "mtls":
            problem = "everybody who can connect has a client certificate: this method lets nobody else in"
            yield _warning(name, problem, "take the section out when every device has a certificate")


def _label(settings: Settings, label: Label) -> Iterator[Finding]:
    """What a path says of clients and operations itself, or takes from the path without a label."""
    key = "est" if label.name is None else f"est.label[{label.name}]"
    section = client_auth(settings)
    if (section is None or section.mode == "none") and any("mtls" in members for members in label.require):
        problem = "no client certificate is asked for, so nobody meets a set that has mtls"
        yield _warning(f"{key}.require", problem, 'write mode = "optional" and trust_anchors in [tls.client_auth]')
    if label.operations is not None and "cacerts" not in label.operations:
        problem = "clients cannot fetch the CA's certificates, which RFC 7030 wants everywhere"
        yield _warning(f"{key}.operations", problem, "add cacerts")
    if any(pattern.is_anything for pattern in label.foreign_clients):
        problem = "one of the patterns demands no character of a name: every certificate of that form fits it"
        yield _warning(f"{key}.foreign_clients", problem, "write what tells your clients from others, such as O=Maker")


def _replays(settings: Settings) -> Iterator[Finding]:
    """RULES D4: a lost answer is asked for again at once, or when a device comes back into reach."""
    windows = {"est.replay_window": settings.est.replay_window}
    for item in settings.est.label:
        if item.replay_window is not None:
            windows[f"est.label[{item.name}].replay_window"] = item.replay_window
    for key, window in windows.items():
        if window > LONG_WINDOW:
            hours = f"{window / timedelta(hours=1):g} hours"
            problem = f"who comes by a used token and the request it was used with gets the same answer for {hours}"
            yield _warning(key, problem, "write 600: devices ask again within minutes")


def _authorities(settings: Settings) -> Iterator[Finding]:
    """RULES F4: a pattern that everybody fits leaves the usage alone to tell who may ask for others."""
    for name, label in settings.labels.items():
        key = "est.registration_authorities" if name is None else f"est.label[{name}].registration_authorities"
        if any(pattern.is_anything for pattern in label.registration_authorities):
            problem = (
                "one of the patterns demands no character of a name: every certificate with the usage cmcRA fits it"
            )
            yield _warning(key, problem, "write what tells registration authorities from others, such as OU=RA")


def _validity(settings: Settings) -> Iterator[Finding]:
    told: set[str] = set()
    for item in settings.cas:
        for key, _, validity in periods(settings, item):
            if validity > LONG_VALIDITY and key not in told:
                told.add(key)
                days = f"{validity / timedelta(days=1):g} days"
                problem = f"certificates are valid for {days}, and a stolen key as long"
                yield _warning(key, problem, f"write {LONG_VALIDITY.days} or fewer: devices renew by themselves")


def _profiles(settings: Settings) -> Iterator[Finding]:
    used = {label.profile.name: label.profile for label in settings.labels.values()}
    for name, profile in settings.profiles.items():
        if name in used:
            yield from _profile(f"profile[{name}]", profile)
            yield from _pointers(f"profile[{name}]", profile)
            authorities = {label.ca for label in settings.labels.values() if label.profile.name == name}
            if len(authorities) > 1 and (profile.ca_issuers or profile.ocsp or profile.crl_distribution_points):
                problem = f"it names the places of one CA, and {' and '.join(sorted(authorities))} issue by it"
                yield _warning(f"profile[{name}]", problem, "write a profile for each CA")
        elif name != "default":
            remedy = "name it in default_profile or in a label, or take it out"
            yield _warning(f"profile[{name}]", "no label uses this profile", remedy)


def _encrypted_keys(settings: Settings) -> Iterator[Finding]:
    """RULES J1: what is demanded of clients must be possible for one of them."""
    for name, label in settings.labels.items():
        if not label.profile.require_encrypted_key:
            continue
        key = f"profile[{label.profile.name}].require_encrypted_key"
        where = "at the path without a label" if name is None else f"at the label {name}"
        if not label.serverkeygen:
            yield _warning(
                key, f"no keys are made {where}: it says nothing there", "write serverkeygen = true, or take it out"
            )
        elif "mtls" not in label.auth and settings.est.serverkeygen_recipients is None:
            problem = (
                f"nobody {where} has a key to name: there are no client certificates, and no recipients are listed"
            )
            yield _warning(key, problem, "write serverkeygen_recipients in [est]")


def _profile(key: str, profile: Profile) -> Iterator[Finding]:
    if profile.names == "csr":
        patterns = [
            *((f"{key}.subject_patterns.{name}", globs) for name, globs in profile.subject_patterns.items()),
            *((f"{key}.san_patterns.{name}", globs) for name, globs in profile.san_patterns.items()),
        ]
        if not any(globs for _, globs in patterns):
            problem = 'names = "csr" without patterns refuses every name, and so every request'
            yield _warning(key, problem, "write subject_patterns or san_patterns")
        for place, globs in patterns:
            if any(_is_anything(glob) for glob in globs):
                problem = "every client may have any name here, also another's"
                yield _warning(place, problem, 'narrow the pattern, or write names = "identity"')
    if profile.wildcards:
        problem = "a certificate may stand for every host of a domain"
        yield _warning(f"{key}.wildcards", problem, "write wildcards = false, and name each host")
    if not profile.unique_keys:
        problem = "one key may be certified for several identities"
        yield _warning(f"{key}.unique_keys", problem, "write unique_keys = true")
    yield from _renewals(key, profile)
    yield from _usages(key, profile)
    if profile.copy_extensions:
        problem = "what these extensions say is the client's word, and the CA signs it"
        yield _warning(f"{key}.copy_extensions", problem, "copy only what nobody decides by")


def _usages(key: str, profile: Profile) -> Iterator[Finding]:
    usages = profile.extended_key_usage
    if CMC_RA in usages:
        problem = "its certificates are those of registration authorities, who can have certificates issued in any name where they are listed"
        yield _warning(f"{key}.extended_key_usage", problem, "take cmcRA out unless that is what the profile is for")
    if not usages:
        problem = "certificates without extended key usage are good for anything"
        yield _warning(f"{key}.extended_key_usage", problem, 'write extended_key_usage = ["clientAuth"]')
    if ExtendedKeyUsageOID.SERVER_AUTH in usages and profile.names == "csr":
        problem = "every client that may enrol gets a certificate for each server that the patterns fit"
        yield _warning(f"{key}.extended_key_usage", problem, 'write names = "identity", or patterns of one server each')
    if profile.key_usage is not None and "digitalSignature" not in profile.key_usage:
        problem = "no client can prove itself with such a certificate, and so none can renew (rule B1)"
        yield _warning(f"{key}.key_usage", problem, "add digitalSignature")


def _pointers(key: str, profile: Profile) -> Iterator[Finding]:
    """RFC 5280, section 8: whoever fetches a CRL over HTTPS may need a CRL to do so."""
    for name in ("ca_issuers", "ocsp", "crl_distribution_points"):
        uris: tuple[str, ...] = getattr(profile, name)
        if any(uri.startswith("https:") for uri in uris):
            problem = "to fetch it over https takes a certificate that was checked already"
            yield _warning(f"{key}.{name}", problem, "write http: what is there is signed")


def _renewals(key: str, profile: Profile) -> Iterator[Finding]:
    if profile.allow_expired_for:
        problem = "a certificate that has expired still renews, and so does whoever has its key"
        yield _warning(f"{key}.allow_expired_for", problem, "write 0, and have devices renew while they are valid")
    if profile.revoke_replaced_after is not None and profile.revoke_replaced_after < SHORT_GRACE:
        problem = "a device that has lost the answer to its renewal loses the certificate that it has, before it can ask again"
        yield _warning(f"{key}.revoke_replaced_after", problem, "write 86400 or more")


def _is_anything(glob: str) -> bool:
    return not glob.strip("*.@/") or glob in {"0.0.0.0/0", "::/0"}


def _admin(settings: Settings, admin: AdminSection) -> Iterator[Finding]:
    if admin.tls is not None and admin.tls.mode == "none":
        problem = "certificates of administrators are not looked at, whatever else the section says"
        yield _warning(
            "admin.tls.mode", problem, 'write mode = "required" or mode = "optional", or take [admin.tls] out'
        )
    if admin.tls is not None and admin.tls.mode != "none" and any(item.is_anything for item in admin.tls.patterns):
        problem = "one of the patterns demands no character of a name: every certificate of that form fits it"
        yield _warning("admin.tls.allow", problem, "write what tells administrators from others, such as OU=Admins")
    own = settings.server.admin_listen
    if own is not None and admin.certificates == "none" and _is_everywhere(own):
        problem = "the admin API can be reached over every network, and a bearer token is all that it asks for"
        yield _warning(
            "server.admin_listen", problem, "write an address that only administrators reach, or [admin.tls]"
        )
    if admin.bearer_token is None:
        return
    key = "admin.bearer_token.tokens"
    hashes = [item.token_hash for item in admin.bearer_token.tokens]
    for token_hash in dict.fromkeys(hashes):
        if hashes.count(token_hash) > 1:
            problem = f"two tokens have the same hash ({token_hash[:15]}...)"
            yield _warning(key, problem, "give each administrator a token")
        if token_hash in _GUESSED_HASHES:
            problem = f"the token with the hash {token_hash[:15]}... is a word that anybody guesses"
            yield _warning(key, problem, "take it out, and make one with `kipuka admin token create`")


def _is_everywhere(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_unspecified
    except ValueError:
        return False


def _sinks(settings: Settings) -> Iterator[Finding]:
    remedy = 'write [[audit.sink]] with type = "file" and path'
    if not settings.sinks:
        yield _warning("audit.sink", "audit events are kept in the database only", remedy)
    elif all(item.type == "stdout" for item in settings.sinks):
        problem = "the only sink is stdout, which keeps nothing itself"
        yield _warning("audit.sink", problem, f"have a collector keep it, or {remedy}")
    for item in settings.sinks:
        if (
            item.on_failure == "block"
            and isinstance(item.settings, SyslogSettings)
            and item.settings.transport == "udp"
        ):
            problem = "it blocks nothing: over UDP a collector that is away is not noticed"
            yield _warning(
                f"audit.sink[{item.id}].on_failure", problem, 'write transport = "tls", or take on_failure out'
            )
    if settings.audit.node_key is None:
        problem = "nothing signs the audit log: whoever can write the database can write it anew unnoticed"
        yield _warning("audit.node_key", problem, "make a key with `kipuka audit key create`, and name it here")
