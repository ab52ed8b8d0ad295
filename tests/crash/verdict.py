"""The verdict over a run: what clients wrote down, held against what the database has.

    python verdict.py --database URL [--replay-window SECONDS] [--running] JOURNAL...

In the room: reading journals and rows, and the rules that a run has to keep. Not in the room: kipuka. Nothing of it is imported, so that
a fault of the server cannot hide itself here; canonical JSON (RFC 8785) and the serial number of a certificate are read by code of this file's own.

A journal is a file of JSON lines. A client writes an intent before it sends a request, and a result when it knows what came of it:

    {"record": "before", "at": 0, "enrolments": [ID, ...]}
    {"record": "token", "at": 1, "id": ..., "max_uses": 3}
    {"record": "intent", "at": 2, "attempt": "client-1/1", "csr": BASE64, "token": ID or null}
    {"record": "result", "at": 3, "attempt": "client-1/1", "status": 200, "certificate": BASE64}
    {"record": "kill", "began": 4, "ended": 5, "what": "...", "of_database": false}

Times are of one monotonic clock. A status of null is a connection that broke: whether the request came to anything is not known to
who sent it. "before" names what was there before the run. An attempt was in flight at a kill when it had been begun before the kill had ended and was not over when the kill began.
Where it is a database across a network that was killed ("of_database"), an attempt in flight that was answered 503 is as open as one whose connection broke: nobody could ask
what became of its last COMMIT.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
WORKED_ON = frozenset({"reserved", "signing"})
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must not be. `rule` is a short word for it, `place` says where to look."""

    rule: str
    place: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.place}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of a client, and what came of it."""

    name: str
    place: str
    csr: bytes
    token: str | None
    began: int
    ended: float = math.inf  # never, for one without a result
    status: int | None = None
    certificate: bytes | None = None

    @property
    def is_open(self) -> bool:
        """Whether the client cannot know what came of it."""
        return self.status is None


@dataclass(slots=True)
class Journals:
    """What the clients of a run wrote down."""

    attempts: dict[str, Attempt] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)  # id to max_uses
    before: set[str] = field(default_factory=set)  # enrolments that this run did not make
    kills: list[tuple[int, int, bool]] = field(default_factory=list)  # began, ended, of the database
    findings: list[Finding] = field(default_factory=list)

    def could_be_lost(self, attempt: Attempt) -> bool:
        """Whether a kill came between the request and its answer."""
        if not attempt.is_open and attempt.status != _UNAVAILABLE:
            return False
        return any(
            attempt.began <= ended and attempt.ended >= began and (attempt.is_open or of_database)
            for began, ended, of_database in self.kills
        )


def read_journals(files: Iterable[Path]) -> Journals:
    """Every record of every file. What cannot be read is a finding."""
    journals = Journals()
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            place = f"{file.name} line {number}"
            try:
                _take(journals, json.loads(line), place)
            except (ValueError, KeyError, TypeError) as error:
                journals.findings.append(Finding("journal", place, f"cannot be read: {error!r}"))
    return journals


def _take(journals: Journals, record: Mapping[str, Any], place: str) -> None:
    match record["record"]:
        case "before":
            journals.before.update(record["enrolments"])
        case "token":
            journals.tokens[record["id"]] = int(record["max_uses"])
        case "kill":
            journals.kills.append((int(record["began"]), int(record["ended"]), bool(record.get("of_database"))))
        case "intent":
            name = record["attempt"]
            if name in journals.attempts:
                journals.findings.append(Finding("journal", place, f"a second intent of {name}"))
            journals.attempts[name] = Attempt(
                name=name, place=place, csr=base64.b64decode(record["csr"]), token=record["token"], began=record["at"]
            )
        case "result":
            intent = journals.attempts.get(record["attempt"])
            if intent is None or intent.ended != math.inf:
                journals.findings.append(Finding("journal", place, "a result that belongs to no open intent"))
                return
            der = record.get("certificate")
            journals.attempts[intent.name] = Attempt(
                name=intent.name,
                place=intent.place,
                csr=intent.csr,
                token=intent.token,
                began=intent.began,
                ended=record["at"],
                status=record["status"],
                certificate=None if der is None else base64.b64decode(der),
            )
        case other:
            raise ValueError(f"no such record: {other}")


# --- the database ---


Query = Callable[[str], list[dict[str, Any]]]


def read_database(url: str) -> dict[str, list[dict[str, Any]]]:
    """The rows that matter, of one state of the database. `url` is that of kipuka's `[db] url`."""
    statements = {
        "certificates": "SELECT fingerprint, ca, serial, der, enrolment FROM certificates",
        "enrolments": "SELECT id, state, claim_plugin, claim_ref, csr, certificate FROM enrolments",
        "tokens": "SELECT id, max_uses, used, held FROM otp_tokens",
        "events": "SELECT node, sequence, event, hash, line FROM audit_events ORDER BY node, sequence",
        "heads": "SELECT node, sequence, hash FROM audit_heads",
    }
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN")
            return {name: _sqlite_rows(database, statement) for name, statement in statements.items()}
    import sqlalchemy  # only a database across a network needs it

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            rows = {
                name: [dict(row) for row in connection.execute(sqlalchemy.text(statement)).mappings()]
                for name, statement in statements.items()
            }
    finally:
        engine.dispose()
    for row in (*rows["certificates"], *rows["enrolments"]):
        row.update({key: bytes(value) for key, value in row.items() if isinstance(value, memoryview)})
    return rows


