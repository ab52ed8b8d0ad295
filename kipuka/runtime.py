"""The composition root: configuration and plugins become open objects, and those an enrolment.

In the room: what is opened in which order, what each part is given, and the `Services` that plugins borrow. Not in the room: what
the parts do. Objects are opened in an `AsyncExitStack` and closed in reverse.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel
from structlog.typing import FilteringBoundLogger

from kipuka import plugins as plugin_loading
from kipuka.administrators import Administrators, BearerTokens, check_own_authorities
from kipuka.api import (
    AdminRoute,
    AuditSink,
    Authenticator,
    CABackend,
    ConfigProblem,
    LockoutPolicy,
    Lockouts,
    Needs,
    Operation,
    PluginError,
    PluginFault,
    ReadTx,
    Services,
    SpendsOnIssue,
    StartupError,
    Tx,
)
from kipuka.api.events import AuditEvent
from kipuka.audit.chain import seal
from kipuka.audit.failures import Failures
from kipuka.audit.gate import AuditGate
from kipuka.audit.heads import NodeKey, TrustedKeys, load_public_key
from kipuka.audit.pipeline import Outbox, OutboxPace, open_outbox
from kipuka.audit.signer import HeadSigner, open_signer
from kipuka.audit.sums import summing
from kipuka.authentication import Authentication, LabelAuthentication, LateRenewal, records_of
from kipuka.border import Border, Watch
from kipuka.config import AdminSection, AuditSection, Known, Label, Settings, Unsettled
from kipuka.config import load as load_config
from kipuka.config.reload import reload
from kipuka.csr_attributes import csr_attributes
from kipuka.distinguished_names import format_dn
from kipuka.enrolment import Checkpoint, Enrolment, LabelService, ask_authority
from kipuka.est.enveloped import KeyEncryption, KeySigner, key_identifier, unsuited
from kipuka.jobs import open_jobs, recovery
from kipuka.key_workshop import KeyWorkshop, open_key_workshop
from kipuka.mtls import ClientAuth
from kipuka.name_changes import forget_ended
from kipuka.plugins import Plugins
from kipuka.readiness import Readiness, open_readiness
from kipuka.revocation import Revocations
from kipuka.store.database import Store, open_store
from kipuka.store.enrolments import Incarnation
from kipuka.store.lockouts import StoreLockouts
from kipuka.threads import BoundedThreads, open_threads
from kipuka.vigil import told_when_slow
from kipuka.x509.path import AnchorSet

__all__ = [
    "ADMIN_LOCKOUT",
    "Composition",
    "CompositionError",
    "Draft",
    "Feeding",
    "Foundation",
    "Recomposition",
    "Runtime",
    "compose",
    "needs_of",
    "node_keys",
    "open_admin_store",
    "open_backend",
    "open_foundation",
    "open_plugin",
    "open_runtime",
    "recompose",
]

T = TypeVar("T")
P = ParamSpec("P")

log = structlog.get_logger(__name__)

AUTHENTICATOR_TIMEOUT = timedelta(seconds=15)
BLOCKING_QUEUE = 256
"""How many calls may wait for the pool before a caller is told to come back."""

ADMIN_LOCKOUT = LockoutPolicy(max_failures=5, window=timedelta(minutes=5), duration=timedelta(minutes=15))


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """As much of a configuration and of the plugins it uses as can be looked at. Nothing is started with it."""

    settings: Known
    plugins: Plugins


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition(Draft):
    """A configuration with the plugins it uses: checked, nothing opened."""

    settings: Settings


class CompositionError(StartupError):
    """All that is wrong with configuration and plugins together. What the good sections name has not been looked at: `draft`."""

    def __init__(self, problems: tuple[ConfigProblem, ...], faults: tuple[PluginFault, ...], draft: Draft) -> None:
        file = draft.settings.file
        super().__init__("\n".join([*map(str, problems), *(f"{file}: {fault}" for fault in faults)]))
        self.problems = problems
        self.faults = faults
        self.draft = draft


def open_pool(count: int) -> AbstractAsyncContextManager[BoundedThreads]:
    """The threads of `Services.run_blocking`. Their end waits for calls under way."""
    return open_threads(count, waiting=BLOCKING_QUEUE, name="kipuka-blocking", farewell=None)


def utc_now() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Foundation:
    """What a process opens once, and every runtime in it stands on: the store, the threads, and which worker this is."""

    store: Store
    pool: BoundedThreads
    keys: KeyWorkshop
    clock: Callable[[], datetime]
    incarnation: Incarnation


Feeding = Literal["now", "later", "never"]
"""Whether a runtime feeds the audit sinks and signs the chain's heads: at once; only after `Outbox.begin`, since the runtime before it still does; not
at all, since another worker of the node does (its sinks are not even opened).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostServices:
    """What one plugin's opened objects borrow of the host (`kipuka.api.Services`)."""

    plugin: str
    store: Store
    pool: BoundedThreads
    clock: Callable[[], datetime]
    log: FilteringBoundLogger

    async def read(self, fn: Callable[[ReadTx], T], /) -> T:
        """Run in a reader thread."""
        return await self.store.read(fn)

    async def write(self, fn: Callable[[Tx], T], /) -> T:
        """Run in the writer's next transaction."""
        return await self.store.write(fn)

    async def audit(self, event: AuditEvent, /) -> None:
        """Record an event."""
        await self.store.audit(event)

    async def run_blocking(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in the pool."""
        return await self.pool.run(partial(fn, *args, **kwargs))

    def open_threads(
        self, count: int, *, waiting: int, farewell: timedelta
    ) -> AbstractAsyncContextManager[BoundedThreads]:
        """A pool of the plugin's own."""
        return open_threads(count, waiting=waiting, name=f"kipuka-{self.plugin}", farewell=farewell)

    def lockouts(self, policy: LockoutPolicy, /) -> Lockouts:
        """The plugin's own count."""
        return StoreLockouts(self.store, counter=self.plugin, policy=policy)


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginRoute:
    """An admin route of a plugin with what its handler is given."""

    route: AdminRoute
    opened: object
    services: Services
    plugin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Everything that is open."""

    settings: Settings
    store: Store
    enrolment: Enrolment
    labels: Mapping[str | None, LabelService]
    routes: tuple[PluginRoute, ...]
    administrators: Administrators | None  # None: there is no admin API
    host_services: Services
    revocations: Revocations
    outbox: Outbox
    head_signer: HeadSigner | None  # None: there is no key, or another worker of the node has it
    audit_gate: AuditGate
    failures: Failures
    readiness: Readiness
    anchors: tuple[x509.Certificate, ...]  # of every label: what a client may choose its certificate by
    max_header_size: int  # bytes, as the settings or the methods that are on have it (RULES H1)
    plugin_names: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = field(default=None, repr=False)

    @property
    def client_auth(self) -> ClientAuth | None:
        """`[tls.client_auth]`, where client certificates authenticate at all."""
        return _client_auth(self.settings)


def compose(path: Path, environ: Mapping[str, str]) -> Composition:
    """Read the configuration, load the plugins it uses and settle both. Raises `StartupError` with every mistake."""
    raw = load_config(path, environ)
    candidates = plugin_loading.discover()
    loaded = plugin_loading.examine(candidates, raw.uses(), disabled=raw.disabled)
    try:
        settings = raw.settle(
            authenticators=loaded.authenticators,
            ca_backends=loaded.ca_backends,
            audit_sinks=loaded.audit_sinks,
            installed=loaded.installed,
            broken=loaded.broken,
        )
    except Unsettled as error:
        raise CompositionError(error.problems, loaded.faults, Draft(settings=error.known, plugins=loaded)) from error
    if loaded.faults:
        raise CompositionError((), loaded.faults, Draft(settings=settings.in_part(), plugins=loaded))
    return Composition(settings=settings, plugins=loaded)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recomposition:
    """A changed configuration over the plugins that are loaded, and the keys whose new values wait for a restart."""

    composition: Composition
    restart_needed: tuple[str, ...]


def recompose(running: Composition, path: Path, environ: Mapping[str, str]) -> Recomposition:
    """Read the configuration again, for a process that goes on with the plugins it has: nothing is imported.

    Raises `StartupError` with every mistake, and where the configuration needs other plugins than are loaded.
    """
    raw = load_config(path, environ)
    plugins, uses = running.plugins, raw.uses()
    strange = {name: where for name, where in uses.items() if name not in plugins.installed}
    faults = plugin_loading.examine(plugins.candidates, strange, disabled=raw.disabled).faults
    added = sorted(uses.keys() - plugins.loaded.keys() - strange.keys())
    removed = sorted(plugins.loaded.keys() - uses.keys())
    changed: tuple[ConfigProblem, ...] = ()
    if not faults and (added or removed):  # a name that nobody brings may stand for one that is missed
        changes = [f"{name} would be new" for name in added] + [f"{name} is no longer used" for name in removed]
        problem = f"the set of plugins has changed ({', '.join(changes)})"
        changed = (ConfigProblem(file=str(raw.file), key="", problem=problem, remedy="restart the server"),)
    try:
        settings = raw.settle(
            authenticators=plugins.authenticators,
            ca_backends=plugins.ca_backends,
            audit_sinks=plugins.audit_sinks,
            installed=plugins.installed,
            broken=added,
        )
    except Unsettled as error:
        draft = Draft(settings=error.known, plugins=plugins)
        raise CompositionError((*error.problems, *changed), faults, draft) from error
    if faults or changed:
        raise CompositionError(changed, faults, Draft(settings=settings.in_part(), plugins=plugins))
    change = reload(running.settings, settings)
    composition = Composition(settings=change.settings, plugins=plugins)
    return Recomposition(composition=composition, restart_needed=change.restart_needed)


def needs_of(composition: Composition) -> Mapping[str, Needs]:
    """What each method that is on needs of the server. Raises `PluginError` where a plugin cannot say it."""
    found: dict[str, Needs] = {}
    for name, section in composition.settings.authenticators.items():
        needs = composition.plugins.authenticators[name].needs
        if needs is None:
            continue
        try:
            found[name] = needs(section)
        except Exception as error:
            problem = f"its needs raised {type(error).__name__}"
            fault = composition.plugins.fault(name, stage="configure", problem=problem)
            raise PluginError([fault]) from error
    return found


def _header_size(settings: Settings, needs: Mapping[str, Needs]) -> int:
    """RULES H1: what is written counts; else the default, or more where a method needs more."""
    size = settings.server.max_header_size
    if "max_header_size" in settings.server.model_fields_set:
        return size
    return max(size, *(need.header_size for need in needs.values()), 0)


@asynccontextmanager
async def open_foundation(
    composition: Composition,
    *,
    incarnation: Incarnation | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncGenerator[Foundation, None]:
    """Open what outlives a reload. Without an `incarnation` this process is the whole server, and claims the node.

    Raises `StartupError`.
    """
    for report in composition.plugins.reports:
        for problem in report.deprecated:
            log.warning("plugin_uses_what_is_deprecated", plugin=report.candidate.name, problem=problem)
    if composition.settings.plugins.trace:
        _tell_hooks(composition.plugins)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(max(2, os.cpu_count() or 2)))
        keys = await stack.enter_async_context(open_key_workshop())
        born = incarnation or Incarnation(boot=secrets.token_hex(8))
        opening = _store(composition, clock=clock, run=born.boot, exclusive=incarnation is None)
        store = await stack.enter_async_context(opening)
        yield Foundation(store=store, pool=pool, keys=keys, clock=clock, incarnation=born)


def _tell_hooks(plugins: Plugins) -> None:
    """`[plugins] trace`: the hooks have been called before anybody could know that it is on."""
    for report in plugins.reports:
        for call in report.calls:
            log.info(
                "plugin_hook",
                plugin=report.candidate.name,
                hook=call.hook,
                records=len(call.returned),
                milliseconds=round(call.seconds * 1000, 3),
            )


@asynccontextmanager
async def open_runtime(
    composition: Composition,
    foundation: Foundation,
    *,
    feeding: Feeding = "now",
    inherits: bool = True,
    checkpoint: Checkpoint | None = None,
) -> AsyncGenerator[Runtime, None]:
    """Open everything a server needs beside the foundation. A second one may be opened before the first is left.

    `inherits`: settle first what the dead left to this worker, which the first runtime of a process has to do. `checkpoint`
    is awaited with each step's name before the step (tests stop there).
    """
    settings, plugins = composition.settings, composition.plugins
    store, pool, clock = foundation.store, foundation.pool, foundation.clock
    async with AsyncExitStack() as stack:
        services = partial(_services, store=store, pool=pool, clock=clock)
        watch = Watch(trace=settings.plugins.trace)
        opening = _Opening(stack=stack, composition=composition, services=services, watch=watch)
        opened: dict[str, object] = {}
        sinks: dict[str, AuditSink] = {}
        for item in settings.sinks if feeding != "never" else ():
            kind = plugins.audit_sinks[item.type]
            limit = OutboxPace().write_limit
            _, sinks[item.id] = await opening.open(item.type, kind.open, item.settings, AuditSink, limit, id=item.id)
        backends: dict[str, CABackend] = {}
        for item in settings.cas:
            kind = plugins.ca_backends[item.backend]
            limit = settings.est.ca_timeout
            _, backends[item.id] = await opening.open(
                item.backend, kind.open, item.settings, CABackend, limit, id=item.id
            )
        administrators = None
        if settings.admin is not None:
            lockouts = services("admin").lockouts(ADMIN_LOCKOUT)
            administrators = _administrators(settings.admin, store=store, lockouts=lockouts, clock=clock)
            await check_own_authorities(administrators, backends, patience=settings.est.ca_timeout)
        methods: dict[str, Authenticator] = {}
        for name, section in settings.authenticators.items():
            kind = plugins.authenticators[name]
            opened[name], methods[name] = await opening.open(
                name, kind.open, section, Authenticator, AUTHENTICATOR_TIMEOUT
            )
        spenders = {name: method for name, method in methods.items() if isinstance(method, SpendsOnIssue)}
        chain = Authentication(methods, timeout=AUTHENTICATOR_TIMEOUT)
        failures = Failures(store, threshold=settings.audit.flood_threshold)
        doors = {
            name: _label_authentication(
                settings,
                label,
                chain=chain,
                store=store,
                failures=failures,
                clock=clock,
                issuer=partial(
                    _issuer_of,
                    backends[label.ca],
                    ca=label.ca,
                    plugin=settings.ca(label.ca).backend,
                    patience=settings.est.ca_timeout,
                ),
            )
            for name, label in settings.labels.items()
        }
        labels = {
            name: LabelService(
                name=name,
                ca=label.ca,
                backend=backends[label.ca],
                remote=plugins.ca_backends[settings.ca(label.ca).backend].remote,
                profile=label.profile,
                validity=label.profile.validity_under(settings.ca(label.ca).validity),
                authentication=doors[name],
                replay_window=label.replay_window,
                csr_attributes=csr_attributes(label.profile),
                plugin=settings.ca(label.ca).backend,
                operations=frozenset(
                    operation for operation in Operation if label.operations is None or operation in label.operations
                ),
                serverkeygen=label.serverkeygen,
                registration_authorities=label.registration_authorities,
            )
            for name, label in settings.labels.items()
        }
        blocking = frozenset(item.id for item in settings.sinks if item.on_failure == "block")
        audit_gate = AuditGate(store, blocking)
        enrolment = Enrolment(
            store=store,
            spenders=spenders,
            clock=clock,
            ca_timeout=settings.est.ca_timeout,
            make_slow_key=foundation.keys.make,
            key_encryption=_key_encryption(settings),
            audit_gate=audit_gate,
            process=foundation.incarnation.name,
            checkpoint=checkpoint,
        )
        outbox = await stack.enter_async_context(open_outbox(store, sinks, urgent=blocking, begin=feeding == "now"))
        node_key, trusted = (None, TrustedKeys()) if feeding == "never" else node_keys(settings.audit)
        head_signer = await stack.enter_async_context(
            open_signer(
                store,
                node_key,
                trusted=trusted,
                interval=settings.audit.head_interval,
                begin=feeding == "now",
            )
        )
        await stack.enter_async_context(summing(failures.sum_up))  # its end has sums that the outbox is to carry
        recover = recovery(
            store,
            spenders=spenders,
            backends=backends,
            clock=clock,
            ca_timeout=settings.est.ca_timeout,
            revoke_replaced={
                name: profile.revoke_replaced_after
                for name, profile in settings.profiles.items()
                if profile.revoke_replaced_after is not None
            },
        )
        if inherits:
            await recover(foundation.incarnation)
        revocations = Revocations(store=store, backends=backends, ca_timeout=settings.est.ca_timeout)
        holder = f"{store.node}/{foundation.incarnation.name}"
        jobs = {
            "recovery": recover,
            "revocations": revocations.tell_untold,
            "replaced": partial(revocations.revoke_replaced, _revokes_replaced(settings)),
            "name_changes": partial(forget_ended, store),
        }
        await stack.enter_async_context(open_jobs(store, jobs, holder=holder))
        stack.push_async_callback(enrolment.drain)
        readiness = await stack.enter_async_context(
            open_readiness(
                store=store,
                backends=backends,
                audit_gate=audit_gate,
                others={
                    **{f"method {name}": method for name, method in methods.items()},
                    **{f"sink {name}": sink for name, sink in sinks.items()},
                },
                watch=watch,
            )
        )
        yield Runtime(
            settings=settings,
            store=store,
            enrolment=enrolment,
            labels=labels,
            routes=tuple(
                PluginRoute(route=route, opened=opened[name], services=services(name), plugin=name)
                for name, route in plugins.admin_routes
                if name in opened
            ),
            administrators=administrators,
            host_services=services("admin"),
            revocations=revocations,
            outbox=outbox,
            head_signer=head_signer,
            audit_gate=audit_gate,
            failures=failures,
            readiness=readiness,
            anchors=_union(door.anchors for door in doors.values()),
            max_header_size=_header_size(settings, needs_of(composition)),
            plugin_names=tuple(sorted(plugins.loaded)),
            checkpoint=checkpoint,
        )


@asynccontextmanager
async def open_plugin(composition: Composition, name: str) -> AsyncGenerator[tuple[object, Services], None]:
    """For a plugin's command: its opened authenticator, beside a server that may be running (RULES K7)."""
    settings, plugins = composition.settings, composition.plugins
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(2))
        store = await stack.enter_async_context(_store(composition, clock=utc_now))
        services = partial(_services, store=store, pool=pool, clock=utc_now)
        if name not in settings.authenticators:
            where = f"there is no section [{name}] in {settings.file}, or it is off"
            raise StartupError(f"{where}; write [{name}] to use its commands")
        kind = plugins.authenticators[name]
        opening = _Opening(stack=stack, composition=composition, services=services, watch=Watch())
        opened, _ = await opening.open(
            name, kind.open, settings.authenticators[name], Authenticator, AUTHENTICATOR_TIMEOUT
        )
        yield opened, services(name)


