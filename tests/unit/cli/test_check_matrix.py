"""Every weak setting, one row each: what `kipuka check` says of it, how severe it is, and what it tells to do.

A row lays changes over a deployment that `kipuka init` made, of which nothing is said. docs/reference/check.md tells
users of every row.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from kipuka.cli import mounts
from kipuka.cli.check import check_file, run_check
from kipuka.runtime import compose
from kipuka.testing.pki import CLIENT_AUTH, make_root

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "check.md"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
YEARS = 700 * DAY
EMPTY_HASH = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- what a row does to a deployment besides its changes


def writes(name, make):
    """A file with that content."""
    return lambda deployment: (deployment.directory / name).write_bytes(make(deployment))


def modes(name, mode):
    return lambda deployment: (deployment.directory / name).chmod(mode)


def server_certificate(**changes):
    """Another certificate for the server, of another CA."""

    def put(deployment):
        arguments = {"dns": ["localhost"], "not_before": NOW - DAY, "not_after": NOW + YEARS, **changes}
        issuer = arguments.pop("issuer", lambda _deployment: make_root(not_after=NOW + YEARS))(deployment)
        holder = issuer.issue("server", **arguments)
        (deployment.directory / "tls" / "server.pem").write_bytes(holder.pem)
        (deployment.directory / "tls" / "server.key").write_bytes(holder.key_pem())

    return put


def authority(**changes):
    """Another CA in place of the deployment's own."""

    def put(deployment):
        (item,) = deployment.settings["ca"]
        root = make_root("Root", not_before=NOW - 2 * DAY, not_after=NOW + 3 * YEARS)
        issuing = root.issue_ca("Issuing", **{"not_before": NOW - DAY, "not_after": NOW + 2 * YEARS, **changes})
        (deployment.directory / item["cert"]).write_bytes(issuing.pem)
        (deployment.directory / item["chain"]).write_bytes(root.pem)
        (deployment.directory / item["key"]).write_bytes(issuing.key_pem())

    return put


def in_the_future(name):
    def touch(deployment):
        later = (NOW + 3 * DAY).timestamp()
        os.utime(deployment.directory / name, (later, later))

    return touch


def public_root(_deployment):
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "DigiCert Inc"),
            x509.NameAttribute(NameOID.COMMON_NAME, "DigiCert Global Root X1"),
        ]
    )
    return make_root("x", not_after=NOW + YEARS).issue(name, ca=True, not_after=NOW + YEARS).pem


def bundle(_deployment):
    root = make_root(not_after=NOW + YEARS)
    return b"".join(root.issue_ca(f"CA {number}", not_after=NOW + YEARS).pem for number in range(21))


def anchors(make):
    return writes("client-anchors.pem", make)


def own_authority(deployment):
    return deployment.authority().pem


def device(_deployment):
    return make_root().issue_client("device-1").pem


def root_of(**changes):
    return lambda _deployment: make_root("Anchor", **{"not_after": NOW + YEARS, **changes}).pem


AIA = x509.Extension(
    x509.AuthorityInformationAccess.oid,
    critical=False,
    value=x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.example/i.cer")
            )
        ]
    ),
)

CLIENT_AUTH_NONE = {"tls": {"client_auth": {"mode": "none"}}}
REQUIRED = {"tls": {"client_auth": {"mode": "required"}}}
ADMIN_TLS = {"mode": "optional", "trust_anchors": "admin-anchors.pem"}
EVERYWHERE = {"server": {"admin_listen": "0.0.0.0:0"}}


def admin_tls(**changes):
    return {"admin": {"tls": {**ADMIN_TLS, **changes}}}


def tokens(*hashes):
    items = [{"token_hash": token_hash, "description": f"{place}"} for place, token_hash in enumerate(hashes)]
    return {"admin": {"bearer_token": {"tokens": items}}}


def syslog(**changes):
    return {"audit": {"sink": [{"type": "syslog", "id": "far", "address": "127.0.0.1:514", **changes}]}}


def profile(**changes):
    return {"profile": [{"name": "default", **changes}]}


