"""`kipuka ca create --backend pkcs11`: keys on the token, certificates in files, and nothing left behind when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from kipuka_ca_pkcs11 import creation, cryptoki
from kipuka_ca_pkcs11.config import PKCS11CASettings, check_settings
from kipuka_ca_pkcs11.creation import PKCS11CACreator
from kipuka_ca_pkcs11.tokens import KeyPlace, find_token
from pkcs11 import Attribute

from kipuka.api import CAPlan, StartupError

from .softhsm import MODULE, PIN


@pytest.fixture(name="plan")
def _plan(hsm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pin").write_text(hsm.pin + "\n", encoding="ascii")

    def make(options=None, **changes):
        values = {
            "id": "main",
            "directory": tmp_path / "ca",
            "common_name": "Test CA",
            "key_type": "p256",
            "root_days": 7300,
            "issuing_days": 3650,
            "options": {"module": str(MODULE), "token": "kipuka", "pin": "file:pin", **(options or {})},
            **changes,
        }
        return CAPlan(**values)

    return make


def labels(token="kipuka") -> list[str]:
    """Of every object on the token."""
    place = KeyPlace(module=MODULE, token=token, serial=None, key_label=None, key_id=None, pin=PIN)
    module = cryptoki.borrow(MODULE)
    try:
        module.restart(module.generation, patience=5)
        with module.work(patience=5) as library:
            found = find_token(library, place)
            module.login(found, PIN, attended=True)
            return sorted(str(one[Attribute.LABEL]) for one in found.open().get_objects())
    finally:
        cryptoki.give_back(module)


KINDS = [("p256", ec.EllipticCurvePublicKey, 256), ("p384", ec.EllipticCurvePublicKey, 384), ("p521", ec.EllipticCurvePublicKey, 521), ("rsa2048", rsa.RSAPublicKey, 2048)]  # fmt: skip


@pytest.mark.parametrize(("key_type", "kind", "size"), KINDS, ids=[one[0] for one in KINDS])
async def test_root_and_issuing_ca_are_made_and_can_be_used(*, plan, open_ca, make_order, key_type, kind, size):
    made = PKCS11CACreator().create(plan(key_type=key_type))
    issuing, root = made.chain.certificates
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert isinstance(issuing.public_key(), kind)
    assert issuing.public_key().key_size == size
    assert issuing.public_key() != root.public_key()
    assert labels() == ["main", "main", "main-root", "main-root"]
    assert dict(made.settings)["pin"] == f"file:{Path.cwd() / 'pin'}"
    assert PIN not in str(made)
    assert list(check_settings(PKCS11CASettings.model_validate(dict(made.settings)))) == []
    authority = await open_ca(dict(made.settings))
    (await authority.issue(make_order())).certificate.verify_directly_issued_by(issuing)


def test_the_root_can_be_made_on_another_token(hsm, plan):
    hsm.make_token("vault")
    made = PKCS11CACreator().create(plan({"root_token": "vault", "root_pin": "file:pin"}))
    assert labels() == ["main", "main"]
    assert labels("vault") == ["main-root", "main-root"]
    made.chain.certificates[0].verify_directly_issued_by(made.chain.certificates[1])


def test_nothing_is_overwritten(plan, tmp_path):
    PKCS11CACreator().create(plan())
    before = {file: file.read_bytes() for file in (tmp_path / "ca").iterdir()}
    with pytest.raises(FileExistsError, match="is never overwritten"):
        PKCS11CACreator().create(plan({"key_label": "else"}))
    with pytest.raises(FileExistsError, match="there is a key with the label 'main-root'"):
        PKCS11CACreator().create(plan(directory=tmp_path / "second"))
    assert labels() == ["main", "main", "main-root", "main-root"]
    assert {file: file.read_bytes() for file in (tmp_path / "ca").iterdir()} == before


def test_when_a_file_cannot_be_written_the_new_keys_are_destroyed(plan, monkeypatch):
    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(creation, "write_all", fail)
    with pytest.raises(OSError, match="No space left"):
        PKCS11CACreator().create(plan())
    assert labels() == []


REFUSED = [
    pytest.param({"options": {"token": "nobodys"}}, "there is no token with the label 'nobodys'", id="token"),
    pytest.param({"options": {"module": "/nowhere/lib.so"}}, "there is no file /nowhere/lib.so", id="module"),
    pytest.param({"options": {"pin": "4711-in-the-open"}}, "seen by everybody", id="pin in the command line"),
    pytest.param({"options": {"pin": "file:nowhere"}}, "cannot read", id="pin file"),
    pytest.param({"options": {"label": "x"}}, "label: Extra inputs", id="unknown option"),
    pytest.param({"options": {"root_token": "vault"}}, "go together", id="half a root"),
    pytest.param({"key_type": "ed25519"}, "there is no key type 'ed25519'", id="key type"),
    pytest.param({"passphrase": b"x"}, "have no passphrase", id="passphrase"),
    pytest.param({"common_name": ""}, "the CA's name is empty", id="name"),
    pytest.param({"root_days": 0}, "1 to 36500 days", id="days"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED)
def test_a_plan_that_makes_no_sense_is_refused_and_leaves_nothing(plan, tmp_path, changes, text):
    with pytest.raises(StartupError, match=text) as caught:
        PKCS11CACreator().create(plan(**changes))
    assert "4711" not in str(caught.value)
    assert labels() == []
    assert not list(tmp_path.glob("ca/*"))


def test_a_wrong_pin_is_tried_once(hsm, plan, tmp_path):
    (tmp_path / "pin").write_text("wrong-one-8421\n", encoding="ascii")
    with pytest.raises(StartupError, match="does not take the PIN") as caught:
        PKCS11CACreator().create(plan())
    assert "8421" not in str(caught.value)
    with pytest.raises(StartupError, match="is not tried again"):
        PKCS11CACreator().create(plan())
