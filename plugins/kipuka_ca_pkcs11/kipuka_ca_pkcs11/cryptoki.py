"""The PKCS#11 library of a vendor, loaded into this process once, whoever uses it.

In the room: `Module` (a started library: who works with it now, starting it again, its logins) and how one is had (`borrow`). Not in the
room: which token and key are meant, and sessions (`kipuka_ca_pkcs11.tokens`).

PKCS#11 2.40, 5.4: a library is initialised once per process, and not before a fork. A login, too, counts for the whole process and token
(5.6, C_Login), so that two authorities, or the old and the new runtime during a reload, have one between them: the last one logs out.

`pkcs11.lib` initialises a library with no arguments, by which the application promises to call it from one thread at a time. This one calls it from
several: the library is told so (CKF_OS_LOCKING_OK) by a C_Initialize of our own.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error, UserAlreadyLoggedIn

__all__ = ["Module", "ModuleFault", "Refusal", "borrow", "describe", "give_back"]

CKF_OS_LOCKING_OK = 0x2
CKR_OK = 0x0
CKR_CANT_LOCK = 0xA
CKR_CRYPTOKI_NOT_INITIALIZED = 0x190
CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191


class ModuleFault(Exception):
    """The library cannot be used, now or at all. The text is for the administrator."""


class Refusal(Exception):
    """The token does not let us in with this PIN, or must not be asked. The text never has the PIN."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS (PKCS#11 2.40, 3.7)."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class _FunctionList(ctypes.Structure):
    """The beginning of CK_FUNCTION_LIST (PKCS#11 2.40, 3.6)."""

    _fields_ = (
        ("major", ctypes.c_ubyte),
        ("minor", ctypes.c_ubyte),
        ("initialize", ctypes.c_void_p),
        ("finalize", ctypes.c_void_p),
    )


class _Calls:
    """C_Initialize and C_Finalize of a library."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        functions = ctypes.POINTER(_FunctionList)()
        code = int(library.C_GetFunctionList(ctypes.byref(functions)))
        if code != CKR_OK:
            raise ModuleFault(f"{path} does not give its functions: C_GetFunctionList answers {code:#x}")
        signature = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)
        self._initialize = signature(functions.contents.initialize)
        self._finalize = signature(functions.contents.finalize)

    def initialize(self) -> int:
        arguments = _InitializeArgs(flags=CKF_OS_LOCKING_OK)
        return int(self._initialize(ctypes.addressof(arguments)))

    def finalize(self) -> int:
        return int(self._finalize(None))


class Module:
    """A library in this process. Its methods may be called from any thread; all may block as long as the library does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0  # guarded by the registry's lock
        self._process = os.getpid()
        self._state = threading.Condition()
        self._calls: _Calls | None = None
        self._library: Any = None
        self._up = False
        self._active = 0  # calls under way, which a restart must not pull the library away from
        self._restarting = False
        self._generation = 0  # counts the starts: a session of an earlier one is gone
        self._logins: dict[bytes, _Login] = {}  # by the token's serial number

    @property
    def generation(self) -> int:
        """Changes when the library is started again: every session and login is gone then."""
        return self._generation

    @property
    def is_up(self) -> bool:
        """Whether the library is initialised."""
        return self._up

    def stop_unless_used(self, *, patience: float) -> None:
        """Finalise the library when nobody has it any more: sessions and logins end. One that is in the middle of a call is left as it is."""
        with self._state:
            idle = self._state.wait_for(lambda: not self._active and not self._restarting, patience)
            if idle and self.users == 0:
                self._stop()

    def _start(self) -> None:
        if os.getpid() != self._process:
            raise ModuleFault(f"{self.path} was loaded before this process was forked, and cannot be used in it")
        if self._library is None:
            self._load()
        code = self._initialize()
        if code == CKR_CRYPTOKI_ALREADY_INITIALIZED:
            raise ModuleFault(f"{self.path} is in use by something else in this process")
        if code == CKR_CANT_LOCK:
            raise ModuleFault(f"{self.path} cannot be used by several threads")
        if code != CKR_OK:
            raise ModuleFault(f"{self.path} cannot be initialised: C_Initialize answers {code:#x}")
        self._generation += 1
        self._up = True

    def _stop(self) -> None:
        self._logins.clear()  # the sessions end with the library, and their logins with them
        if self._up and self._calls is not None:
            self._up = False
            self._calls.finalize()

    def _load(self) -> None:
        if not self.path.exists():
            raise ModuleFault(f"there is no file {self.path}")
        try:
            self._calls = _Calls(self.path)
        except (OSError, AttributeError) as error:
            raise ModuleFault(f"{self.path} cannot be loaded as a PKCS#11 library: {error}") from error
        try:
            # Its constructor initialises: see above.
            library = pkcs11.lib(str(self.path))
            library.finalize()
        except PKCS11Error as error:
            raise ModuleFault(f"{self.path} cannot be initialised: {describe(error)}") from error
        self._library = library

    def _initialize(self) -> int:
        if self._calls is None:
            return CKR_CRYPTOKI_NOT_INITIALIZED
        return self._calls.initialize()

    @contextmanager
    def work(self, *, patience: float) -> Generator[Any, None, None]:
        """The library (`pkcs11.lib`) for calls that no restart interrupts. Raises ModuleFault when it is down or is not ready in time."""
        end = time.monotonic() + patience
        with self._state:
            while self._restarting:
                if not self._state.wait(end - time.monotonic()):
                    raise ModuleFault(f"{self.path} is being started again, and that takes long")
            if not self._up:
                raise ModuleFault(f"{self.path} is not initialised")
            self._active += 1
        try:
            yield self._library
        finally:
            with self._state:
                self._active -= 1
                self._state.notify_all()

    def restart(self, seen: int, *, patience: float) -> None:
        """Finalise and initialise again, unless somebody has since generation `seen`. Raises ModuleFault.

        It waits for the calls of others, whose sessions end then; where one does not come back, the library is left as it is.
        """
        end = time.monotonic() + patience
        with self._state:
            while self._restarting or (self._active and self._generation == seen):
                if not self._state.wait(end - time.monotonic()):
                    raise ModuleFault(f"a call of {self.path} does not come back")
            if self._generation != seen and self._up:
                return
            self._restarting = True
        try:
            self._stop()
            self._start()
        finally:
            with self._state:
                self._restarting = False
                self._state.notify_all()

    def login(self, token: Any, pin: str, *, attended: bool) -> None:
        """Log in to a token, once for this process; each call needs a `logout`. Within `work`. Raises Refusal or PKCS11Error.

        A PIN that the token has refused is never tried again by this process, and unless somebody attends to it, none is tried while the token
        says that the last try was wrong: a few are enough to lock it.
        """
        with self._state:
            login = self._logins.setdefault(token.serial, _Login())
        login.enter(token, pin, attended=attended)

    def logout(self, token: Any, generation: int) -> None:
        """Undo a `login` of that generation; the last one logs out. Within `work`."""
        with self._state:
            login = self._logins.get(token.serial) if generation == self._generation else None
        if login is not None:
            login.leave()


