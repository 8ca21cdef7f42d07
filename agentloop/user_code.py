"""Python files of the user's: run in this process, which stays as it was."""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import json
import locale
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

from agentloop.errors import AgentloopError
from agentloop.text import one_line

_SHARED = (builtins, hashlib, json, os, random, time)
"""Modules that work for the whole program and must not be changed under it."""


def run_file(path: Path, *, about: str, error: type[AgentloopError]) -> ModuleType:
    """The module that the file makes. Raises `error`, in one line that says what the file is about, where it fails.

    Modules beside the file can be imported by their names; those that are installed come first. What the file prints goes
    to standard error, and it has no standard input.
    """
    spec = importlib.util.spec_from_file_location(f"agentloop_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise error(f"{about} {path}: {'is no regular file' if path.exists() else 'no such file'}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the file look there
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that a file named random.py shadows nothing
    with _kept() as replaced:
        try:
            spec.loader.exec_module(module)
        except AgentloopError:
            raise
        except (Exception, SystemExit) as fault:
            raise error(f"{about} {path}{line_in(fault, path)}: {_said(fault)}") from fault
    if replaced:
        raise error(f"{about} {path}: replaces {', '.join(replaced)} for the whole program")
    return module


def line_in(fault: BaseException, path: Path | None) -> str:
    """`, line N` where the exception passed through the file, else nothing."""
    if path is None:
        return ""
    if isinstance(fault, SyntaxError) and fault.filename == str(path):
        return f", line {fault.lineno}" if fault.lineno else ""
    lines = [line for frame, line in traceback.walk_tb(fault.__traceback__) if frame.f_code.co_filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _said(fault: BaseException) -> str:
    if isinstance(fault, SyntaxError) and fault.msg:
        return f"{type(fault).__name__}: {fault.msg}"
    return one_line(fault)


@contextmanager
def _kept() -> Iterator[list[str]]:
    """Foreign code runs inside. Afterwards what belongs to the whole process is as it was.

    Gives a list, on leaving, of what it replaced in modules that all of the program uses.
    """
    shared = {(module, name): value for module in _SHARED for name, value in vars(module).items() if name[:2] != "__"}
    streams, folder, mask = (sys.stdin, sys.stdout, sys.stderr), os.getcwd(), os.umask(0o077)
    os.umask(mask)
    filters, depth, wait = list(warnings.filters), sys.getrecursionlimit(), socket.getdefaulttimeout()
    language = locale.setlocale(locale.LC_ALL)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    replaced: list[str] = []
    try:
        with _no_input(), redirect_stdout(sys.stderr):
            yield replaced
    finally:
        for (module, name), value in shared.items():
            if vars(module).get(name) is not value:
                setattr(module, name, value)
                replaced.append(f"{module.__name__}.{name}")
        sys.stdin, sys.stdout, sys.stderr = streams
        os.umask(mask)
        with suppress(OSError):
            os.chdir(folder)
        warnings.filters[:] = filters
        sys.setrecursionlimit(depth)
        socket.setdefaulttimeout(wait)
        locale.setlocale(locale.LC_ALL, language)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextmanager
def _no_input() -> Iterator[None]:
    try:
        kept = os.dup(0)
    except OSError:  # there is none
        yield
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