@asynccontextmanager
async def open_backend(composition: Composition, ca: str, store: Store) -> AsyncGenerator[CABackend, None]:
    """For the host's own commands: the CA of that id over an open store. Raises `PluginError`."""
    settings = composition.settings
    item = settings.ca(ca)
    kind = composition.plugins.ca_backends[item.backend]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(1))
        services = partial(_services, store=store, pool=pool, clock=store.clock)
        opening = _Opening(stack=stack, composition=composition, services=services, watch=Watch())
        limit = settings.est.ca_timeout
        _, backend = await opening.open(item.backend, kind.open, item.settings, CABackend, limit, id=ca)
        yield backend


@asynccontextmanager
async def open_admin_store(composition: Composition) -> AsyncGenerator[Store, None]:
    """For the host's own commands: the store, beside a server that may be running (RULES K7)."""
    async with _store(composition, clock=utc_now) as store:
        yield store


def node_keys(section: AuditSection) -> tuple[NodeKey | None, TrustedKeys]:
    """This node's own key, and all whose signatures in the audit log count. Raises `StartupError`."""
    own = None if section.node_key is None else NodeKey.load(section.node_key)
    others = [load_public_key(file) for file in section.trusted_keys]
    return own, TrustedKeys(others if own is None else [own.public, *others])


