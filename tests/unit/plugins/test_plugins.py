"""Finding, loading and listing plugins: no fault hides another, and each names whose it is."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import ClassVar

import click
import pluggy
import pytest
from sqlalchemy import Column, Integer, MetaData, Table

from kipuka.api import (
    AdminRoute,
    AuditEvent,
    AuditSinkKind,
    AuthenticatorKind,
    CABackendKind,
    HookSpecs,
    Outcome,
    PluginError,
    Section,
    Storage,
    hookimpl,
)
from kipuka.plugins import Candidate, PluginRow, discover, examine, list_plugins, load


class Settings(Section):
    """Nothing to set."""


def opener(settings, services):
    raise NotImplementedError


def kind(name="badge", **changes):
    return AuthenticatorKind(**{"name": name, "config": Settings, "open": opener, **changes})


def bare(**attributes):
    made = types.ModuleType("stranger.badge")
    for name, value in {"KIPUKA_API": "1.0", **attributes}.items():
        setattr(made, name, value)
    return made


def module(**functions):
    made = bare()
    for name, function in functions.items():
        setattr(made, name, hookimpl(function))
    return made


def candidate(what, name="badge", distribution="stranger-badge", version="3.1"):
    """An entry point whose loading gives, or does, this."""
    loader = what if isinstance(what, types.FunctionType) else lambda: what
    return Candidate(name=name, value="stranger.badge", distribution=distribution, version=version, load=loader)


def fault(*candidates, used=("badge",), disabled=()):
    """The one fault."""
    (found,) = examine(candidates, set(used), disabled=disabled).faults
    return found


def good(name="badge"):
    return candidate(module(kipuka_authenticators=lambda: [kind(name)]), name)


def never():
    raise AssertionError("imported")


# --- find


def test_entry_points_are_found_without_importing_them(tmp_path, monkeypatch):
    """DESIGN, the plugin contract: installed but unused is listed, not imported."""
    info = tmp_path / "stranger_badge-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-badge\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text("[kipuka.plugins]\nbadge = stranger_that_is_nowhere.badge\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = [item for item in discover() if item.name == "badge"]
    assert (found.distribution, found.version, found.value) == (
        "stranger-badge",
        "3.1",
        "stranger_that_is_nowhere.badge",
    )
    (row,) = [row for row in list_plugins(discover()) if row.name == "badge"]
    assert row.state == "unused"


def test_a_distribution_without_readable_metadata_is_listed_all_the_same(tmp_path, monkeypatch):
    info = tmp_path / "ruin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\n")
    (info / "entry_points.txt").write_text("[kipuka.plugins]\nruin = ruin\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = [item for item in discover() if item.name == "ruin"]
    assert (found.distribution, found.version) == ("unknown", "unknown")


def test_the_built_ins_are_plugins_like_any_other():
    """RULES K2: mtls and the sinks come through the same group."""
    built_in = {item.name: item.value for item in discover() if item.distribution == "kipuka"}
    assert built_in == {
        "mtls": "kipuka.mtls",
        "file": "kipuka.audit.file",
        "stdout": "kipuka.audit.stdout",
        "syslog": "kipuka.audit.syslog.sink",
    }
    plugins = load(discover(), {"mtls", "file", "stdout", "syslog"})
    assert set(plugins.authenticators) == {"mtls"}
    assert set(plugins.audit_sinks) == {"file", "stdout", "syslog"}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        pytest.param("otp", "install it: pip install kipuka-auth-otp", id="ours"),
        pytest.param("gssapi", "install it: pip install kipuka-auth-gssapi", id="ours, which needs headers"),
        pytest.param(
            "bagde", "did you mean badge? If not, install the distribution that brings bagde with pip", id="mistyped"
        ),
        pytest.param("zzz", "install the distribution that brings zzz with pip, or take it out", id="a stranger's"),
    ],
)
def test_a_name_nobody_brings_is_a_fault_with_a_hint(name, remedy):
    (found,) = examine([good()], {name: f"section [{name}]"}).faults
    assert (found.plugin, found.stage, found.distribution) == (name, "find", "")
    assert found.problem == f"no installed plugin has this name, but the configuration needs it: section [{name}]"
    assert found.remedy == remedy
    assert str(found).startswith(f"plugin {name}, find: ")


def test_no_guessed_name_is_given_to_pip():
    """Whoever registers a guessed name would be installed."""
    (found,) = examine([], {"radius"}).faults
    assert "pip install" not in found.remedy


def test_two_plugins_of_one_name_are_faults_that_name_both_distributions():
    """DESIGN: two kinds of one name are refused; none is imported."""
    ours, theirs = candidate(never), candidate(never, distribution="stranger-rival", version="1.0")
    plugins = examine([ours, theirs], {"badge"})
    assert {found.distribution for found in plugins.faults} == {"stranger-badge", "stranger-rival"}
    for found in plugins.faults:
        assert found.stage == "find"
        assert found.problem == "stranger-badge 3.1 and stranger-rival 1.0 both bring a plugin of this name"


def test_a_plugin_that_is_not_used_is_not_imported():
    assert examine([candidate(never)], set()).faults == ()


def test_a_disabled_plugin_is_not_imported_even_when_it_is_used():
    """DESIGN: [plugins] disabled wins over all."""
    plugins = examine([candidate(never)], {"badge"}, disabled=["badge"])
    assert (plugins.faults, plugins.authenticators) == ((), {})


def test_a_disabled_plugin_that_is_not_installed_is_no_fault():
    assert examine([], {"badge"}, disabled=["badge"]).faults == ()


# --- import


def raiser(error):
    def load():
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        pytest.param(
            ModuleNotFoundError("No module named 'x'"),
            "it raised ModuleNotFoundError: No module named 'x'",
            id="missing",
        ),
        pytest.param(SyntaxError("invalid\nsyntax"), "it raised SyntaxError: invalid syntax", id="syntax"),
        pytest.param(SystemExit(3), "it raised SystemExit: 3", id="sys.exit"),
        pytest.param(BaseException(), "it raised BaseException", id="not even an Exception"),
    ],
)
def test_whatever_an_import_raises_is_a_fault(error, problem):
    found = fault(candidate(raiser(error)))
    assert (found.plugin, found.distribution, found.version, found.stage) == (
        "badge",
        "stranger-badge",
        "3.1",
        "import",
    )
    assert found.problem == problem
    assert found.remedy


def test_an_interrupt_is_not_a_fault():
    with pytest.raises(KeyboardInterrupt):
        examine([candidate(raiser(KeyboardInterrupt()))], {"badge"})


def test_a_plugin_for_a_newer_kipuka_is_told_by_what_it_misses():
    found = fault(candidate(raiser(ImportError("cannot import name 'X' from 'kipuka.api'"))))
    assert "another version of kipuka" in found.remedy


def test_an_entry_point_names_a_module():
    found = fault(candidate(Settings))
    assert (found.stage, found.problem) == ("import", "its entry point names stranger.badge, which is not a module")


# --- version


def test_a_plugin_that_states_no_version_is_refused_with_the_line_to_write():
    found = fault(candidate(types.ModuleType("stranger.badge")))
    assert (found.stage, found.distribution, found.version) == ("version", "stranger-badge", "3.1")
    assert found.problem == "it does not say which version of kipuka.api it is written for; this kipuka has 1.0"
    assert 'KIPUKA_API = "1.0" in the module stranger.badge' in found.remedy


def test_the_version_is_judged_before_anything_else_of_the_module():
    """The hook is wrong too; of a plugin for another API nothing else can be said."""
    found = fault(candidate(bare(KIPUKA_API="1.3", kipuka_authenticators=hookimpl(coroutine))))
    assert (found.stage, found.problem) == ("version", "it needs API 1.3, this kipuka has 1.0")
    assert found.remedy == "upgrade kipuka"


def test_a_plugin_for_a_later_api_is_told_so_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "stranger_of_tomorrow"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "plugin.py").write_text('from kipuka.api import Telepathy\n\nKIPUKA_API: str = "2.0"\n')
    monkeypatch.syspath_prepend(tmp_path)
    found = fault(replace(candidate(never), value="stranger_of_tomorrow.plugin"))
    assert str(found) == (
        "plugin badge (stranger-badge 3.1), version: it needs API 2.0, this kipuka has 1.0; upgrade kipuka"
    )
    assert "stranger_of_tomorrow" not in sys.modules


# --- register


def raising():
    raise RuntimeError("cannot\nsay")


async def coroutine():
    return []


async def asynchronous_generator():
    yield []


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        pytest.param(
            module(kipuka_authenticators=coroutine),
            "kipuka_authenticators is an async function: hooks are plain functions",
            id="async def",
        ),
        pytest.param(
            module(kipuka_authenticators=asynchronous_generator),
            "kipuka_authenticators is an async function: hooks are plain functions",
            id="async generator",
        ),
        pytest.param(
            module(kipuka_authenticator=raising),
            "kipuka_authenticator is not a hook of this version of kipuka (did its author mean kipuka_authenticators?)",
            id="unknown hook",
        ),
        pytest.param(
            module(kipuka_authenticators=lambda app: []),
            None,
            id="unknown argument",
        ),
        pytest.param(
            bare(),
            "the module stranger.badge has no function marked with @hookimpl",
            id="no hook",
        ),
    ],
)
def test_a_hook_that_is_none_is_refused(made, problem):
    """DESIGN: refuse at load an `async def` hookimpl, an unknown hook or argument."""
    found = fault(candidate(made))
    assert (found.stage, found.distribution) == ("register", "stranger-badge")
    assert problem is None or found.problem == problem
    if problem is None:
        assert "app" in found.problem
        assert "\n" not in found.problem


def test_a_hook_without_its_mark_is_refused():
    made = bare()
    made.kipuka_authenticators = lambda: [kind()]
    assert fault(candidate(made)).problem == "kipuka_authenticators is not marked with @hookimpl"


def test_a_hook_wrapper_is_refused():
    """A wrapper could change what another plugin returns."""

    @hookimpl(wrapper=True)
    def kipuka_authenticators():
        return (yield)

    made = bare()
    made.kipuka_authenticators = kipuka_authenticators
    assert (
        fault(candidate(made)).problem == "kipuka_authenticators is a hook wrapper: hooks of kipuka cannot be wrapped"
    )


def test_a_hook_that_is_deprecated_still_works_and_is_told(monkeypatch):
    """docs/plugins/stability.md, how a name is taken away."""

    class OldSpecs:
        @pluggy.HookspecMarker("kipuka")(warn_on_impl=DeprecationWarning("use kipuka_methods instead"))
        def kipuka_authenticators(self):
            """Methods."""

    for name in ("ca_backends", "audit_sinks", "storage", "admin_routes", "commands"):
        setattr(OldSpecs, f"kipuka_{name}", getattr(HookSpecs, f"kipuka_{name}"))
    monkeypatch.setattr("kipuka.plugins.HookSpecs", OldSpecs)
    plugins = load([good()], {"badge"})
    assert set(plugins.authenticators) == {"badge"}
    (report,) = plugins.reports
    assert any("use kipuka_methods instead" in text for text in report.deprecated)


# --- collect


def exiting():
    sys.exit(1)


def generator():
    yield kind()


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        pytest.param(raising, "kipuka_authenticators: it raised RuntimeError: cannot say", id="raises"),
        pytest.param(exiting, "kipuka_authenticators: it raised SystemExit: 1", id="exits"),
        pytest.param(lambda: None, "kipuka_authenticators returned None, not a list", id="None"),
        pytest.param(kind, "kipuka_authenticators returned a value of type AuthenticatorKind, not a list", id="record"),
        pytest.param(generator, "kipuka_authenticators returned a value of type generator, not a list", id="generator"),
        pytest.param(
            lambda: [{"name": "badge"}],
            "kipuka_authenticators returned a list with a value of type dict, where only AuthenticatorKind is possible",
            id="dictionary",
        ),
        pytest.param(
            lambda: [CABackendKind(name="badge", config=Settings, open=opener)],
            "kipuka_authenticators returned a list with a value of type CABackendKind, where only AuthenticatorKind is possible",
            id="another kind",
        ),
        pytest.param(
            lambda: [kind("other")],
            "kipuka_authenticators: the kind is called 'other', but its entry point 'badge'; they must be the same",
            id="K2: another name",
        ),
        pytest.param(
            lambda: [kind(config=dict)],
            "kipuka_authenticators: config is not a pydantic model",
            id="config is no model",
        ),
        pytest.param(lambda: [kind(open=None)], "kipuka_authenticators: open cannot be called", id="open"),
        pytest.param(lambda: [kind(check=1)], "kipuka_authenticators: check cannot be called", id="check"),
        pytest.param(
            lambda: [kind(events=(dict,))],
            "kipuka_authenticators: events is not a tuple of AuditEvent classes",
            id="events",
        ),
        pytest.param(
            lambda: [kind(), kind()], "it brings 2 kinds under one entry point; one is possible", id="K2: two of a kind"
        ),
    ],
)
def test_what_does_not_fit_the_contract_is_a_fault(hook, problem):
    """RULES K2, K3."""
    found = fault(candidate(module(kipuka_authenticators=hook)))
    assert (found.stage, found.distribution, found.version) == ("collect", "stranger-badge", "3.1")
    assert found.problem == problem


def test_a_plugin_is_one_kind():
    """RULES K2: one entry point per kind."""
    made = module(
        kipuka_authenticators=lambda: [kind()],
        kipuka_audit_sinks=lambda: [AuditSinkKind(name="badge", config=Settings, open=opener)],
    )
    assert fault(candidate(made)).problem == "it brings 2 kinds under one entry point; one is possible"


def storage(prefix="badge", *tables):
    metadata = MetaData()
    for table in tables:
        Table(table, metadata, Column("id", Integer))
    return Storage(prefix=prefix, metadata=metadata, migrations="stranger.migrations")


def route(path="/admin/badge", **changes):
    arguments = {"method": "GET", "path": path, "summary": "Badges.", "handler": opener, **changes}
    return AdminRoute(**arguments)


@pytest.mark.parametrize(
    ("hook", "records", "words"),
    [
        pytest.param(
            "kipuka_storage", [storage("badge", "badge_tokens", "tokens")], "tokens do not start with", id="prefix"
        ),
        pytest.param("kipuka_storage", [storage("Badge")], "'Badge' is not made of", id="odd prefix"),
        pytest.param("kipuka_storage", [storage("kipuka")], "the host's own", id="the host's prefix"),
        pytest.param("kipuka_admin_routes", [route("/badge")], "'/badge' is not /admin/", id="outside of /admin"),
        pytest.param("kipuka_admin_routes", [route("/admin/../x")], "'/admin/../x' is not", id="dots"),
        pytest.param("kipuka_admin_routes", [route("/admin/{Id}")], "'/admin/{Id}' is not", id="odd parameter"),
        pytest.param("kipuka_admin_routes", [route(handler=None)], "cannot be called", id="handler"),
        pytest.param("kipuka_admin_routes", [route(role="auditor")], "the one role of this version", id="K8: role"),
        pytest.param(
            "kipuka_admin_routes", [route("/admin/{a}"), route("/admin/{b}")], "is there twice", id="route twice"
        ),
        pytest.param("kipuka_commands", [click.Command(None)], "a command has no name", id="nameless command"),
        pytest.param(
            "kipuka_commands", [click.Command("a"), click.Command("a")], "a is there twice", id="command twice"
        ),
    ],
)
def test_storage_routes_and_commands_are_looked_at(hook, records, words):
    made = module(**{"kipuka_authenticators": lambda: [kind()], hook: lambda: records})
    found = examine([candidate(made)], {"badge"}).faults
    (only,) = found
    assert only.stage == "collect"
    assert words in only.problem


class CardShown(AuditEvent):
    """An event of a plugin."""

    name: ClassVar[str] = "card_shown"
    outcome: ClassVar[Outcome] = "success"


class Nameless(AuditEvent):
    """An event that cannot be told from others."""


class Impostor(AuditEvent):
    """An event that says it is the host's."""

    name: ClassVar[str] = "certificate_issued"


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (Nameless, "the audit event Nameless has no name in snake_case"),
        (Impostor, "the audit event certificate_issued is one of the host's own"),
    ],
)
def test_an_audit_event_has_a_name_of_its_own(event, problem):
    found = fault(candidate(module(kipuka_authenticators=lambda: [kind(events=(event,))])))
    assert found.problem == f"kipuka_authenticators: {problem}"


