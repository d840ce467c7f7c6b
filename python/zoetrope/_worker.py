"""A thread that runs the library's calls for others, so that these can be interrupted and answer callbacks themselves.

The same thread each time: the engine keeps its own threads beside the one that calls it.
"""

from __future__ import annotations

import queue
import threading
import weakref
from typing import Any, Callable, TypeVar

T = TypeVar("T")


class Stopped(BaseException):
    """Ends a call from inside a callback: the caller has left."""


class Call:
    """One call: what runs in the worker asks the caller through it."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()
        self.left = False

    def ask(self, body: Callable[[], T]) -> T:
        """From the worker: runs `body` in the caller's thread and waits for what it gives."""
        if self.left:
            raise Stopped
        reply: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self.inbox.put(("ask", body, reply))
        ok, value = reply.get()
        if not ok:
            raise value
        result: T = value
        return result


class Worker:
    def __init__(self, name: str) -> None:
        tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tasks = tasks
        self._answering: set[int] = set()  # threads that are in a callback
        self._thread = threading.Thread(target=_serve, args=(tasks,), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, tasks.put, None)

    def run(self, body: Callable[[Call], T], cancel: Callable[[], None]) -> T:
        """Runs `body` in the worker. KeyboardInterrupt, and whatever else ends the wait, cancels it first."""
        if threading.get_ident() in self._answering:
            raise RuntimeError("a callback may not call its pipeline: it has the next turn when this call is done")
        call = Call()

        def task() -> None:
            try:
                call.inbox.put(("done", body(call), None))
            except BaseException as error:  # goes to the caller
                call.inbox.put(("failed", error, None))

        self._tasks.put(task)
        try:
            result: T = self._answer(call)
            return result
        except BaseException:
            if not call.left:  # the wait was ended, not the call
                call.left = True
                cancel()
                _drain(call)
            raise

    def _answer(self, call: Call) -> Any:
        while True:
            kind, value, reply = call.inbox.get()
            if kind == "ask":
                self._answering.add(threading.get_ident())
                try:
                    answer = (True, value())
                except BaseException as error:
                    answer = (False, error)
                finally:
                    self._answering.discard(threading.get_ident())
                reply.put(answer)
                continue
            call.left = True
            if kind == "failed":
                raise value
            return value


def _serve(tasks: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # nothing of a call outlives it


def _drain(call: Call) -> None:
    """Waits for the end of a call that nobody wants any more."""
    while True:
        kind, _, reply = call.inbox.get()
        if kind != "ask":
            return
        reply.put((False, Stopped()))