def _store(
    composition: Composition, *, clock: Callable[[], datetime], run: str | None = None, exclusive: bool = False
) -> Any:
    settings = composition.settings
    return open_store(
        settings.db.url,
        node=settings.server.node,
        clock=clock,
        seal=seal,
        storages=composition.plugins.storages,
        commit_limit=settings.db.commit_timeout,
        run=run,
        queue_limit=settings.db.queue_limit,
        exclusive=exclusive,
    )


def _services(plugin: str, *, store: Store, pool: BoundedThreads, clock: Callable[[], datetime]) -> Services:
    log = cast("FilteringBoundLogger", structlog.get_logger(plugin))
    return HostServices(plugin=plugin, store=store, pool=pool, clock=clock, log=log.bind(plugin=plugin))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opening:
    """Opens objects of plugins, each within `[plugins] start_timeout`; the stack closes them."""

    stack: AsyncExitStack
    composition: Composition
    services: Callable[[str], Services]
    watch: Watch

    async def open(
        self,
        plugin: str,
        opener: Callable[[Any, Services], Any],
        settings: BaseModel,
        role: type,
        limit: timedelta,
        *,
        id: str | None = None,  # noqa: A002 - the key is called id in the file
    ) -> tuple[Any, Any]:
        """The object as it is, for the plugin's own routes and commands, and the host's side of its border.

        `limit` is how long a call of it may take. Whatever the opener raises is reported with the plugin's name. Raises `PluginError`.
        """
        patience = self.composition.settings.plugins.start_timeout.total_seconds()
        border = Border(plugin=plugin, watch=self.watch, limit=limit, id=id)
        scope = asyncio.timeout(patience)
        owner = self.composition.plugins.owner(plugin)
        try:
            # An opener that blocks the event loop is not ended by the time limit either.
            with told_when_slow(plugin, owner, "being opened"):
                async with scope:
                    opened = await self.stack.enter_async_context(opener(settings, self.services(plugin)))
            return opened, border.around(opened, role)
        except Exception as error:
            if scope.expired():
                problem = f"it was not open after {patience:g} seconds"
                remedy = "look at what it waits for, give it more with [plugins] start_timeout, or switch it off in [plugins] disabled"
            else:
                problem, remedy = str(error) or type(error).__name__, None
            fault = self.composition.plugins.fault(plugin, stage="open", problem=problem, remedy=remedy)
            raise PluginError([fault]) from error