def label(**changes):
    return {"est": {"label": [{"name": "vpn", **changes}]}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What is said, as a severity, a key and words of the two sentences; and what makes it so."""

    severity: str
    key: str
    problem: str
    remedy: str
    changes: dict
    steps: tuple


def row(severity, key, problem, remedy, *, changes=None, arrange=(), id):  # noqa: A002 - as pytest calls it
    steps = (arrange,) if callable(arrange) else arrange
    told = Row(severity=severity, key=key, problem=problem, remedy=remedy, changes=changes or {}, steps=steps)
    return pytest.param(told, id=id)


def warning(key, problem, remedy, **more):
    return row("warning", key, problem, remedy, **more)


def error(key, problem, remedy, **more):
    return row("error", key, problem, remedy, **more)


MATRIX = [
    # the file itself, and the clock
    warning(
        "", "others than its owner can change it", "chmod go-w", arrange=modes("kipuka.toml", 0o620), id="open file"
    ),
    warning(
        "",
        "the configuration was written at",
        "set the clock",
        arrange=in_the_future("kipuka.toml"),
        id="clock behind the configuration",
    ),
    warning(
        "", "the database was written at", "NTP", arrange=in_the_future("kipuka.db"), id="clock behind the database"
    ),
    warning(
        "plugins.disabled",
        "no installed plugin is called opt",
        "did you mean otp?",
        changes={"plugins": {"disabled": ["opt"]}},
        id="disabled plugin that is none",
    ),
    # [server]
    error(
        "server.listen",
        "cannot be listened on",
        "an address of this machine",
        changes={"server": {"listen": "192.0.2.1:8443"}},
        id="address of another machine",
    ),
    warning(
        "server.admin_listen",
        "a bearer token is all that it asks for",
        "only administrators reach",
        changes=EVERYWHERE,
        id="admin everywhere without certificates",
    ),
    warning(
        "server.proxy_protocol_from",
        "every client may say that it has any address",
        "your load balancers",
        changes={"server": {"proxy_protocol_from": ["10.0.0.0/8", "0.0.0.0/0"]}},
        id="PROXY headers from everywhere",
    ),
    warning(
        "server.proxy_protocol_from",
        "never locked out",
        "your load balancers",
        changes={"server": {"proxy_protocol_from": ["::/0"]}},
        id="PROXY headers from everywhere over IPv6",
    ),
    # [tls]
    warning(
        "tls.key", "others than the server can read", "chmod 600", arrange=modes("tls/server.key", 0o644), id="key"
    ),
    error(
        "tls.key",
        "not the key of the certificate",
        "the key that the certificate was made for",
        arrange=writes("tls/server.key", lambda _deployment: make_root().key_pem()),
        id="key of another",
    ),
    error(
        "tls.cert", "there is no file", "one that is there", changes={"tls": {"cert": "no.pem"}}, id="no certificate"
    ),
    error(
        "tls.cert",
        "expired on",
        "replace it",
        arrange=server_certificate(not_before=NOW - 3 * DAY, not_after=NOW - DAY),
        id="expired",
    ),
    error(
        "tls.cert",
        "is not valid before",
        "look at the clock",
        arrange=server_certificate(not_before=NOW + DAY),
        id="not yet valid",
    ),
    warning(
        "tls.cert", "expires on", "in time", arrange=server_certificate(not_after=NOW + 9 * DAY), id="expires soon"
    ),
    warning(
        "tls.cert",
        "no subject alternative name",
        "the server's DNS names",
        arrange=server_certificate(dns=[]),
        id="no names",
    ),
    error(
        "tls.cert",
        "key is weak: RSA-1024",
        "use P-256",
        arrange=server_certificate(key="rsa1024"),
        id="weak server key",
    ),
    error("tls.cert", "signed with SHA1", "SHA-256", arrange=server_certificate(signature="sha1"), id="SHA-1"),
    error(
        "tls.cert",
        "leaves out server authentication",
        "serverAuth",
        arrange=server_certificate(extended_key_usage=(CLIENT_AUTH,)),
        id="not for servers",
    ),
    warning(
        "tls.cert",
        "the intermediate certificate of CN=",
        "append it",
        arrange=server_certificate(issuer=lambda deployment: deployment.authority()),
        id="intermediate of our own missing",
    ),
    warning(
        "tls.cert",
        "the server's certificate alone",
        "append the intermediate certificates",
        arrange=server_certificate(extensions=(AIA,)),
        id="intermediate of others missing",
    ),
    # [tls.client_auth]
    warning(
        "tls.client_auth",
        "nobody can re-enrol",
        "write [tls.client_auth]",
        changes={"tls": {"client_auth": None}},
        id="no client certificates",
    ),
    warning(
        "tls.client_auth.mode",
        "client certificates are not verified",
        'mode = "optional"',
        changes=CLIENT_AUTH_NONE,
        id="A5: mode none",
    ),
    warning(
        "tls.client_auth.mode",
        "closed to newcomers",
        'mode = "optional"',
        changes=REQUIRED,
        id="A2: required closes cacerts",
    ),
    warning(
        "tls.client_auth.mode",
        "administrators with a bearer token and no client certificate cannot connect",
        "write admin_listen",
        changes=REQUIRED,
        id="A2: required closes the admin API",
    ),
    warning("otp", "this method lets nobody else in", "take the section out", changes=REQUIRED, id="needless tokens"),
    error(
        "tls.client_auth.trust_anchors",
        "is not a CA certificate",
        "take it out of the file",
        arrange=anchors(device),
        id="anchor that is no CA",
    ),
    warning(
        "tls.client_auth.trust_anchors",
        "expired on",
        "replace it",
        arrange=anchors(root_of(not_before=NOW - 3 * DAY, not_after=NOW - DAY)),
        id="expired anchor",
    ),
    warning(
        "tls.client_auth.trust_anchors",
        "looks like a public CA",
        "CAs that sign your clients only",
        arrange=anchors(public_root),
        id="public anchor",
    ),
    warning(
        "tls.client_auth.trust_anchors",
        "like a bundle for browsers",
        "client certificates you know",
        arrange=anchors(bundle),
        id="bundle of anchors",
    ),
    warning(
        "tls.client_auth.trust_anchors",
        "weak key (RSA-1024): no certificate under it is accepted",
        "have the CA renewed",
        arrange=anchors(root_of(key="rsa1024")),
        id="weak anchor",
    ),
    # [est]
    warning(
        "est.replay_window",
        "gets the same answer for 24.5 hours",
        "write 600",
        changes={"est": {"replay_window": 88_200}},
        id="long replay window",
    ),
    warning(
        "est.label[lab].replay_window",
        "gets the same answer for 720 hours",
        "write 600",
        changes={"est": {"label": [{"name": "lab", "replay_window": 30 * 86400}]}},
        id="long replay window of a label",
    ),
    # [db]
    error(
        "db.url", "there is no database", "kipuka db upgrade", changes={"db": {"url": "sqlite:///no.db"}}, id="no db"
    ),
    warning("db.url", "others than the server can read", "chmod 600", arrange=modes("kipuka.db", 0o644), id="open db"),
    warning(
        "db.url",
        "with sslmode=prefer whoever is between",
        "sslmode=verify-full",
        changes={"db": {"url": "postgresql://kipuka@db.example/kipuka"}},
        id="PostgreSQL without a certificate",
    ),
    warning(
        "db.url",
        "synchronous_commit among its options has no effect",
        "take it out",
        changes={"db": {"url": "postgresql:///kipuka?options=-csynchronous_commit%3Doff"}},
        id="PostgreSQL without syncs",
    ),
    error(
        "db.url",
        "PostgreSQL has no option sslmod",
        "mend it",
        changes={"db": {"url": "postgresql://kipuka@db.example/kipuka?sslmod=require"}},
        id="PostgreSQL has no such option",
    ),
    warning(
        "db.url",
        "another file in the database's place",
        "chmod o-w",
        arrange=modes("", 0o707),
        id="open folder of the db",
    ),
    # [[ca]]
    error(
        "ca[main].cert",
        "is not valid before",
        "look at the clock",
        arrange=authority(not_before=NOW + DAY),
        id="clock behind the CA",
    ),
    warning("ca[main].cert", "expires on", "renewed", arrange=authority(not_after=NOW + 9 * DAY), id="CA near its end"),
    warning(
        "ca[main].key",
        "others than the server can read",
        "chmod 600",
        arrange=modes("ca/issuing.key", 0o644),
        id="CA key",
    ),
    warning(
        "ca[main].validity_days",
        "would outlive the CA",
        "fewer validity_days",
        arrange=authority(not_after=NOW + 100 * DAY),
        id="CA ends first",
    ),
    # [[profile]]
    warning(
        "profile[default].validity_days",
        "a stolen key as long",
        "devices renew by themselves",
        changes=profile(validity_days=900),
        id="long validity",
    ),
    warning(
        "profile[default]",
        "refuses every name",
        "write subject_patterns",
        changes=profile(names="csr"),
        id="csr without patterns",
    ),
    warning(
        "profile[default].subject_patterns.CN",
        "any name here, also another's",
        'names = "identity"',
        changes=profile(names="csr", subject_patterns={"CN": ["*"]}),
        id="any subject",
    ),
    warning(
        "profile[default].san_patterns.dns",
        "any name here, also another's",
        "narrow the pattern",
        changes=profile(names="csr", san_patterns={"dns": ["*.*"]}),
        id="any alternative name",
    ),
    warning(
        "profile[default].wildcards",
        "every host of a domain",
        "wildcards = false",
        changes=profile(wildcards=True),
        id="wildcards",
    ),
    warning(
        "profile[default].unique_keys",
        "one key may be certified for several",
        "unique_keys = true",
        changes=profile(unique_keys=False),
        id="shared keys",
    ),
    warning(
        "profile[ra].extended_key_usage",
        "registration authorities",
        "take cmcRA out",
        changes={
            "profile": [{"name": "ra", "extended_key_usage": ["clientAuth", "cmcRA"]}],
            "est": {"label": [{"name": "ra", "profile": "ra"}]},
        },
        id="registration authorities' certificates",
    ),
    warning(
        "est.label[vpn].registration_authorities",
        "every certificate with the usage cmcRA fits it",
        "such as OU=RA",
        changes=label(registration_authorities=["CN=*"]),
        id="any registration authority",
    ),
    warning(
        "est.registration_authorities",
        "every certificate with the usage cmcRA fits it",
        "such as OU=RA",
        changes={"est": {"registration_authorities": ["dns:*"]}},
        id="any registration authority without a label",
    ),
    warning(
        "profile[default].revoke_replaced_after",
        "has lost the answer",
        "write 86400 or more",
        changes=profile(revoke_replaced_after=3600),
        id="replaced certificates revoked soon",
    ),
    warning(
        "profile[default].allow_expired_for",
        "has expired still renews",
        "write 0",
        changes=profile(allow_expired_for=60),
        id="expired certificates",
    ),
    warning(
        "profile[default].extended_key_usage",
        "good for anything",
        "clientAuth",
        changes=profile(extended_key_usage=[]),
        id="no usage",
    ),
    warning(
        "profile[spare]",
        "no label uses this profile",
        "take it out",
        changes={"profile": [{"name": "default"}, {"name": "spare"}]},
        id="unused profile",
    ),
    # methods and labels
    warning(
        "auth",
        "nobody can enrol",
        "write [tls.client_auth] or [otp]",
        changes={"plugins": {"disabled": ["mtls", "otp"]}},
        id="no method",
    ),
    warning(
        "est.label[vpn].auth",
        "nobody can enrol",
        "name another one",
        changes={"plugins": {"disabled": ["otp"]}, **label(auth=["otp"])},
        id="label without a method",
    ),
    warning(
        "est.label[vpn].client_anchors",
        "looks like a public CA",
        "CAs that sign your clients only",
        changes=label(client_anchors="partner.pem"),
        arrange=writes("partner.pem", public_root),
        id="public anchor of a label",
    ),
    # [otp]
    warning(
        "otp.hash_algorithm",
        "can try tokens quickly",
        "argon2id",
        changes={"otp": {"hash_algorithm": "sha256-hmac"}},
        id="hash",
    ),
    warning(
        "otp.token_length", "20 or more", "token_length = 20", changes={"otp": {"token_length": 19}}, id="short token"
    ),
    warning(
        "otp.max_uses", "good for 10 certificates", "max_uses = 1", changes={"otp": {"max_uses": 10}}, id="many uses"
    ),
    warning(
        "otp.max_ttl",
        "made good for 90 days",
        "max_ttl = 2592000",
        changes={"otp": {"max_ttl": 90 * 86400}},
        id="max_ttl",
    ),
    warning(
        "otp.default_ttl",
        "does not say for 14 days",
        "default_ttl = 604800",
        changes={"otp": {"default_ttl": 14 * 86400}},
        id="default_ttl",
    ),
    warning(
        "otp.lookup_key", "others than the server can read", "chmod 600", arrange=modes("otp.key", 0o644), id="otp.key"
    ),
    error("otp.lookup_key", "gone.key", "head -c 32", changes={"otp": {"lookup_key": "gone.key"}}, id="no otp.key"),
    # [admin]
    error(
        "admin",
        "nobody could sign in",
        "[admin.tls]",
        changes={"admin": {"bearer_token": None}},
        id="E2: admin without a method",
    ),
    error(
        "admin.tls.allow",
        "every device could administer",
        "write allow in [admin.tls]",
        changes=admin_tls(),
        arrange=writes("admin-anchors.pem", own_authority),
        id="E2: our own CA signs administrators",
    ),
    warning(
        "admin.tls.allow",
        "is an anchor of EST's clients too",
        "signed by a CA of their own",
        changes=admin_tls(),
        arrange=(
            anchors(root_of()),
            lambda deployment: writes(
                "admin-anchors.pem", lambda _: (deployment.directory / "client-anchors.pem").read_bytes()
            )(deployment),
        ),
        id="one anchor for devices and administrators",
    ),
    warning(
        "admin.tls.allow",
        "demands no character",
        "OU=Admins",
        changes=admin_tls(allow=["CN=*"]),
        arrange=writes("admin-anchors.pem", root_of()),
        id="a pattern that everybody fits",
    ),
    warning(
        "admin.tls.mode",
        "are not looked at",
        'mode = "required"',
        changes=admin_tls(mode="none"),
        id="E1: mode none",
    ),
    error(
        "admin.tls.trust_anchors", "there is no file", "one that is there", changes=admin_tls(), id="no admin anchors"
    ),
    warning(
        "admin.tls.trust_anchors",
        "looks like a public CA",
        "CAs that sign your clients only",
        changes=admin_tls(),
        arrange=writes("admin-anchors.pem", public_root),
        id="public admin anchor",
    ),
    warning(
        "admin.bearer_token.tokens",
        "two tokens have the same hash",
        "give each administrator a token",
        changes=tokens("sha256:" + "0" * 64, "sha256:" + "0" * 64),
        id="one token for two",
    ),
    warning(
        "admin.bearer_token.tokens",
        "a word that anybody guesses",
        "kipuka admin token create",
        changes=tokens(EMPTY_HASH),
        id="guessed token",
    ),
    # [audit], [log]
    warning("audit.sink", "in the database only", "[[audit.sink]]", changes={"audit": None}, id="no sink"),
    warning(
        "audit.sink",
        "stdout, which keeps nothing",
        "have a collector keep it",
        changes={"audit": {"sink": [{"type": "stdout"}]}},
        id="stdout only",
    ),
    warning(
        "audit.sink[far].on_failure",
        "it blocks nothing: over UDP",
        'transport = "tls"',
        changes=syslog(transport="udp", on_failure="block"),
        id="nothing blocks over UDP",
    ),
    warning("log.level", "debug tells more", 'level = "info"', changes={"log": {"level": "debug"}}, id="debug"),
]


@pytest.fixture
def look(deployment):
    """What is found after changes and arrangements, findings in their order."""

    def check(changes, steps=()):
        deployment.configure({"server": {"listen": "127.0.0.1:0"}})
        deployment.configure(changes)
        for step in steps:
            step(deployment)
        return check_file(deployment.config_file, {})

    return check


@pytest.mark.parametrize("row", MATRIX)
def test_a_weak_setting_is_told_with_its_remedy(look, row):
    found = look(row.changes, row.steps)
    told = [finding for finding in found if finding.key == row.key and row.problem in finding.problem]
    assert [finding.severity for finding in told] == [row.severity], "\n".join(map(str, found))
    assert row.remedy in told[0].remedy


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as kipuka init writes it"),
        pytest.param({"server": {"listen": "0.0.0.0:0"}}, id="for devices everywhere"),
        pytest.param({"server": {"proxy_protocol_from": ["10.0.0.0/8", "::1"]}}, id="behind load balancers"),
        pytest.param({"server": {"listen": "0.0.0.0:0", "admin_listen": "127.0.0.1:0"}}, id="admin for itself"),
        pytest.param(
            {**EVERYWHERE, **admin_tls(mode="required", allow=["CN=alice"])}, id="administrators by certificate"
        ),
        pytest.param(admin_tls(), id="administrators of a CA of their own"),
        pytest.param(profile(names="csr", subject_patterns={"CN": ["*.example.com"]}), id="names within patterns"),
        pytest.param(profile(validity_days=825), id="the longest validity that is advised"),
        pytest.param({"est": {"replay_window": 86400}}, id="the longest replay window that is advised"),
        pytest.param({"audit": {"sink": [{"type": "stdout"}, {"type": "file", "path": "a.jsonl"}]}}, id="two sinks"),
    ],
)
def test_of_a_sound_configuration_nothing_is_said(look, deployment, changes):
    (deployment.directory / "admin-anchors.pem").write_bytes(root_of()(deployment))
    assert look(changes) == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(syslog(transport="udp", on_failure="continue"), id="nothing is to be blocked"),
        pytest.param(syslog(transport="tcp", on_failure="block"), id="a connection is noticed"),
    ],
)
def test_a_sink_that_can_block_or_need_not_is_not_told_so(look, changes):
    assert "audit.sink[far].on_failure" not in {finding.key for finding in look(changes)}


@pytest.mark.parametrize("kind", sorted(mounts.NETWORK))
def test_a_database_on_a_file_system_of_the_network_is_told(look, deployment, monkeypatch, tmp_path, kind):
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/root rw\n2 1 0:9 / {deployment.directory.resolve()} rw,x shared:1 - {kind} x:/ rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", table)
    (found,) = look({})
    assert (found.severity, found.key) == ("warning", "db.url")
    assert f"is on {kind}, where SQLite's locks" in found.problem
    assert found.remedy == "keep the database on a disk of this machine"


def test_a_port_that_another_process_has_is_told(look):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        (found,) = look({"server": {"listen": f"127.0.0.1:{holder.getsockname()[1]}"}})
    assert (found.severity, found.key) == ("warning", "server.listen")


def test_a_clock_that_is_far_behind_is_told_by_everything(deployment):
    """A machine without a battery wakes up in another decade."""
    composition = compose(deployment.config_file, {})
    found = run_check(composition.settings, composition.plugins, now=datetime(2001, 1, 1, tzinfo=UTC), ports=False)
    problems = [finding.problem for finding in found]
    assert sum("this machine's clock says 2001-01-01" in problem for problem in problems) == 2
    assert any("is not valid before" in problem for problem in problems)


def test_users_are_told_of_every_row():
    """docs/reference/check.md has a line for each severity and key, with [...] for the name of an item."""
    page = PAGE.read_text(encoding="utf-8")
    told = set(re.findall(r"^\| (error|warning) \| `([^`]*)` \|", page, re.MULTILINE))
    told_of = [param.values[0] for param in MATRIX]
    rows = {(row.severity, re.sub(r"\[.*?\]", "[...]", row.key) or "(the file)") for row in told_of}
    rows = {(severity, re.sub(r"_patterns\.\w+", "_patterns", key)) for severity, key in rows}
    assert rows - told == set()
