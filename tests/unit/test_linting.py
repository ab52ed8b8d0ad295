"""Every certificate that kipuka makes passes a linter that others wrote: those of CAs here, those of devices when the servers of the suite stop."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.pki import make_root
from kipuka.testing.server import Deployment
from tests.linting import Linting, lint, shape

ROOT = make_root("Linted")


def certificates(file):
    return x509.load_pem_x509_certificates(file.read_bytes())


def der(certificate):
    return certificate.public_bytes(Encoding.DER)


def test_a_certificate_that_breaks_a_rule_is_told():
    """RFC 5280, 4.2.2.1: authority information access is never critical. Were nothing told here, nothing was looked at."""
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                x509.AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://ocsp.example")
            )
        ]
    )
    bad = ROOT.issue("ws42", extensions=(x509.Extension(access.oid, True, access),)).der
    said = lint(bad, ROOT.der)
    assert said
    assert all(line.startswith(("ERROR", "WARNING")) for line in said)
    stranger = make_root("Linted")
    good = ROOT.issue_client("ws42").der
    assert [line.split()[1] for line in lint(good, ROOT.der)] == []
    assert lint(good, stranger.der) != []


def test_a_shape_is_linted_once_and_a_bad_one_each_time(monkeypatch):
    linting = Linting()
    good = [ROOT.issue_client(f"device-{number}").der for number in (1, 2, 33)]
    asked = []
    monkeypatch.setattr("tests.linting.lint", lambda der, issuer: asked.append(der) or [])
    assert list(linting._examine(good, {})) == []
    assert asked == good[:1]
    monkeypatch.setattr("tests.linting.lint", lambda der, issuer: ["ERROR pkix.x"])
    other = ROOT.issue_client("device-1", dns=("a.example",)).der
    assert [text.splitlines()[1] for text in linting._examine([good[0], other, other], {})] == ["ERROR pkix.x"] * 2


def test_what_differs_in_more_than_letters_and_figures_has_another_shape():
    shapes = {
        shape(ROOT.issue_client(**changes).certificate)
        for changes in (
            {"subject": "device-1"},
            {"subject": "device 1"},
            {"subject": "device-1", "dns": ("a.example",)},
            {"subject": "device-1", "dns": ("a-b.example",)},
            {"subject": "device-1", "key": "p384"},
        )
    }
    assert len(shapes) == 5
    assert shape(ROOT.issue_client("a1").certificate) == shape(ROOT.issue_client("b22").certificate)


def test_what_init_makes_passes(kipuka_template: Deployment):
    """The root, the issuing CA and the server's own certificate."""
    files = {name: kipuka_template.directory / name for name in ("trust.pem", "tls/server.pem")}
    (server, *_) = certificates(files["tls/server.pem"])
    (item,) = kipuka_template.settings["ca"]
    issuing = certificates(kipuka_template.directory / item["cert"])[0]
    root = certificates(kipuka_template.directory / item["chain"])[-1]
    assert lint(der(root), der(root)) == []
    assert lint(der(issuing), der(root)) == []
    assert lint(der(server), der(issuing)) == []


@pytest.mark.parametrize("kind", ["rsa3072", "p384", "ed25519"])
def test_a_ca_that_is_created_passes(kipuka_template: Deployment, tmp_path, kind):
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    deployment.kipuka("ca", "create", "new", "--id", "new", "--common-name", "Straße CA", "--key-type", kind)
    (root, *_), (issuing, *_) = (
        certificates(deployment.directory / "new" / f"{name}.pem") for name in ("root", "issuing")
    )
    assert lint(der(root), der(root)) == []
    assert lint(der(issuing), der(root)) == []