def _sqlite_rows(database: sqlite3.Connection, statement: str) -> list[dict[str, Any]]:
    cursor = database.execute(statement)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


# --- the rules ---


def judge(
    journals: Sequence[Path], database_url: str, *, replay_window: int = 0, settled: bool = True
) -> list[Finding]:
    """Everything that is wrong with a run. `settled`: it is over, and the server has had the time to recover."""
    told = read_journals(journals)
    rows = read_database(database_url)
    run = _Run(told, rows, replay_window=replay_window, settled=settled)
    return [*told.findings, *run.findings()]


@dataclass(slots=True)
class _Run:
    told: Journals
    rows: dict[str, list[dict[str, Any]]]
    replay_window: int
    settled: bool
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # place and content, those that can be read

    def findings(self) -> Iterator[Finding]:
        yield from self._chains()
        yield from self._certificates()
        yield from self._events_of_certificates()
        yield from self._held()
        yield from self._requests()
        yield from self._tokens()
        yield from self._open()

    # -- the audit log --

    def _chains(self) -> Iterator[Finding]:
        chains: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows["events"]:
            chains[row["node"]].append(row)
        heads = {head["node"]: head for head in self.rows["heads"]}
        for node in sorted(chains.keys() | heads.keys()):
            last, previous = 0, GENESIS
            for row in chains[node]:
                place = f"audit event {node}/{row['sequence']}"
                if row["sequence"] != last + 1:
                    yield Finding("audit_gap", place, f"it follows {last}")
                yield from self._event(place, row, previous)
                last, previous = row["sequence"], row["hash"]
            head = heads.get(node)
            if head is None or (head["sequence"], head["hash"]) != (last, previous):
                yield Finding("audit_head", f"audit head of {node}", f"it is not the last event, {last}")

    def _event(self, place: str, row: Mapping[str, Any], previous: str) -> Iterator[Finding]:
        line = row["line"]
        if hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest() != row["hash"]:
            yield Finding("audit_hash", place, "the hash is not that of the line")
        try:
            content = json.loads(line)
            if canonical(content) != line:
                yield Finding("audit_form", place, "the line is not canonical JSON")
            if (content["node"], content["sequence"], content["event"]) != (row["node"], row["sequence"], row["event"]):
                yield Finding("audit_columns", place, "the line says another node, number or name than the row")
            if content["previous_hash"] != previous:
                yield Finding("audit_chain", place, "it does not follow the event before it")
            self.events.append((place, content))
        except (ValueError, KeyError, TypeError) as error:
            yield Finding("audit_form", place, f"cannot be read: {error!r}")

    # -- the record --

    def _certificates(self) -> Iterator[Finding]:
        serials: dict[tuple[str, str], str] = {}
        issued = Counter(row["certificate"] for row in self.rows["enrolments"] if row["certificate"] is not None)
        known: set[str] = set()
        for row in self.rows["certificates"]:
            fingerprint, place = row["fingerprint"], f"certificate {row['fingerprint']}"
            known.add(fingerprint)
            if fingerprint_of(row["der"]) != fingerprint:
                yield Finding("fingerprint", place, "it is not that of the certificate in the row")
            serial = f"{serial_of(row['der']):x}"
            if serial != row["serial"]:
                yield Finding("serial", place, f"the row says {row['serial']}, the certificate {serial}")
            other = serials.setdefault((row["ca"], serial), fingerprint)
            if other != fingerprint:
                yield Finding("serial_twice", place, f"{row['ca']} gave serial {serial} to {other} too")
            if issued[fingerprint] != 1:
                yield Finding("enrolment", place, f"{issued[fingerprint]} enrolments ended with it")
        for row in self.rows["enrolments"]:
            place = f"enrolment {row['id']}"
            if (row["state"] == "issued") != (row["certificate"] is not None):
                yield Finding("enrolment", place, f"it is {row['state']}, with certificate {row['certificate']}")
            elif row["certificate"] is not None and row["certificate"] not in known:
                yield Finding("not_recorded", place, f"its certificate {row['certificate']} is not recorded")

    def _events_of_certificates(self) -> Iterator[Finding]:
        told: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        for place, content in self.events:
            if content["event"] == "certificate_issued":
                told[content["data"]["fingerprint"]].append((place, content["data"]))
        for row in self.rows["certificates"]:
            events = told.pop(row["fingerprint"], [])
            place = f"certificate {row['fingerprint']}"
            if len(events) != 1:
                yield Finding("issued_event", place, f"it has {len(events)} events certificate_issued, not one")
            for where, data in events:
                if (data["serial"], data["enrolment"]) != (row["serial"], row["enrolment"]):
                    yield Finding("issued_event", where, f"it tells another serial or enrolment than {place}")
        for fingerprint, events in told.items():
            yield Finding("not_recorded", events[0][0], f"certificate {fingerprint} is not recorded")

    # -- what clients hold --

    def _held(self) -> Iterator[Finding]:
        recorded = {row["fingerprint"]: row for row in self.rows["certificates"]}
        enrolments = {row["certificate"]: row for row in self.rows["enrolments"] if row["certificate"] is not None}
        holders: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.told.attempts.values():
            if (attempt.status == 200) != (attempt.certificate is not None):
                yield Finding("journal", attempt.place, "a success without a certificate, or the other way round")
            if attempt.certificate is None:
                continue
            fingerprint = fingerprint_of(attempt.certificate)
            holders[fingerprint].append(attempt)
            row = recorded.get(fingerprint)
            if row is None:
                yield Finding("not_recorded", attempt.place, f"the client's certificate {fingerprint} is not recorded")
                continue
            enrolment = enrolments.get(fingerprint)
            if enrolment is None:
                continue  # found among the certificates
            if enrolment["csr"] != attempt.csr:
                yield Finding("another_request", attempt.place, f"enrolment {enrolment['id']} was another request")
            claim = enrolment["claim_ref"] if enrolment["claim_plugin"] == "otp" else None
            if claim != attempt.token:
                yield Finding("another_use", attempt.place, f"enrolment {enrolment['id']} spent a use of {claim}")
        for fingerprint, attempts in holders.items():
            if len(attempts) > 1 and not self.replay_window:
                places = ", ".join(attempt.place for attempt in attempts)
                yield Finding("handed_out_twice", places, f"certificate {fingerprint}")

    def _requests(self) -> Iterator[Finding]:
        """Nothing is recorded that no client asked for, and what no client has was in flight at a kill."""
        asked: dict[bytes, list[Attempt]] = defaultdict(list)
        for attempt in self.told.attempts.values():
            asked[attempt.csr].append(attempt)
        recorded: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows["enrolments"]:
            if row["certificate"] is not None and row["id"] not in self.told.before:
                recorded[row["csr"]].append(row)
        for csr, enrolments in recorded.items():
            attempts = asked.get(csr, [])
            places = ", ".join(f"enrolment {row['id']}" for row in enrolments)
            if not attempts:
                yield Finding("not_asked_for", places, "no client sent this request")
                continue
            held = {fingerprint_of(one.certificate) for one in attempts if one.certificate is not None}
            lost = [row for row in enrolments if row["certificate"] not in held]
            could = [one for one in attempts if self.told.could_be_lost(one)]
            if len(lost) > len(could):
                detail = f"{len(lost)} certificates that no client has, {len(could)} attempts in flight at a kill"
                yield Finding("lost", places, detail)
            if self.replay_window and attempts[0].token is not None:
                if len(enrolments) > 1:
                    yield Finding("issued_twice", places, "one request by one token, asked again within the window")
                if lost and self.settled:
                    yield Finding("lost", places, "asked again within the window, and not answered with it")

    # -- uses --

    def _tokens(self) -> Iterator[Finding]:
        issued: Counter[str] = Counter()
        worked_on: Counter[str] = Counter()
        for row in self.rows["enrolments"]:
            if row["claim_plugin"] != "otp":
                continue
            if row["certificate"] is not None:
                issued[row["claim_ref"]] += 1
            if row["state"] in WORKED_ON:
                worked_on[row["claim_ref"]] += 1
        known = {row["id"]: row for row in self.rows["tokens"]}
        for token in sorted((self.told.tokens.keys() | issued.keys()) - known.keys()):
            yield Finding("token_missing", f"token {token}", "it is not in the database")
        for token, row in known.items():
            place = f"token {token}"
            if row["max_uses"] != self.told.tokens.get(token, row["max_uses"]):
                yield Finding("token_uses", place, f"made for {self.told.tokens[token]} uses, has {row['max_uses']}")
            if issued[token] != row["used"]:
                yield Finding("token_uses", place, f"{row['used']} uses spent, {issued[token]} certificates recorded")
            if max(row["used"], issued[token]) + row["held"] > row["max_uses"]:
                detail = f"{row['used']} spent, {issued[token]} issued, {row['held']} held, of {row['max_uses']}"
                yield Finding("token_uses", place, detail)
            if row["held"] != worked_on[token]:
                detail = f"{row['held']} uses held, {worked_on[token]} enrolments under way"
                yield Finding("token_held", place, detail)
        for attempt in self.told.attempts.values():
            if attempt.token is not None and attempt.token not in self.told.tokens:
                yield Finding("journal", attempt.place, f"token {attempt.token} was never made")

    def _open(self) -> Iterator[Finding]:
        if not self.settled:
            return
        for row in self.rows["enrolments"]:
            if row["state"] in WORKED_ON:
                yield Finding("left_behind", f"enrolment {row['id']}", f"it is {row['state']}")