class _Login:
    """The one login of this process at a token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._session: Any = None

    def enter(self, token: Any, pin: str, *, attended: bool) -> None:
        with self._lock:
            if self._session is None:
                self._session = _log_in(token, pin, attended=attended)
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._session is not None:
                session, self._session = self._session, None
                with suppress(PKCS11Error):  # a token that is gone has forgotten us already
                    session.close()


_refused: dict[tuple[bytes, int], bool] = {}
"""What this process must not try again: token and PIN (by its hash in this process), and whether the token's flags told of the wrong try."""


def _log_in(token: Any, pin: str, *, attended: bool) -> Any:
    """A session that is logged in. Closing it logs out everything of this process from the token."""
    flags = token.slot.get_token().flags  # as they are now
    name = f"the token {token.label!r}"
    known = (token.serial, hash(pin))
    wrong_before = bool(flags & pkcs11.TokenFlag.USER_PIN_COUNT_LOW)
    if known in _refused:
        if wrong_before or not _refused[known]:
            raise Refusal(
                f"{name} has refused this PIN, which is not tried again", "correct the PIN, then reload or restart"
            )
        del _refused[known]  # somebody has logged in with the right one since
    if flags & pkcs11.TokenFlag.USER_PIN_LOCKED:
        raise Refusal(f"the PIN of {name} is locked", "unlock it with the tools of the token")
    if flags & pkcs11.TokenFlag.USER_PIN_FINAL_TRY:
        problem = f"{name} allows one more try of its PIN before it locks, and that one is not taken"
        raise Refusal(problem, "log in once with the right PIN and the tools of the token")
    if wrong_before and not attended:
        problem = f"{name} says that the last PIN it was given was wrong, and is not given another one by the server"
        raise Refusal(problem, "correct the PIN and run `kipuka check`, which tries it once")
    try:
        return token.open(user_pin=pin)
    except UserAlreadyLoggedIn:
        return token.open()  # by something else in this process: not ours to log out
    except _PIN_REFUSED as error:
        now = token.slot.get_token().flags
        _refused[known] = bool(now & pkcs11.TokenFlag.USER_PIN_COUNT_LOW)
        raise Refusal(
            f"{name} does not take the PIN: {describe(error)}", "correct the PIN; it was tried once"
        ) from None


_PIN_REFUSED: tuple[type[PKCS11Error], ...] = (
    exceptions.PinIncorrect,
    exceptions.PinInvalid,
    exceptions.PinLenRange,
    exceptions.PinExpired,
    exceptions.PinLocked,
    exceptions.UserPinNotInitialized,
)


def describe(error: PKCS11Error) -> str:
    """What the library answered, in a word; the exceptions of `pkcs11` are named after the return values and mostly have no text."""
    text = str(error)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__


_modules: dict[Path, Module] = {}
_lock = threading.Lock()


def borrow(path: Path) -> Module:
    """The library of that file, for which this process has one `Module`; not started yet. Each call needs a `give_back`."""
    with _lock:
        module = _modules.setdefault(path, Module(path))
        module.users += 1
        return module


def give_back(module: Module, *, patience: float = 0) -> None:
    """The last one to give it back stops it; `patience` bounds how long that waits for calls under way."""
    with _lock:
        module.users -= 1
        last = module.users == 0
    if last:  # not under the lock, which a `borrow` in an event loop may want
        module.stop_unless_used(patience=patience)
