"""The section `[gssapi]` of the configuration file.

In the room: its keys, defaults and bounds, and what they say once they are read. Not in the room: the keytab's content, and
what `kipuka check` says about a weak choice (`kipuka_auth_gssapi.findings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from cryptography import x509
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kipuka.api import ConfigPath, Section, SubjectTemplate
from kipuka_auth_gssapi.names import SANForm, read_template
from kipuka_auth_gssapi.principals import Principal

__all__ = ["DEFAULT_TEMPLATE", "GSSAPISettings"]

DEFAULT_TEMPLATE = "default_template"
"""The key that may stand in the mapping table too. No principal is called so: it has no realm."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _check_principal(text: str) -> str:
    try:
        return str(Principal.parse(text))
    except ValueError as error:
        msg = f"a principal {error}; write it as in HTTP/est.example.com@EXAMPLE.COM"
        raise ValueError(msg) from error


def _check_template(text: str) -> str:
    read_template(text)
    return text


def _check_realm(text: str) -> str:
    if not text or "/" in text or "@" in text:
        msg = "it is not a realm; write one such as EXAMPLE.COM"
        raise ValueError(msg)
    return text


_Principal = Annotated[str, AfterValidator(_check_principal)]
_Template = Annotated[str, AfterValidator(_check_template)]
_Realm = Annotated[str, AfterValidator(_check_realm)]


class GSSAPISettings(Section):
    """How Kerberos tickets are checked, and whose name a certificate for one has."""

    enabled: bool = True
    """Whether Kerberos tickets are accepted."""

    keytab: ConfigPath
    """The file with the keys of the service principals, readable by the server alone. A new key in it is seen at once."""

    service_principal: Annotated[tuple[_Principal, ...], BeforeValidator(_listed)] = Field(min_length=1)
    """The name that clients get a ticket for, `HTTP/hostname@REALM`: one, or an array of them where the server has other names as
    well. A ticket under any other key of the keytab is refused."""

    principal_mapping: dict[str, _Template] = Field(default_factory=dict[str, str])
    """A table: for a principal (`"alice@EXAMPLE.COM"`) the subject of its certificates, as a distinguished name. `default_template`
    may stand in it too."""

    default_template: _Template | None = None
    """The subject of everybody who is not in the table. `{principal}` stands for `alice@EXAMPLE.COM`, `{user}` for `alice`,
    `{realm}` for `EXAMPLE.COM`, `{host}` for the machine's name in `host/web.example.com` or `WS42$`. Without it only
    those in the table can enrol."""

    host_template: _Template | None = None
    """The same for machines (`host/NAME` and `NAME$`), where theirs is another than that of users."""

    realms: tuple[_Realm, ...] = ()
    """The realms whose principals are let in. Default: those of the service principals, so that a user of another realm is refused
    although that realm is trusted."""

    channel_binding: Literal["when_sent", "required"] = "when_sent"
    """Channel bindings (`tls-server-end-point`) tie a ticket to this server's TLS certificate. They are checked where a client
    sends them; with `required` a client that sends none is refused. curl does from version 8.10 on."""

    san: tuple[SANForm, ...] = ("dns", "upn", "krb5")
    """The alternative names that a principal has: `dns` (of `host/NAME`, and of `NAME$` with a domain of the profile), `upn` (a
    user's `alice@EXAMPLE.COM`, as Active Directory has it), `krb5` (the principal, RFC 4556). A certificate gets them where the
    request asks for them, or the profile's `identity_sans` does."""

    replay_cache: ConfigPath | None = None
    """The file in which tickets that were seen are noted, so that none is taken twice. Default: the library's own, in
    `/var/tmp`, which all processes of one account on one machine share."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.default_template is not None and DEFAULT_TEMPLATE in self.principal_mapping:
            msg = "default_template stands in [gssapi] and in [gssapi.principal_mapping]; take one of them out"
            raise ValueError(msg)
        for text, name in self.principal_mapping.items():
            if text == DEFAULT_TEMPLATE:
                continue
            try:
                Principal.parse(text)
            except ValueError as error:
                msg = f"principal_mapping: a principal {error}; mend the name {text}"
                raise ValueError(msg) from error
            if read_template(name).fields:
                msg = f"principal_mapping: the name for {text} has a placeholder; write it out, or use default_template"
                raise ValueError(msg)
        if len(self.explicit_mapping) != len(self.principal_mapping) - (DEFAULT_TEMPLATE in self.principal_mapping):
            msg = "principal_mapping names one principal twice; take one of them out"
            raise ValueError(msg)
        return self

    @property
    def services(self) -> frozenset[str]:
        """The acceptable service principals in their one text form."""
        return frozenset(self.service_principal)

    @property
    def explicit_mapping(self) -> Mapping[Principal, x509.Name]:
        """The table, read."""
        return {
            Principal.parse(text): read_template(name).fill({})
            for text, name in self.principal_mapping.items()
            if text != DEFAULT_TEMPLATE
        }

    @property
    def user_template(self) -> SubjectTemplate | None:
        """`default_template`, wherever it stands."""
        text = self.default_template or self.principal_mapping.get(DEFAULT_TEMPLATE)
        return None if text is None else read_template(text)

    @property
    def machine_template(self) -> SubjectTemplate | None:
        """`host_template`."""
        return None if self.host_template is None else read_template(self.host_template)

    @property
    def allowed_realms(self) -> frozenset[str]:
        """The realms whose principals are let in."""
        return frozenset(self.realms or (Principal.parse(text).realm for text in self.service_principal))
