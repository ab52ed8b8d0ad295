"""Forking: a child that runs one function and ends, whatever happens in it.

In the room: the fork, what a child must forget of its parent, and how it ends. Not in the room: what children do.

A child never returns into its parent's stack, nor does it run what the parent has to run at its exit.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

__all__ = ["SUPERVISED_SIGNALS", "AnswerChild", "ended", "fork", "fork_for_answer"]

SUPERVISED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that mean something to the supervisor, and nothing to its children."""

_NOT_AT_THE_FORK = {*SUPERVISED_SIGNALS, signal.SIGCHLD}


def fork(body: Callable[[], int], *, forget: Callable[[], None]) -> int:
    """Run `body` in a child process, whose exit status it gives; the parent is given the child's id.

    `forget` is run first in the child: it closes what is the parent's alone.
    """
    # A signal between the fork and the child's own handlers would be taken by the parent's, which share its pipe.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_AT_THE_FORK)
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else what waits in the buffers is written by both
        pid = os.fork()
        if pid:
            return pid
        _be_the_child(body, forget, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_the_child(body: Callable[[], int], forget: Callable[[], None], mask: Iterable[int]) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in SUPERVISED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        forget()
        status = body()
    except BaseException as error:  # noqa: BLE001 - nothing may leave: the parent's stack is above
        traceback.print_exception(error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                status = status or 1
        os._exit(status)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerChild:
    """A child that writes one answer to a pipe and ends."""

    pid: int
    pipe: int  # to read from; the reader closes it


def fork_for_answer(question: Callable[[], bytes], *, forget: Callable[[], None]) -> AnswerChild:
    """Run `question` in a child; its answer comes down the pipe, then the pipe's end. Where there is none, it has failed."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def answer() -> int:
        os.close(reading)
        with open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(question())
        return 0

    try:
        pid = fork(answer, forget=forget)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return AnswerChild(pid=pid, pipe=reading)


def ended(status: int) -> str:
    """How a process ended, in words, from what `os.waitpid` says."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
