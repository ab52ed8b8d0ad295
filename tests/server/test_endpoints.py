"""The chapter's endpoint table, under each mode of `[tls.client_auth]`, on one listener (RULES A2 to A5, C3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.pki import SERVER_AUTH, Credential, make_csr, make_root

pytestmark = pytest.mark.server

MODES = ("none", "optional", "required", "required_for_reenroll")
REFUSED = "the handshake fails"
REQUIRED = (403, "client certificate required")
CHALLENGED = (401, "")


@pytest.fixture(scope="module")
def servers(kipuka_servers):
    running = {}

    def get(mode):
        if mode not in running:
            changes = {"mode": "none", "trust_anchors": None} if mode == "none" else {"mode": mode}
            running[mode] = kipuka_servers({"tls": {"client_auth": changes}})
        return running[mode]

    return get


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def server(servers, mode):
    return servers(mode)


@pytest.fixture
def device(server):
    """A certificate of this server's CA: by its issuance not yet in the record, in it after a first enrolment."""
    return server.deployment.authority().issue_client("device-1")


def outcome(act):
    """What became of a request: its status and the text of a refusal, or that no HTTP octet came."""
    try:
        answer = act()
    except ConnectionError:
        return REFUSED
    return (answer.status, answer.text if answer.status >= 400 else None)


TABLE = {
    # operation, credential: mode none, optional, required, required_for_reenroll
    ("cacerts", "nothing"): [(200, None), (200, None), REFUSED, (200, None)],
    ("cacerts", "certificate"): [(200, None), (200, None), (200, None), (200, None)],
    ("csrattrs", "nothing"): [(204, None), (204, None), REFUSED, (204, None)],
    ("csrattrs", "certificate"): [(204, None), (204, None), (204, None), (204, None)],
    ("simpleenroll", "nothing"): [CHALLENGED, CHALLENGED, REFUSED, CHALLENGED],
    ("simpleenroll", "token"): [(200, None), (200, None), REFUSED, (200, None)],
    ("simpleenroll", "certificate"): [CHALLENGED, (200, None), (200, None), (200, None)],
    ("simplereenroll", "nothing"): [REQUIRED, REQUIRED, REFUSED, REQUIRED],
    ("simplereenroll", "token"): [REQUIRED, REQUIRED, REFUSED, REQUIRED],
    ("serverkeygen", "nothing"): [CHALLENGED, CHALLENGED, REFUSED, CHALLENGED],
    ("serverkeygen", "token"): [(200, None), (200, None), REFUSED, (200, None)],
    ("serverkeygen", "certificate"): [CHALLENGED, (200, None), (200, None), (200, None)],
    ("fullcmc", "nothing"): [(404, ...), (404, ...), REFUSED, (404, ...)],
    ("fullcmc", "certificate"): [(404, ...), (404, ...), (404, ...), (404, ...)],
}


@pytest.mark.parametrize("case", TABLE, ids="-".join)
def test_each_endpoint_asks_what_the_table_says(server, mode, case, device):
    """The chapter, Authentication per Endpoint; RULES A2, A3, A5, C3."""
    operation, credential = case
    expected = TABLE[case][MODES.index(mode)]
    token = None
    if credential == "token":
        token = server.make_token(certificate=device if mode == "required" else None).value
    client = server.client(device if credential == "certificate" else None)
    csr = make_csr(key=device.key) if credential == "certificate" else make_csr()

    def act():
        if operation in {"cacerts", "csrattrs"}:
            return client.request("GET", f"/.well-known/est/{operation}")
        return client.enroll(csr, operation=operation, token=token)

    got = outcome(act)
    if isinstance(expected, tuple) and expected[1] is ...:
        assert got[0] == expected[0]
    else:
        assert got == expected