def _label_authentication(
    settings: Settings,
    label: Label,
    *,
    chain: Authentication,
    store: Store,
    failures: Failures,
    clock: Callable[[], datetime],
    issuer: Callable[[], Awaitable[x509.Certificate]],
) -> LabelAuthentication:
    client_auth = _client_auth(settings)
    anchors: AnchorSet | None = None
    if client_auth is not None and client_auth.mode != "none" and "mtls" in label.auth:
        file = label.client_anchors or client_auth.trust_anchors
        anchors = None if file is None else read_anchors(file)
    return LabelAuthentication(
        chain=chain,
        methods=frozenset(label.auth),
        anchors=anchors,
        certificate_is_required=client_auth is not None and client_auth.mode == "required",
        store=store,
        failures=failures,
        clock=clock,
        require=label.require,
        foreign_clients=label.foreign_clients,
        issuer=issuer,
        late_renewal=LateRenewal(ca=label.ca, label=label.name, allowed=label.profile.allow_expired_for),
    )


async def _issuer_of(backend: CABackend, *, ca: str, plugin: str, patience: timedelta) -> x509.Certificate:
    """The certificate that a CA issues with. Raises BackendError."""
    return (await ask_authority(backend.ca_certificates(), ca=ca, plugin=plugin, patience=patience)).issuer