def test_two_plugins_cannot_have_one_route_prefix_or_event():
    records = {"kipuka_storage": lambda: [storage("shared")], "kipuka_admin_routes": lambda: [route("/admin/x/{id}")]}
    first, second = (
        candidate(
            module(kipuka_authenticators=lambda name=name: [kind(name, events=(CardShown,))], **records),
            name,
            distribution=f"stranger-{name}",
        )
        for name in ("alpha", "beta")
    )
    found = examine([first, second], {"alpha", "beta"}).faults
    assert [item.problem for item in found] == [
        "the table prefix shared is that of plugin alpha (stranger-alpha 3.1) too",
        "the admin route GET /admin/x/{} is that of plugin alpha (stranger-alpha 3.1) too",
        "the audit event card_shown is that of plugin alpha (stranger-alpha 3.1) too",
    ]
    assert {item.plugin for item in found} == {"beta"}


# --- all together


def test_every_fault_is_reported_and_the_good_are_loaded():
    candidates = [
        good("alpha"),
        candidate(raiser(ImportError("x")), "beta"),
        candidate(module(kipuka_authenticators=coroutine), "gamma"),
        candidate(module(kipuka_authenticators=raising), "delta"),
    ]
    plugins = examine(candidates, {"alpha", "beta", "gamma", "delta", "epsilon"})
    assert [(item.plugin, item.stage) for item in plugins.faults] == [
        ("beta", "import"),
        ("delta", "collect"),
        ("epsilon", "find"),
        ("gamma", "register"),
    ]
    assert set(plugins.authenticators) == {"alpha"}
    assert plugins.broken == {"beta", "gamma", "delta", "epsilon"}
    with pytest.raises(PluginError) as caught:
        load(candidates, {"alpha", "beta", "gamma", "delta", "epsilon"})
    assert caught.value.faults == plugins.faults


