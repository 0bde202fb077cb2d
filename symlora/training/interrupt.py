"""Stop on Ctrl-C, SIGTERM and SIGHUP: first gently, then at once.

A program calls `stop_at_once` before it imports anything that takes time; a training asks `stop_requested` between its
steps. Exit codes are the shell's: 128 + the signal's number.

    130   Ctrl-C (SIGINT)
    143   SIGTERM, for example of scancel
    129   SIGHUP, of a terminal that is closed (nohup ignores it)

In a job that submitit started, its warning before a time limit (SIGUSR2) also stops at the next safe point.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FrameType

from symlora.errors import SymloraError

Handler = Callable[[int, FrameType | None], None]

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a batch system, a terminal that is closed
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # submitit sets a handler for one of them (SUBMITIT_PREEMPT_SIGNAL)

PATIENCE = 6  # seconds that a step may take to end; then the work since the last checkpoint is given up
SWEEP_PATIENCE = 9  # seconds that all workers of a sweep may take

_requested: int | None = None
_stop_file: Path | None = None
_announce = False  # whether a signal is passed on through the stop file
_depth = 0


class Stopped(SystemExit):
    """The user or the batch system asked to stop.

    It is no Exception, so that no code takes it for a run's own failure. A SystemExit, so that a program which it
    reaches anywhere, for example among its imports, ends with the exit code and without a traceback.

    Attributes:
        signal: The signal's number.
        exit_code: What the shell expects.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)  # pickle passes this argument to a copy in another process
        self.signal = number
        self.code = self.exit_code = 128 + number


@cache
def end_with_parent() -> None:
    """Stop this process when its parent is gone, first gently."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SWEEP_PATIENCE)
    os._exit(1)


def stop_requested() -> int | None:
    """Return the signal that requested a stop, or None."""
    if _requested is None and _stop_file is not None and _stop_file.exists():
        return int(signal.SIGTERM)
    return _requested


def raise_if_stopped() -> None:
    """Raise `Stopped` if a stop was requested."""
    if (number := stop_requested()) is not None:
        raise Stopped(number)


@contextlib.contextmanager
def graceful_stop(stop_file: Path | None = None, *, announce: bool = False) -> Iterator[None]:
    """Let a first signal only set `stop_requested` within the block.

    Once `stop_file` exists, the sweep's launching process has asked to stop. With `announce` this process is that one.
    """
    global _requested, _stop_file, _announce, _depth
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    outer = (_stop_file, _announce)
    _stop_file, _announce = stop_file or _stop_file, announce or _announce
    _depth += 1
    handlers: dict[int, Handler] = {**dict.fromkeys(STOPS, _note), signal.SIGALRM: _give_up}
    handlers |= {number: _note for number in WARNINGS if callable(signal.getsignal(number))}
    try:
        with _handled(handlers):
            try:
                yield
            finally:
                signal.alarm(0)  # before its handler is removed
    finally:
        _depth -= 1
        if _depth == 0:
            _requested = None
        _stop_file, _announce = outer


@contextlib.contextmanager
def cluster_job() -> Iterator[None]:
    """Stop gently in a job that submitit started, and requeue it.

    submitit's own handlers would end training between two checkpoints, or ignore the signal.

    Raises:
        SystemExit: A time limit came near, and the job was requeued.
        SymloraError: The job was cancelled.
        Exception: A time limit came near, and submitit does not start the job again; the text says why.
    """
    if not any(callable(signal.getsignal(number)) for number in WARNINGS):
        yield
        return
    try:
        with graceful_stop():
            yield
    except Stopped as stopped:
        signal.raise_signal(stopped.signal)
        raise SymloraError("the job was cancelled; run the same command again to continue") from None


@contextlib.contextmanager
def forward_signals(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Forward these signals to a process that this one waits for."""
    with _handled(dict.fromkeys(STOPS, lambda number, frame: process.send_signal(number))):
        yield


def stop_at_once() -> None:
    """Raise `Stopped` on either signal from now on.

    Unfinished work is cleaned up. Where there is none and the exception might get lost (in imports), the signal ends
    the program with the same exit code.
    """
    _handle(dict.fromkeys(STOPS, _raise))


def say_stopped() -> None:
    """Say that the program stopped; a further signal ends it at once."""
    # Otherwise a signal while Python joins its threads would print a traceback.
    _handle(dict.fromkeys(STOPS, lambda number, frame: os._exit(128 + number)))
    goes_on = "trains the others anew" if _several() else "resumes from the last checkpoint"
    print(f"\nStopped. Finished runs are kept; the same command {goes_on}.", file=sys.stderr)


def _several() -> bool:
    """Tell whether torchrun's processes train one run, which has no checkpoints."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def _handle(handlers: Mapping[int, Handler]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:  # set by nohup and by `&` in a script
            signal.signal(number, handler)


@contextlib.contextmanager
def _handled(handlers: Mapping[int, Handler]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in handlers}
    _handle(handlers)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(number: int, frame: FrameType | None) -> None:
    global _requested
    if _requested is not None and number not in WARNINGS:
        raise Stopped(number)
    _requested = number
    if _announce or _stop_file is None:  # a worker leaves it to the launching process
        first = b"the run is not kept" if _several() else b"writing a checkpoint"
        os.write(2, b"\nStopping: " + first + b". A second Ctrl-C stops at once.\n")  # print is not reentrant
    if _announce and _stop_file is not None:
        with contextlib.suppress(OSError):
            _stop_file.touch()
    signal.alarm(SWEEP_PATIENCE if _announce else PATIENCE)


def _give_up(number: int, frame: FrameType | None) -> None:
    raise Stopped(_requested or signal.SIGTERM)


def _raise(number: int, frame: FrameType | None) -> None:
    if _swallowed(frame):
        os._exit(128 + number)
    raise Stopped(number)


def _swallowed(frame: FrameType | None) -> bool:
    """Tell whether an exception may be swallowed here: imports, Hydra."""
    # Torch, transformers and OmegaConf were seen to do it. None of our files is half written there.
    ours = False  # Hydra is above all that trains: what counts is whether it is Hydra that runs
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        ours = ours or package in ("__main__", "symlora")
        if frame.f_code.co_filename.startswith("<frozen importlib.") or not ours and package in ("hydra", "omegaconf"):
            return True
        frame = frame.f_back
    return False
