"""Which credential wins, and which denial is heard (the chapter, Authentication Precedence; RULES C3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kipuka.testing.pki import SERVER_AUTH, make_csr, make_root

pytestmark = pytest.mark.server

UNKNOWN = "certificate signed by unknown authority"
EXPIRED = "client certificate expired"
NOT_FOR_CLIENTS = "client certificate not valid for client authentication"
INVALID = "invalid OTP token"

CERTIFICATES = {
    "none": (None, None),
    "good": (lambda authority: authority.issue_client("holder"), None),
    "expired": (
        lambda authority: authority.issue_client("holder", not_after=datetime.now(UTC) - timedelta(minutes=1)),
        EXPIRED,
    ),
    "wrong EKU": (lambda authority: authority.issue("holder", extended_key_usage=(SERVER_AUTH,)), NOT_FOR_CLIENTS),
    "foreign": (lambda _authority: make_root("Foreign").issue_client("holder"), UNKNOWN),
}
CASES = [
    # certificate, token: who wins, or the text that is heard
    ("none", "right", "otp"),
    ("none", "wrong", INVALID),
    ("good", "none", "mtls"),
    ("good", "right", "mtls"),
    ("good", "wrong", "mtls"),
    ("expired", "right", "otp"),
    ("wrong EKU", "right", "otp"),
    ("foreign", "right", "otp"),
    ("expired", "wrong", EXPIRED),
    ("wrong EKU", "wrong", NOT_FOR_CLIENTS),
    ("foreign", "wrong", UNKNOWN),
    ("expired", "none", EXPIRED),
    ("wrong EKU", "none", NOT_FOR_CLIENTS),
    ("foreign", "none", UNKNOWN),
]


@pytest.fixture(scope="module")
def server(kipuka_server):
    return kipuka_server


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize(("certificate", "token", "expected"), CASES)
def test_any_method_that_is_good_wins_and_the_first_denial_is_heard(server, certificate, token, expected, version):
    """The chapter, Authentication Precedence; RULES A3, C3."""
    make, text = CERTIFICATES[certificate]
    presented = None if make is None else make(server.deployment.authority())
    made = server.make_token("bearer-of-token")
    value = {"none": None, "right": made.value, "wrong": "x" * 20}[token]
    before = server.last_sequence
    answer = server.client(presented, tls_version=version).enroll(make_csr(common_name="whatever"), token=value)
    if expected in {"mtls", "otp"}:
        assert answer.status == 200, answer.text
        assert (
            answer.certificate.subject.rfc4514_string() == {"mtls": "CN=holder", "otp": "CN=bearer-of-token"}[expected]
        )
        issued = server.wait_for_audit("certificate_issued", after=before)
        assert issued["data"]["method"] == expected
    else:
        assert (answer.status, answer.text) == (401, expected)
        assert answer.all("WWW-Authenticate")[0].startswith("Basic ")
    denied = []
    if text is not None:
        denied.append("mtls")
    if token == "wrong" and expected != "mtls":
        denied.append("otp")
    for method in denied:
        failed = server.wait_for_audit("authentication_failed", after=before, method=method)
        assert failed["client_address"] == "127.0.0.1"
    assert server.view_token(made)["used"] == (1 if expected == "otp" else 0)


def test_every_denial_is_in_the_audit_log_with_one_request_id(server):
    """DESIGN, precedence: the client hears the first, the audit log has them all."""
    before = server.last_sequence
    foreign = make_root("Foreign").issue_ca("Theirs").issue_client("holder")
    answer = server.client(foreign).enroll(make_csr(), token="y" * 20)
    assert answer.text == UNKNOWN
    mtls = server.wait_for_audit("authentication_failed", after=before, method="mtls")
    otp = server.wait_for_audit("authentication_failed", after=before, method="otp")
    assert mtls["request_id"] == otp["request_id"] == answer.header("X-Request-Id")
    assert (mtls["data"]["reason"], otp["data"]["reason"]) == ("unknown_authority", "unknown_token")


def test_the_configured_order_ranks_the_methods(kipuka_servers):
    """RULES K4: `[auth] order`; the first in it is asked first, and heard first."""
    server = kipuka_servers({"auth": {"order": ["otp", "mtls"]}})
    holder = server.deployment.authority().issue_client("holder")
    token = server.make_token("bearer-of-token")
    won = server.client(holder).enroll(make_csr(), token=token.value)
    assert won.certificate.subject.rfc4514_string() == "CN=bearer-of-token"
    foreign = make_root("Foreign").issue_client("holder")
    assert server.client(foreign).enroll(make_csr(), token="z" * 20).text == INVALID


def test_a_method_that_is_off_is_not_asked(kipuka_servers):
    """RULES K4: `enabled = false`; without another method only a certificate would do, and no challenge is of use."""
    server = kipuka_servers({"otp": {"enabled": False}})
    answer = server.client().enroll(make_csr(), token="t" * 20)
    assert (answer.status, answer.text) == (403, "client certificate required")
    assert answer.all("WWW-Authenticate") == []


def test_a_label_may_take_fewer_methods(kipuka_servers):
    """`[[est.label]] auth`: what is on for the server may be off at a label."""
    server = kipuka_servers(
        {"est": {"label": [{"name": "renewals", "auth": ["mtls"]}, {"name": "tokens", "auth": ["otp"]}]}}
    )
    holder = server.deployment.authority().issue_client("holder")
    csr = make_csr(key=holder.key)
    refused = server.client().enroll(make_csr(), label="renewals", token="t" * 20)
    assert (refused.status, refused.text) == (403, "client certificate required")
    assert server.client(holder).enroll(csr, label="renewals").status == 200
    assert server.client(holder).enroll(csr, label="tokens").status == 401
    token = server.make_token("tokened", label="tokens")
    assert server.client(holder).enroll(make_csr(), label="tokens", token=token.value).status == 200
