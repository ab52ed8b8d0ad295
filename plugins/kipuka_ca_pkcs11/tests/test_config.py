"""The keys of the [[ca]] item, and what `kipuka check` finds: all of it at once, each with its key and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from kipuka_ca_pkcs11 import cryptoki
from kipuka_ca_pkcs11.config import PKCS11CASettings, check_settings
from kipuka_ca_pkcs11.tokens import KeyPlace, find_token
from pkcs11 import Attribute, KeyType, MechanismFlag
from pydantic import ValidationError

from kipuka.api import StartupError
from kipuka.testing.pki import make_root

from .softhsm import MODULE, PIN

GOOD = {
    "cert": "ca.pem",
    "module": str(MODULE),
    "token": "kipuka",
    "key_label": "issuing",
    "pin": "4711",
}
WRONG = [
    pytest.param({"token": None}, "neither token nor serial", id="no token"),
    pytest.param({"key_label": None}, "neither key_label nor key_id", id="no key"),
    pytest.param({"pin": ""}, "the pin is empty", id="empty pin"),
    pytest.param({"pin": None}, "Field required", id="no pin"),
    pytest.param({"key_id": "xyz"}, "octets in hexadecimal", id="no hexadecimal"),
    pytest.param({"key_id": ""}, "octets in hexadecimal", id="empty id"),
    pytest.param({"rsa_padding": "oaep"}, "pkcs1v15", id="padding"),
    pytest.param({"sessions": 0}, "greater than or equal to 1", id="no session"),
    pytest.param({"timeout": 0}, "greater than", id="no time"),
    pytest.param({"keylabel": "x"}, "Extra inputs", id="unknown key"),
]


def errors_of(values):
    return [one for one in check_settings(PKCS11CASettings.model_validate(values)) if one.severity == "error"]


def warnings_of(values):
    found = list(check_settings(PKCS11CASettings.model_validate(values)))
    assert [one for one in found if one.severity == "error"] == []
    return [one for one in found if one.key != "cert"]


@pytest.mark.parametrize(("changes", "text"), WRONG)
def test_a_wrong_item_is_refused_and_says_why(changes, text):
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ValidationError, match=text):
        PKCS11CASettings.model_validate(values)


def test_the_pin_is_in_no_text_of_the_settings():
    settings = PKCS11CASettings.model_validate({**GOOD, "pin": "pin-8421"})
    place = KeyPlace(module=MODULE, token="t", serial=None, key_label="k", key_id=None, pin="pin-8421")
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json(), repr(place)):
        assert "8421" not in text


def test_a_good_item_has_no_finding(item, issuing):
    assert warnings_of(item(issuing)) == []


def test_a_key_is_found_by_its_id_alone_and_a_token_by_its_serial_number(hsm, item, issuing):
    values = item(issuing)
    serial = hsm.util("--show-slots").split("Serial number:")[1].split()[0]
    for change in (
        {"key_label": None, "key_id": "0001"},
        {"token": None, "serial": serial},
        {"key_id": "00:01".replace(":", "")},
    ):
        changed = {key: value for key, value in {**values, **change}.items() if value is not None}
        assert errors_of(changed) == []


MISSING = [
    pytest.param(
        {"token": "nobodys"}, "token", "there is no token with the label 'nobodys'; there is 'kipuka'", id="token"
    ),
    pytest.param({"serial": "0000"}, "token", "and with the serial number '0000'", id="serial"),
    pytest.param({"key_label": "other"}, "key_label", "the labels of those it has: 'issuing'", id="key"),
    pytest.param({"key_id": "ffff"}, "key_label", "with the id ffff", id="id"),
    pytest.param({"module": "/nowhere/lib.so"}, "module", "there is no file /nowhere/lib.so", id="module"),
    pytest.param({"pin": "wrong-one-8421"}, "pin", "does not take the PIN: PinIncorrect", id="pin"),
]


@pytest.mark.parametrize(("change", "key", "text"), MISSING)
def test_what_is_not_there_is_an_error_with_its_key(*, hsm, item, issuing, change, key, text):
    (found,) = errors_of(item(issuing, **change))
    assert found.key == key
    assert text in found.problem
    assert found.remedy
    assert hsm.pin not in f"{found}"
    assert "8421" not in f"{found}"


def test_a_file_that_is_no_pkcs11_library_is_an_error(item, issuing, tmp_path):
    (tmp_path / "text.so").write_text("no library", encoding="ascii")
    for path in (tmp_path / "text.so", Path("/lib/x86_64-linux-gnu/libc.so.6")):
        if path.exists():
            (found,) = errors_of(item(issuing, module=str(path), key_label="issuing"))
            assert found.key == "module"
            assert "cannot be loaded as a PKCS#11 library" in found.problem


def test_certificate_and_module_are_told_together(item, issuing):
    found = errors_of(item(issuing, cert="/nowhere/ca.pem", module="/nowhere/lib.so"))
    assert [one.key for one in found] == ["cert", "module"]


def test_two_keys_of_one_label_are_refused_until_one_is_named_by_its_id(hsm, item, issuing):
    values = item(issuing)
    hsm.bring(make_root().issue_ca("Another"))
    (found,) = errors_of(values)
    assert found.key == "key_label"
    assert "there are 2 private keys like that" in found.problem
    assert "0001, 0002" in found.problem
    assert "key_id" in found.remedy
    assert errors_of({**values, "key_id": "0001"}) == []


def test_two_tokens_of_one_label_are_refused_until_one_is_named_by_its_serial_number(hsm, item, issuing):
    values = item(issuing)
    serial = hsm.util("--show-slots").split("Serial number:")[1].split()[0]
    hsm.make_token()
    (found,) = errors_of(values)
    assert found.key == "token"
    assert serial in found.problem
    assert errors_of({**values, "serial": serial}) == []


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
async def test_a_key_that_is_not_the_certificates_is_refused(*, hsm, item, issuing, open_ca, kind):
    values = item(issuing)
    hsm.bring(make_root().issue_ca("Another", key=kind), label="another")
    values["key_label"] = "another"
    (found,) = errors_of(values)
    assert found.key == "key_label"
    assert "not the key of the certificate" in found.problem or "is of the type RSA" in found.problem
    with pytest.raises(StartupError, match="key_label: "):
        await open_ca(values)


async def test_a_ca_whose_certificates_make_none_does_not_open(item, issuing, open_ca):
    with pytest.raises(StartupError, match="cert: "):
        await open_ca(item(issuing, cert="/nowhere/ca.pem"))


def test_a_certificate_with_a_key_that_pkcs11_is_not_used_for_is_refused(item, issuing, tmp_path):
    edwards = make_root().issue_ca("Edwards", key="ed25519")
    (tmp_path / "edwards.pem").write_bytes(edwards.pem + edwards.root.pem)
    (found,) = errors_of(item(issuing, cert=str(tmp_path / "edwards.pem")))
    assert (found.key, "neither RSA" in found.problem) == ("cert", True)


def test_a_key_that_may_leave_the_token_is_warned_of(item, issuing, tmp_path):
    """It takes a key that was made so: the tools of SoftHSM make none."""
    values = item(issuing)
    place = KeyPlace(module=MODULE, token="kipuka", serial=None, key_label="loose", key_id=None, pin=PIN)
    module = cryptoki.borrow(MODULE)
    try:
        module.restart(module.generation, patience=5)
        with module.work(patience=5) as library:
            token = find_token(library, place)
            module.login(token, PIN, attended=True)
            session = token.open(rw=True)
            public, _private = session.generate_keypair(
                KeyType.RSA,
                2048,
                label="loose",
                id=b"\\7",
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                private_template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
            )
            modulus = int.from_bytes(public[Attribute.MODULUS], "big")
    finally:
        cryptoki.give_back(module)
    from cryptography.hazmat.primitives.asymmetric import rsa

    issuer = certificate_for(rsa.RSAPublicNumbers(65537, modulus).public_key())
    (tmp_path / "loose.pem").write_bytes(issuer)
    found = warnings_of({**values, "cert": str(tmp_path / "loose.pem"), "key_label": "loose"})
    assert [(one.severity, one.key) for one in found] == [("warning", "key_label"), ("warning", "key_label")]
    assert "CKA_EXTRACTABLE" in found[0].problem
    assert "CKA_SENSITIVE" in found[1].problem


def certificate_for(public_key) -> bytes:
    """A CA certificate and its root for a key that was made elsewhere, in PEM."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from kipuka_ca_local.creation import certify

    root = make_root()
    made = certify(
        subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Loose CA")]),
        public_key=public_key,
        issuer=root.certificate.subject,
        issuer_key=root.key,
        now=datetime.now(UTC).replace(microsecond=0),
        lifetime=timedelta(days=365),
        path_length=0,
    )
    return made.public_bytes(Encoding.PEM) + root.pem
