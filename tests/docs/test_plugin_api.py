"""The surface of `kipuka.api`: each name exported once, documented, dated, and on the reference page as the code has it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from typing import Protocol

import pytest

import kipuka.api
from kipuka.api import API_VERSION, HookSpecs, kinds, protocols

from .pages import ROOT

PAGE = ROOT / "docs" / "reference" / "plugin-api.md"
SUBMODULES = {
    one.name: importlib.import_module(f"kipuka.api.{one.name}") for one in pkgutil.iter_modules(kipuka.api.__path__)
}
SINCE = re.compile(r"^Since API (\d+)\.(\d+)\.$", re.MULTILINE)
DEPRECATED = re.compile(r"^Deprecated since API (\d+)\.(\d+): use \S", re.MULTILINE)
OURS = tuple(int(part) for part in API_VERSION.split("."))


def load_generator():
    file = ROOT / "scripts" / "plugin_api.py"
    spec = importlib.util.spec_from_file_location("kipuka_plugin_api_page", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()
DOCUMENTED = {
    (submodule, name): text
    for submodule, module in SUBMODULES.items()
    for name, text in GENERATOR.documentation(module).items()
}
BORROWED = {name for module in SUBMODULES.values() for name in GENERATOR.borrowed(module)}


def headings():
    return re.findall(r"^### (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def section(name):
    """The text below a name's heading."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {re.escape(name)}$\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


# --- the names


def rank(name):
    """The order that ruff keeps too: constants, classes, others."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("module", [kipuka.api, *SUBMODULES.values()], ids=lambda module: module.__name__)
def test_the_names_of_a_module_are_there_once_and_sorted(module):
    assert list(module.__all__) == sorted(set(module.__all__), key=rank)
    assert all(hasattr(module, name) for name in module.__all__)


def test_a_name_is_at_home_in_one_submodule():
    homes = [name for module in SUBMODULES.values() for name in module.__all__]
    assert sorted(homes) == sorted(set(homes))


def test_the_package_exports_what_its_submodules_define():
    """All but SQLAlchemy's names, which are imported from `kipuka.api.storage`."""
    assert set(kipuka.api.__all__) == {name for _, name in DOCUMENTED}
    for submodule, name in DOCUMENTED:
        assert getattr(kipuka.api, name) is getattr(SUBMODULES[submodule], name)


def test_what_is_borrowed_is_sqlalchemys():
    for name in BORROWED:
        value = getattr(SUBMODULES["storage"], name)
        assert (getattr(value, "__module__", None) or type(value).__module__).startswith("sqlalchemy"), name


# --- documented and dated


@pytest.mark.parametrize(("submodule", "name"), sorted(DOCUMENTED), ids=lambda word: word)
def test_a_name_is_documented_and_says_since_when_it_is_there(submodule, name):
    text = DOCUMENTED[submodule, name]
    ((major, minor),) = SINCE.findall(text)
    assert (int(major), int(minor)) <= OURS
    assert text.split("\n")[0].strip()
    assert not text.startswith("Since API")
    for deprecated in DEPRECATED.findall(text):
        assert (int(major), int(minor)) <= tuple(map(int, deprecated)) <= OURS


HOOKS = {name: hook for name, hook in vars(HookSpecs).items() if name.startswith("kipuka_")}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_documented_and_says_since_when_it_is_there(name):
    ((major, minor),) = SINCE.findall(inspect.getdoc(HOOKS[name]))
    assert (int(major), int(minor)) <= OURS


# --- the page against the code


def test_every_name_has_its_heading():
    found = headings()
    names = [heading.partition("(")[0] for heading in found]
    assert sorted(names) == sorted([*(name for _, name in DOCUMENTED), *HOOKS])
    for name in BORROWED:
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_stands_on_the_page_with_its_arguments(name):
    (heading,) = [heading for heading in headings() if heading.startswith(f"{name}(")]
    arguments = heading.partition("(")[2].partition(")")[0]
    assert [part.partition(":")[0].strip() for part in arguments.split(",") if part] == [
        parameter for parameter in inspect.signature(HOOKS[name]).parameters if parameter != "self"
    ]


