"""The authenticator by client certificate turns the host's verdict into an outcome."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kipuka.api import (
    Authenticated,
    CertificateProblem,
    ClientCertificate,
    Connection,
    Credentials,
    DenialKind,
    Denied,
    NotPresented,
    Operation,
)
from kipuka.mtls import ClientAuth, ClientCertificateAuthenticator, check
from kipuka.testing.pki import make_root

CONNECTION = Connection(
    id="c", listener="est", client_address="127.0.0.1", client_port=1, tls_version="TLSv1.3", cipher="x"
)


@pytest.fixture(scope="module")
def leaf():
    return make_root().issue_client("ws42", dns=("ws42.example",)).certificate


async def ask(judged, *, mode="optional", operation=Operation.SIMPLEENROLL, tmp="anchors.pem"):
    authenticator = ClientCertificateAuthenticator(ClientAuth(mode=mode, trust_anchors=tmp))
    return await authenticator.authenticate(
        Credentials(connection=CONNECTION, operation=operation, label=None, client_certificate=judged)
    )


async def test_a_good_certificate_is_its_subject_with_its_names(leaf):
    outcome = await ask(ClientCertificate(certificate=leaf))
    assert isinstance(outcome, Authenticated)
    assert outcome.identity.name == "CN=ws42"
    assert outcome.identity.subject == leaf.subject
    assert [name.value for name in outcome.identity.permitted_names] == ["ws42.example"]
    assert outcome.claim is None


@pytest.mark.parametrize("problem", list(CertificateProblem))
async def test_a_certificate_with_a_problem_is_denied_with_its_text(leaf, problem):
    """RULES B3, B5: the texts. Who is known, and only not let in here, is not permitted (RULES C3)."""
    outcome = await ask(ClientCertificate(certificate=leaf, problem=problem, reason="why"))
    assert isinstance(outcome, Denied)
    foreign = problem is CertificateProblem.NOT_ENROLLED_HERE
    kind = DenialKind.NOT_PERMITTED if foreign else DenialKind.WRONG
    assert (outcome.detail, outcome.reason, outcome.kind) == (problem.value, "why", kind)


async def test_no_certificate_is_not_presented():
    assert await ask(None) == NotPresented()


async def test_in_mode_none_a_certificate_does_not_count(leaf):
    """RULES A5: no certificate is asked for."""
    assert await ask(ClientCertificate(certificate=leaf), mode="none") == NotPresented()


@pytest.mark.parametrize(
    ("operation", "recorded", "kind"),
    [
        (Operation.SIMPLEREENROLL, False, Denied),
        (Operation.SIMPLEREENROLL, True, Authenticated),
        (Operation.SIMPLEENROLL, False, Authenticated),
    ],
)
async def test_required_for_reenroll_wants_a_recorded_certificate_at_reenrolment(leaf, operation, recorded, kind):
    """RULES A4: the certificate must be one that this server has recorded."""
    judged = ClientCertificate(certificate=leaf, recorded=recorded)
    outcome = await ask(judged, mode="required_for_reenroll", operation=operation)
    assert isinstance(outcome, kind)


def test_anchors_are_never_implied():
    """RULES A5: a mode that needs anchors says so."""
    with pytest.raises(ValidationError, match="needs trust_anchors"):
        ClientAuth(mode="required")


def test_anchors_without_a_mode_mean_optional():
    """RULES A5."""
    assert ClientAuth(trust_anchors="anchors.pem").mode == "optional"


def test_mode_none_is_warned_about():
    assert [finding.severity for finding in check(ClientAuth(mode="none"))] == ["warning"]
    assert list(check(ClientAuth(trust_anchors="anchors.pem"))) == []