# --- formats ---


def fingerprint_of(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def serial_of(der: bytes) -> int:
    """The serial number of a certificate: Certificate, TBSCertificate, after the optional [0] version (RFC 5280, 4.1)."""
    _, certificate = _element(der, 0)
    _, tbs = _element(der, certificate.start)
    tag, inside = _element(der, tbs.start)
    if tag == 0xA0:
        tag, inside = _element(der, inside.stop)
    if tag != 0x02:
        raise ValueError("no serial number where a certificate has it")
    return int.from_bytes(der[inside.start : inside.stop], "big", signed=True)


def _element(der: bytes, at: int) -> tuple[int, range]:
    """The tag at that place, and where its content is (X.690, 8.1)."""
    tag, length, at = der[at], der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, at = int.from_bytes(der[at : at + octets], "big"), at + octets
    return tag, range(at, at + length)


def canonical(value: object) -> str:
    """Canonical JSON (RFC 8785). Raises ValueError for what has no such form."""
    match value:
        case None | bool():
            return json.dumps(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            if abs(value) >= 1 << 53:
                raise ValueError(f"{value} is no exact number of JSON")
            return str(value)
        case float():
            return _number(value)
        case list():
            return f"[{','.join(map(canonical, value))}]"
        case dict():
            members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
            return f"{{{','.join(f'{canonical(name)}:{canonical(member)}' for name, member in members)}}}"
        case _:
            raise ValueError(f"JSON has no {type(value).__name__}")


def _number(value: float) -> str:
    """A number as ECMAScript writes it (RFC 8785, 3.2.2.3; ECMA-262, Number::toString)."""
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    parts = Decimal(repr(abs(value))).normalize().as_tuple()
    digits = "".join(map(str, parts.digits))
    point = len(digits) + int(parts.exponent)  # where the decimal point stands, counted from the first digit
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; exit code 1 where there are any."""
    parser = argparse.ArgumentParser(description="The verdict over a run of enrolments.")
    parser.add_argument("--database", required=True, metavar="URL")
    parser.add_argument("--replay-window", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--running", action="store_true", help="the server is at work: uses may be held")
    parser.add_argument("journals", nargs="+", type=Path, metavar="JOURNAL")
    options = parser.parse_args(arguments)
    findings = judge(
        options.journals, options.database, replay_window=options.replay_window, settled=not options.running
    )
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "nothing lost, nothing doubled")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