def _revokes_replaced(settings: Settings) -> Mapping[str, timedelta]:
    """The profiles whose replaced certificates are revoked, with how long each lets an expired one renew."""
    return {
        name: profile.allow_expired_for
        for name, profile in settings.profiles.items()
        if profile.revoke_replaced_after is not None
    }


def _administrators(
    section: AdminSection, *, store: Store, lockouts: Lockouts, clock: Callable[[], datetime]
) -> Administrators:
    tokens: BearerTokens | None = None
    if section.bearer_token is not None and section.bearer_token.enabled:
        items = section.bearer_token.tokens
        configured = {item.token_hash.removeprefix("sha256:"): item.description for item in items}
        tokens = BearerTokens(configured=configured, store=store, lockouts=lockouts)
    file = None if section.tls is None or section.tls.mode == "none" else section.tls.trust_anchors
    return Administrators(
        mode=section.certificates,
        anchors=None if file is None else read_anchors(file),
        allow=() if section.tls is None else section.tls.patterns,
        tokens=tokens,
        records=records_of(store),
        clock=clock,
    )


def _client_auth(settings: Settings) -> ClientAuth | None:
    section = settings.authenticators.get("mtls")
    return section if isinstance(section, ClientAuth) else None


def read_anchors(file: Path) -> AnchorSet:
    """The CA certificates of a PEM file. Raises `StartupError`."""
    return AnchorSet(_read_certificates(file))