@pytest.mark.parametrize(
    ("mode", "recorded", "expected"),
    [
        ("none", True, REQUIRED),
        ("optional", True, 200),
        ("optional", False, 200),
        ("required", True, 200),
        ("required", False, 200),
        ("required_for_reenroll", True, 200),
        ("required_for_reenroll", False, 403),
    ],
    indirect=["mode"],
)
def test_reenrolment_takes_a_certificate_of_this_ca(server, mode, recorded, expected):
    """RULES A4, A5, B5: recorded or issued before kipuka; the first only where the mode asks for it."""
    name = f"reenrolling-{mode}-{recorded}"
    device = server.deployment.authority().issue_client(name)
    if recorded and mode != "none":
        issued = server.client(device).enroll(make_csr(common_name=name, key=device.key)).certificate
        device = Credential(key=device.key, der=issued.public_bytes(Encoding.DER))
    got = outcome(lambda: server.client(device).reenroll(make_csr(common_name=name, key=device.key)))
    if isinstance(expected, tuple):
        assert got == expected
    else:
        assert got[0] == expected


@pytest.mark.parametrize("mode", ["required"], indirect=True)
@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_in_mode_required_no_http_octet_comes_without_a_known_certificate(server, version):
    """RULES A2; the failed handshake is audited with its reason."""
    # The first few failures of an address are told one by one; other tests have used those of 127.0.0.1.
    address = "127.0.0.12" if version == "TLSv1.2" else "127.0.0.13"
    for certificate in (None, make_root("Foreign").issue_client()):
        before = server.last_sequence
        with pytest.raises(ConnectionError):
            server.client(certificate, tls_version=version).calling_from(address).cacerts()
        failed = server.wait_for_audit("handshake_failed", after=before)
        assert failed["outcome"] == "failure"
        assert failed["client_address"] == address
        assert failed["data"]["listener"] == "est"
        assert failed["data"]["reason"]


@pytest.mark.parametrize("mode", ["required"], indirect=True)
@pytest.mark.usefixtures("mode")
def test_in_mode_required_another_shortcoming_is_a_403_whatever_else_is_presented(server):
    """RULES A2: expired, for servers only: the handshake is good, the request is not; a right token does not help."""
    authority = server.deployment.authority()
    token = server.make_token("device-2", certificate=authority.issue_client("helper")).value
    expired = authority.issue_client("device-2", not_after=datetime.now(UTC) - timedelta(minutes=5))
    server_only = authority.issue("device-2", extended_key_usage=(SERVER_AUTH,))
    for certificate, text in (
        (expired, "client certificate expired"),
        (server_only, "client certificate not valid for client authentication"),
    ):
        answer = server.client(certificate).enroll(make_csr(common_name="device-2"), token=token)
        assert (answer.status, answer.text) == (403, text)
        assert answer.all("WWW-Authenticate") == []


@pytest.mark.parametrize("mode", ["none"], indirect=True)
@pytest.mark.usefixtures("mode")
def test_in_mode_none_no_certificate_is_asked_for(server, device):
    """RULES A5: nobody is tempted to pick a certificate, and one that is offered does not matter."""
    with server.client(device).connect() as connection:
        answer = connection.request("GET", "/.well-known/est/cacerts")
    assert answer.status == 200
    refused = server.client(device).reenroll(make_csr(key=device.key))
    assert (refused.status, refused.text) == REQUIRED


def test_a_token_that_was_shown_where_only_a_certificate_counts_is_untouched(servers):
    """The chapter: for endpoints requiring mTLS only mTLS is evaluated."""
    server = servers("optional")
    token = server.make_token()
    for _ in range(3):
        answer = server.client().enroll(make_csr(), operation="simplereenroll", token=token.value)
        assert (answer.status, answer.text) == REQUIRED
    assert server.view_token(token)["used"] == 0
    assert server.client().enroll(make_csr(), token=token.value).status == 200


def test_anchors_without_a_mode_mean_optional(kipuka_servers):
    """RULES A5."""
    server = kipuka_servers({"tls": {"client_auth": {"mode": None}}})
    device = server.deployment.authority().issue_client("device-1")
    assert server.client().cacerts().status == 200
    assert server.client(device).enroll(make_csr(key=device.key)).status == 200


def test_without_the_section_nobody_is_asked_for_a_certificate(kipuka_servers):
    """RULES A5."""
    server = kipuka_servers({"tls": {"client_auth": None}})
    device = server.deployment.authority().issue_client("device-1")
    refused = server.client(device).reenroll(make_csr(key=device.key))
    assert (refused.status, refused.text) == REQUIRED
