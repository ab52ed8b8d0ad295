"""`kipuka ca create --backend pkcs11`: a root, and an issuing CA under it, whose keys are made on a token and stay there.

In the room: making keys and certificates, and taking back what was made when the rest fails. Not in the room: the command itself and the
configuration file, which are the host's; the certificates' form (`kipuka_ca_local.creation`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from kipuka_ca_local.creation import certify, check_plan, make_directory, names, write_all
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_named_curve_parameters
from pydantic import Field, ValidationError, field_validator, model_validator

from kipuka.api import CAPlan, CertificateChain, ConfigPath, CreatedCA, Secret, Section, StartupError
from kipuka_ca_pkcs11.cryptoki import Module, ModuleFault, Refusal, borrow, describe, give_back
from kipuka_ca_pkcs11.keys import TokenKey, token_key
from kipuka_ca_pkcs11.mechanisms import Scheme
from kipuka_ca_pkcs11.tokens import KeyPlace, PublicKey, SigningKey, TokenError, find_token

__all__ = ["CreationOptions", "PKCS11CACreator"]

ISSUING_CERTIFICATE = "issuing.pem"
ROOT_CERTIFICATE = "root.pem"
PATIENCE = 10.0

_RSA = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
_CURVES: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


class CreationOptions(Section):
    """What `kipuka ca create --backend pkcs11` takes as `--set KEY=VALUE`."""

    module: ConfigPath
    """The PKCS#11 library of the HSM."""

    token: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """The label of the token."""

    serial: Annotated[str, Field(min_length=1, max_length=16)] | None = None
    """The serial number of the token."""

    pin: Secret
    """The PIN of the token's user, as `file:PATH` or `env:NAME`."""

    key_label: Annotated[str, Field(min_length=1)] | None = None
    """The label of the issuing key; default: the CA's id. The root's is the same with "-root"."""

    root_token: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """The label of another token for the root's key, which can then be taken away."""

    root_pin: Secret | None = None
    """The PIN of that one."""

    @field_validator("pin", "root_pin", mode="before")
    @classmethod
    def _not_written_out(cls, value: object) -> object:
        if isinstance(value, str) and not value.startswith(("file:", "env:")):
            msg = "a PIN in a command line is seen by everybody on this machine: write file:PATH or env:NAME"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.token is None and self.serial is None:
            msg = "neither token nor serial is given"
            raise ValueError(msg)
        if (self.root_token is None) != (self.root_pin is None):
            msg = "root_token and root_pin go together"
            raise ValueError(msg)
        return self


@dataclass(kw_only=True, slots=True)
class _Made:
    """A new key pair."""

    place: KeyPlace
    public_key: PublicKey
    objects: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class PKCS11CACreator:
    """The ability `CreatesCA`."""

    def create(self, plan: CAPlan, /) -> CreatedCA:
        """Make both keys on the token (sensitive, not extractable), and `root.pem` and `issuing.pem` in `plan.directory`.

        Raises FileExistsError rather than overwrite a file or take a label that a key has, and StartupError for a plan that makes no sense, or a token
        that does not do it; then nothing is left behind.
        """
        options = _options(plan)
        root_name, issuing_name = names(plan)
        check_plan(plan, [*_CURVES, *_RSA])
        if plan.passphrase is not None:
            msg = "keys on a token have no passphrase: its PIN protects them"
            raise StartupError(msg)
        for name in (ROOT_CERTIFICATE, ISSUING_CERTIFICATE):
            if os.path.lexists(plan.directory / name):
                raise FileExistsError(f"{plan.directory / name} exists: a CA is never overwritten")
        make_directory(plan.directory)
        issuing_place, root_place = _places(plan, options)
        now = datetime.now(UTC).replace(microsecond=0)
        try:
            with (
                _new_key(root_place, plan.key_type) as root_made,
                _new_key(issuing_place, plan.key_type) as issuing_made,
                _opened(root_made) as root_key,
            ):
                root = certify(
                    subject=root_name,
                    public_key=root_made.public_key,
                    issuer=root_name,
                    issuer_key=root_key,
                    now=now,
                    lifetime=timedelta(days=plan.root_days),
                    path_length=None,
                )
                issuing = certify(
                    subject=issuing_name,
                    public_key=issuing_made.public_key,
                    issuer=root_name,
                    issuer_key=root_key,
                    now=now,
                    lifetime=timedelta(days=min(plan.issuing_days, plan.root_days)),
                    path_length=0,
                )
                contents = (
                    (ROOT_CERTIFICATE, root.public_bytes(Encoding.PEM), 0o644),
                    (ISSUING_CERTIFICATE, issuing.public_bytes(Encoding.PEM), 0o644),
                )
                files = write_all(plan.directory, contents)
        except (TokenError, Refusal) as error:
            raise StartupError(f"{error}; {error.remedy}") from error
        except ModuleFault as error:
            raise StartupError(str(error)) from error
        except PKCS11Error as error:
            raise StartupError(f"the token does not make a key: {describe(error)}") from error
        return CreatedCA(
            chain=CertificateChain((issuing, root)), settings=_settings(plan, options, issuing_place), files=files
        )


