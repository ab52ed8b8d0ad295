"""The plugins in docs/plugins, loaded, opened and used as they stand on the page."""

from __future__ import annotations

import asyncio
import socket
import types
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kipuka import plugins
from kipuka.api import AuditRecord, Authenticated, Authorization, Denied, Issued, NotPresented, Order
from kipuka.testing.harness import credentials
from kipuka.x509.issued import mismatch
from kipuka.x509.names import subject_for

from .pages import ROOT, blocks

EXAMPLES = {
    word.removeprefix("plugin="): block.text
    for page in sorted((ROOT / "docs" / "plugins").glob("*.md"))
    for block in blocks(page)
    for word in block.info[1:]
    if word.startswith("plugin=")
}


class PlainServices:
    """The one service that the examples use."""

    async def run_blocking(self, fn, /, *arguments, **named):
        return await asyncio.to_thread(fn, *arguments, **named)


def loaded(name):
    """The plugin of the page, through kipuka's own loader."""
    module = types.ModuleType(name)
    exec(compile(EXAMPLES[name], f"docs/plugins ({name})", "exec", dont_inherit=True), module.__dict__)
    candidate = plugins.Candidate(name=name, value=name, distribution="docs", version="1", load=lambda: module)
    return plugins.load([candidate], {name: "the document"})


def test_every_kind_of_plugin_has_an_example():
    assert set(EXAMPLES) == {"badge", "vault", "datagram"}


@pytest.mark.parametrize(
    ("presented", "expected"),
    [
        pytest.param(Authorization(scheme="badge", parameters="b-17"), Authenticated, id="known"),
        pytest.param(Authorization(scheme="badge", parameters="b-18"), Denied, id="unknown"),
        pytest.param(Authorization(scheme="badge", parameters="\udc80"), Denied, id="garbage"),
        pytest.param(Authorization(scheme="basic", parameters="b-17"), NotPresented, id="another scheme"),
        pytest.param(None, NotPresented, id="nothing"),
    ],
)
async def test_the_authenticator_of_the_page_recognises_badges(tmp_path, presented, expected):
    (tmp_path / "badges.txt").write_text("b-17 device-1\n", encoding="utf-8")
    kind = loaded("badge").authenticators["badge"]
    settings = kind.config.model_validate({"file": "badges.txt"}, context={"base": tmp_path})
    async with kind.open(settings, PlainServices()) as opened:
        assert isinstance(await opened.authenticate(credentials(authorization=presented)), expected)


async def test_the_backend_of_the_page_signs_what_was_ordered(tmp_path):
    kind = loaded("vault").ca_backends["vault"]
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC).replace(microsecond=0)
    root = (
        x509.CertificateBuilder()
        .subject_name(subject_for("Vault"))
        .issuer_name(subject_for("Vault"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    (tmp_path / "chain.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "issuing.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    device = ec.generate_private_key(ec.SECP256R1()).public_key()
    names = x509.SubjectAlternativeName([x509.DNSName("a.example")])
    order = Order(
        id="1",
        ca="main",
        subject=subject_for("device-1"),
        public_key=device.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        extensions=(x509.Extension(names.oid, False, names),),
        not_before=now,
        not_after=now + timedelta(days=400),
        csr=b"",
    )
    settings = kind.config.model_validate({"cert": "chain.pem", "key": "issuing.key"}, context={"base": tmp_path})
    async with kind.open(settings, PlainServices()) as opened:
        assert (await opened.ca_certificates()).root == root
        answer = await opened.issue(order)
    assert isinstance(answer, Issued)
    assert mismatch(order, answer.certificate, root) is None


async def test_the_sink_of_the_page_sends_records_unchanged():
    kind = loaded("datagram").audit_sinks["datagram"]
    record = AuditRecord(
        node="n",
        sequence=1,
        time=datetime.now(UTC),
        event="e",
        outcome="success",
        request_id=None,
        client_address=None,
        identity=None,
        data={},
        previous_hash="0" * 64,
        hash="1" * 64,
        line="{}",
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(10)
        settings = kind.config.model_validate({"host": "127.0.0.1", "port": collector.getsockname()[1]})
        async with kind.open(settings, PlainServices()) as opened:
            await opened.write([record])
            got = await asyncio.to_thread(collector.recv, 65535)
    assert got.decode() == record.to_json()