PROTOCOLS = [
    value
    for module in (protocols, kinds)
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__ and Protocol in value.__bases__
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.__name__)
def test_a_protocol_stands_on_the_page_with_its_methods(protocol):
    listed = re.findall(r"^- (?:property |async )?`(\w+)[(:]", section(protocol.__name__), re.MULTILINE)
    assert listed == [
        name
        for name, member in vars(protocol).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]


RECORDS = [
    value
    for module in SUBMODULES.values()
    for name, value in vars(module).items()
    if name in module.__all__ and dataclasses.is_dataclass(value)
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_stands_on_the_page_with_its_fields(record):
    listed = re.findall(r"^- `(\w+):", section(record.__name__), re.MULTILINE)
    assert listed == [field.name for field in dataclasses.fields(record)]


# --- optional abilities


def test_an_optional_ability_is_a_small_protocol_of_its_own():
    """Nothing ever has to grow: roles are closed, and an ability has at most the methods that only make sense together."""
    roles = {"Authenticator": 2, "CABackend": 2, "AuditSink": 1}
    for protocol in PROTOCOLS:
        if protocol.__module__ != protocols.__name__:
            continue
        members = [name for name in vars(protocol) if not name.startswith("_")]
        if protocol.__name__ in roles:
            assert len(members) == roles[protocol.__name__]
            assert not getattr(protocol, "_is_runtime_protocol", False)
        elif protocol.__name__ != "CreatesCA":  # a part of the kind: it is not looked for on an opened object
            assert protocol._is_runtime_protocol, f"{protocol.__name__} cannot be looked for"
            assert len(members) in ({3} if protocol.__name__ == "SpendsOnIssue" else {1})


def test_new_fields_of_values_and_kinds_have_defaults():
    """The fields that had none in API 1.0 are these; a later field needs a default, or old plugins could not make the value."""
    needed = {
        record.__name__: [
            field.name
            for field in dataclasses.fields(record)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        for record in RECORDS
    }
    assert needed == FIRST_FIELDS


FIRST_FIELDS: dict[str, list[str]] = {
    "AdminReply": [],
    "AdminRequest": ["administrator", "services"],
    "AdminRoute": ["method", "path", "summary", "handler"],
    "AuditRecord": [
        "node",
        "sequence",
        "time",
        "event",
        "outcome",
        "request_id",
        "client_address",
        "identity",
        "data",
        "previous_hash",
        "hash",
        "line",
    ],
    "AuditSinkKind": ["name", "config", "open"],
    "Authenticated": ["identity"],
    "AuthenticatorKind": ["name", "config", "open"],
    "Authorization": ["scheme", "parameters"],
    "CABackendKind": ["name", "config", "open"],
    "CAPlan": ["id", "directory", "common_name", "key_type", "root_days", "issuing_days"],
    "CertificateChain": ["certificates"],
    "Claim": ["plugin", "ref"],
    "ClientCertificate": ["certificate"],
    "ConfigProblem": ["file", "key", "problem", "remedy"],
    "Connection": ["id", "listener", "client_address", "client_port", "tls_version", "cipher"],
    "Continue": ["challenge"],
    "CreatedCA": ["chain", "settings", "files"],
    "Credentials": ["connection", "operation", "label"],
    "Denied": ["detail", "reason"],
    "Finding": ["severity", "key", "problem", "remedy"],
    "Identity": ["method", "name"],
    "Issued": ["certificate"],
    "LockoutPolicy": ["max_failures", "window", "duration"],
    "Needs": [],
    "NotPresented": [],
    "Order": ["id", "ca", "subject", "public_key", "extensions", "not_before", "not_after", "csr"],
    "Pending": ["ref", "retry_after"],
    "PluginFault": ["plugin", "distribution", "version", "stage", "problem", "remedy"],
    "PresentedCertificate": ["leaf"],
    "Storage": ["prefix", "metadata", "migrations"],
    "SubjectTemplate": ["text"],
}