def _options(plan: CAPlan) -> CreationOptions:
    try:
        return CreationOptions.model_validate(dict(plan.options), context={"base": Path.cwd()})
    except ValidationError as error:
        # Not the error itself: it may show what was given.
        problems = (f"{'.'.join(map(str, one['loc'])) or 'the options'}: {one['msg']}" for one in error.errors())
        known = ", ".join(CreationOptions.model_fields)
        raise StartupError("\n".join([*problems, f"options are given as --set KEY=VALUE; there are {known}"])) from None


def _places(plan: CAPlan, options: CreationOptions) -> tuple[KeyPlace, KeyPlace]:
    label = options.key_label or plan.id
    issuing = KeyPlace(
        module=options.module,
        token=options.token,
        serial=options.serial,
        key_label=label,
        key_id=secrets.token_bytes(8),
        pin=options.pin.get_secret_value(),
    )
    elsewhere = options.root_pin is not None
    root = KeyPlace(
        module=options.module,
        token=options.root_token if elsewhere else options.token,
        serial=None if elsewhere else options.serial,
        key_label=f"{label}-root",
        key_id=secrets.token_bytes(8),
        pin=(options.root_pin or options.pin).get_secret_value(),
    )
    return issuing, root


def _settings(plan: CAPlan, options: CreationOptions, place: KeyPlace) -> dict[str, str]:
    written = str(plan.options["pin"])
    if written.startswith("file:"):
        # The configuration's paths are relative to its own folder.
        written = f"file:{Path(written.removeprefix('file:')).expanduser().absolute()}"
    named = {"token": options.token, "serial": options.serial}
    return {
        "cert": str(plan.directory / ISSUING_CERTIFICATE),
        "chain": str(plan.directory / ROOT_CERTIFICATE),
        "module": str(options.module),
        **{key: value for key, value in named.items() if value is not None},
        "key_label": str(place.key_label),
        "key_id": (place.key_id or b"").hex(),
        "pin": written,
    }


@contextmanager
def _new_key(place: KeyPlace, key_type: str) -> Generator[_Made, None, None]:
    """A new key pair on a token; when the block fails it is destroyed again."""
    module = borrow(place.module)
    with ExitStack() as stack:
        stack.callback(give_back, module)
        if not module.is_up:
            module.restart(module.generation, patience=PATIENCE)
        library = stack.enter_context(module.work(patience=PATIENCE))
        session = stack.enter_context(_writing(module, library, place))
        _refuse_taken(session, place)
        made = _generate(session, place, key_type)
        try:
            yield made
        except BaseException:
            for one in made.objects:
                with suppress(PKCS11Error):
                    one.destroy()
            raise


@contextmanager
def _writing(module: Module, library: Any, place: KeyPlace) -> Generator[Any, None, None]:
    token = find_token(library, place)
    generation = module.generation
    module.login(token, place.pin, attended=True)
    try:
        session = token.open(rw=True)
        try:
            yield session
        finally:
            with suppress(PKCS11Error):
                session.close()
    finally:
        module.logout(token, generation)


def _refuse_taken(session: Any, place: KeyPlace) -> None:
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        if any(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: place.key_label})):
            raise FileExistsError(
                f"there is a key with the label {place.key_label!r} on {place.token_name}: a CA is never overwritten"
            )


def _generate(session: Any, place: KeyPlace, key_type: str) -> _Made:
    common = {
        "id": place.key_id,
        "label": place.key_label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "private_template": {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    }
    if key_type in _RSA:
        public, private = session.generate_keypair(KeyType.RSA, _RSA[key_type], **common)
        numbers = rsa.RSAPublicNumbers(
            e=int.from_bytes(public[Attribute.PUBLIC_EXPONENT], "big"),
            n=int.from_bytes(public[Attribute.MODULUS], "big"),
        )
        return _Made(place=place, public_key=numbers.public_key(), objects=(private, public))
    curve = _CURVES[key_type]
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(curve.name)}, local=True
    )
    public, private = parameters.generate_keypair(mechanism=Mechanism.EC_KEY_PAIR_GEN, **common)
    point = _point(bytes(public[Attribute.EC_POINT]), curve)
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    return _Made(place=place, public_key=key, objects=(private, public))


def _point(value: bytes, curve: ec.EllipticCurve) -> bytes:
    """CKA_EC_POINT is an OCTET STRING in DER (PKCS#11 2.40 mechanisms, 2.3.3); some tokens leave its header out."""
    if len(value) == 1 + 2 * ((curve.key_size + 7) // 8):
        return value
    return asn1.decode_der(bytes, value)


@contextmanager
def _opened(made: _Made) -> Generator[TokenKey, None, None]:
    key = SigningKey(made.place, made.public_key, scheme=Scheme.PKCS1V15, patience=PATIENCE)
    try:
        key.open(attended=True)
        yield token_key(key)
    finally:
        key.close()