def _key_encryption(settings: Settings) -> KeyEncryption:
    """What private keys are encrypted with (RULES J1). Raises `StartupError`."""
    if not any(label.serverkeygen for label in settings.labels.values()):
        return KeyEncryption()
    est, tls = settings.est, settings.tls
    recipients = _read_recipients(est.serverkeygen_recipients)
    if est.serverkeygen_signer_cert is not None and est.serverkeygen_signer_key is not None:
        cert, file, secret = (
            est.serverkeygen_signer_cert,
            est.serverkeygen_signer_key,
            est.serverkeygen_signer_key_password,
        )
    else:
        cert, file, secret = tls.cert, tls.key, tls.key_password
    certificates = _read_certificates(cert)
    key = _read_key(file, None if secret is None else secret.get_secret_value().encode())
    if key.public_key() != certificates[0].public_key():
        raise StartupError(f"{file}: it is not the key of the certificate in {cert}")
    try:
        signer = KeySigner(certificates=certificates, key=key)
    except ValueError as error:
        if file != tls.key:
            raise StartupError(f"{file}: private keys cannot be signed with it: {error}") from error
        signer = None  # `kipuka check` says so
    return KeyEncryption(signer=signer, recipients=recipients)


def _read_certificates(file: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(file.read_bytes()))
    except OSError as error:
        raise StartupError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"{file}: there is no PEM certificate in it, or one that cannot be parsed") from error


def _read_recipients(file: Path | None) -> Mapping[bytes, x509.Certificate]:
    if file is None:
        return {}
    found = _read_certificates(file)
    for certificate in found:
        problem = unsuited(certificate)
        if problem is not None:
            raise StartupError(f"{file}: nothing can be encrypted to {format_dn(certificate.subject)}: {problem}")
    return {key_identifier(certificate): certificate for certificate in found}


def _read_key(file: Path, password: bytes | None) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(file.read_bytes(), password)
    except OSError as error:
        raise StartupError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # cryptography's text may quote the file
        raise StartupError(
            f"{file}: it cannot be read as a private key, or its password is missing or wrong"
        ) from error


def _union(sets: Iterable[AnchorSet | None]) -> tuple[x509.Certificate, ...]:
    """Every certificate of the sets, once."""
    return tuple(dict.fromkeys(anchor for anchors in sets if anchors is not None for anchor in anchors.certificates))