def test_what_a_plugin_brings_is_at_hand_by_type():
    command = click.Command("count")
    made = module(
        kipuka_authenticators=lambda: [kind()],
        kipuka_storage=lambda: [storage("badge", "badge_cards")],
        kipuka_admin_routes=lambda: [route()],
        kipuka_commands=lambda: [command],
    )
    plugins = load([candidate(made)], {"badge"})
    assert plugins.authenticators["badge"].config is Settings
    assert [item.prefix for item in plugins.storages] == ["badge"]
    assert [(name, item.path) for name, item in plugins.admin_routes] == [("badge", "/admin/badge")]
    assert plugins.commands("badge") == (command,)
    assert plugins.commands("nobody") == ()


def test_each_load_has_a_fresh_plugin_manager():
    """Nothing of one test, or of one reload, is left for the next."""
    plugin = good()
    assert load([plugin], {"badge"}).authenticators.keys() == load([plugin], {"badge"}).authenticators.keys()


def test_the_list_works_when_loading_fails():
    candidates = [
        good("alpha"),
        candidate(raiser(ImportError("x")), "beta"),
        candidate(never, "gamma"),
        candidate(never, "delta"),
        candidate(never, "twin", distribution="one"),
        candidate(never, "twin", distribution="two"),
    ]
    rows = list_plugins(candidates, {"alpha", "beta", "nobody", "delta"}, disabled={"delta"})
    assert [(row.name, row.state) for row in rows] == [
        ("alpha", "used"),
        ("beta", "broken"),
        ("delta", "disabled"),
        ("gamma", "unused"),
        ("nobody", "broken"),
        ("twin", "broken"),
        ("twin", "broken"),
    ]
    assert rows[0] == PluginRow(
        name="alpha", distribution="stranger-badge", version="3.1", kinds=("authenticator",), state="used"
    )
    assert rows[1].problem.startswith("import: it raised ImportError: x; ")
    assert rows[5].problem == "one 3.1 and two 3.1 both bring a plugin of this name"


def test_a_fault_that_shows_later_names_the_distribution_too():
    plugins = load([good()], {"badge"})
    found = plugins.fault("badge", stage="open", problem="no reader is plugged in")
    assert str(found).startswith("plugin badge (stranger-badge 3.1), open: no reader is plugged in; ")
