"""What supervisor and workers say to each other, and how long the supervisor waits for what."""

from __future__ import annotations

import os
import signal

import pytest

from kipuka.api import AlreadyRunning, BackendUnavailable, KipukaError, ServerStopped, StartupError, WorkerDied
from kipuka.http import messages
from kipuka.http.forking import ended, fork, fork_for_answer
from kipuka.http.supervisor import LONGEST_PAUSE, Verdict, _back_off, _startup_error, examine
from kipuka.http.worker import Fault, problems_of

# The processes that pytest-xdist runs tests in have threads; a supervisor has none.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

EVENTS = (ServerStopped(pid=7), WorkerDied(worker=1, pid=8, cause="signal 9 (SIGKILL)"))


@pytest.mark.parametrize(
    "message",
    [
        messages.Serve(events=messages.told(EVENTS)),
        messages.Record(events=messages.told(EVENTS)),
        messages.Finish(),
        messages.Prepare(reload=3, sha256="00"),
        messages.Commit(),
        messages.Abandon(),
        messages.Stop(),
        messages.Hasten(),
        messages.Opened(),
        messages.Serving(),
        messages.Failed(kind="not_ready", text="one\ntwo"),
        messages.Recorded(),
        messages.Prepared(reload=3),
        messages.Refused(reload=3, problems=("one", "two")),
        messages.Committed(),
        messages.Drained(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_is_one_line_and_comes_back_as_it_was(message):
    line = messages.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    again = messages.decode(line)
    assert type(again) is type(message)
    if isinstance(message, messages.Serve | messages.Record | messages.Finish):
        assert messages.events_of(again) == messages.events_of(message)
    else:
        assert again == message


def test_every_message_can_be_sent():
    kinds = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, messages.Message)}
    assert {kind.__name__ for kind in kinds - {messages.Message}} == set(messages._MESSAGES)


def test_the_first_replacement_comes_at_once_and_a_series_of_short_lives_is_slowed_down():
    pauses = [_back_off(number) for number in range(1, 12)]
    assert pauses[:4] == [0.0, 0.5, 1.0, 2.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(messages.Failed(kind=Fault.OCCUPIED, text="taken"), AlreadyRunning, id="occupied"),
        pytest.param(messages.Failed(kind=Fault.NOT_READY, text="taken"), StartupError, id="not ready"),
        pytest.param(messages.Failed(kind=Fault.TRY_AGAIN, text="taken"), BackendUnavailable, id="try again"),
        pytest.param(messages.Failed(kind=Fault.FAILED, text="taken"), KipukaError, id="failed"),
    ],
)
def test_what_the_first_worker_could_not_start_for_is_told_as_if_there_were_one_process(fault, kind):
    error = _startup_error(fault, 256)
    assert type(error) is kind
    assert "taken" in str(error)


def test_a_first_worker_that_was_killed_is_said():
    assert "signal 9 (SIGKILL)" in str(_startup_error(None, 9))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(StartupError("one\ntwo"), ("one", "two"), id="ours"),
        pytest.param(BackendUnavailable("away", reason="x"), ("away",), id="a backend"),
        pytest.param(FileNotFoundError(2, "No such file", "/x"), ("/x: No such file",), id="the system's"),
        pytest.param(ExceptionGroup("g", [StartupError("one")]), ("one",), id="a group of one"),
    ],
)
def test_problems_are_told_in_lines(error, told):
    assert problems_of(error) == told


def test_the_text_of_a_strange_error_is_not_told():
    """Guarantee 8: it may hold anything."""
    (text,) = problems_of(ValueError("hunter2"))
    assert "ValueError" in text
    assert "hunter2" not in text


def nothing():
    pass


@pytest.mark.crash
def test_a_child_never_returns_into_its_parents_stack():
    parent = os.getpid()
    for body, says in (
        (lambda: 7, "exit status 7"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal 9 (SIGKILL)"),
    ):
        pid = fork(body, forget=nothing)
        assert os.getpid() == parent
        assert ended(os.waitpid(pid, 0)[1]) == says


@pytest.mark.crash
def test_a_child_heeds_none_of_the_supervisors_signals(tmp_path):
    ready = tmp_path / "ready"

    def body():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        ready.touch()
        return 0

    pid = fork(body, forget=nothing)
    assert ended(os.waitpid(pid, 0)[1]) == "exit status 0"
    assert ready.exists()


@pytest.mark.crash
def test_an_answer_comes_down_the_pipe():
    child = fork_for_answer(lambda: b"x" * 200_000, forget=nothing)
    with open(child.pipe, "rb") as pipe:  # noqa: PTH123 - a descriptor
        assert pipe.read() == b"x" * 200_000
    os.waitpid(child.pid, 0)


@pytest.mark.crash
def test_an_examination_leaves_nothing_in_the_process_that_asked_for_it():
    seen = []

    def examination(composition):
        seen.append(composition)
        return Verdict(errors=("wrong",), permissive=("a.b",))

    assert examine(None, examination) == Verdict(errors=("wrong",), permissive=("a.b",))
    assert seen == []


@pytest.mark.crash
def test_an_examination_that_breaks_off_is_said():
    def killed(_composition):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(KipukaError, match=r"broke off: signal 9 \(SIGKILL\)"):
        examine(None, killed)


@pytest.mark.crash
def test_an_examination_that_raises_is_an_error_without_its_text(monkeypatch):
    def raises(_composition):
        raise ValueError("hunter2")

    monkeypatch.delenv("KIPUKA_DEBUG", raising=False)
    verdict = examine(None, raises)
    assert "ValueError" in verdict.errors[0]
    assert "hunter2" not in verdict.errors[0]
