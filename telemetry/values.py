"""The values of metrics, in memory that all workers share: what prometheus-client keeps them in here.

The library's own way are files mapped into memory. When their file system is full, the page that is touched next ends the
process with SIGBUS, and every killed worker leaves its files. Memory that is there before a fork needs no file system.

A slot holds the values of one worker at a time: one process writes, all read. The next worker goes on with the slot of one
that ended, and with its counts. So nothing is merged, no count is lost or goes back, and slots are as few as workers at once.
"""

from __future__ import annotations

import json
import logging
import mmap
import threading
from collections.abc import Collection
from typing import Any

from .shared import SharedNumber

SIZE = 2 << 20
"""Bytes of a slot, enough for a thousand label sets of a histogram; memory is taken only for what is used."""

log = logging.getLogger("gateway.metrics")

incomplete = SharedNumber()
"""1 once there was no memory for a value, or no slot for a worker; for all workers forked after this was made."""


class Slot:
    """Values by key, in cells of eight bytes: the last one in use; then for each value its key's length, its key, itself."""

    def __init__(self) -> None:
        """OSError without memory for it."""
        self._bytes = memoryview(mmap.mmap(-1, SIZE))
        self._integers = self._bytes.cast("q")
        self.cells = self._bytes.cast("d")
        self.places: dict[bytes, int] = {}
        self._known = 0

    def refresh(self) -> None:
        """Brings `places`, the cells of the values, up to date with what another process added."""
        while self._known < self._integers[0]:
            length = self._integers[self._known + 1]
            begin = 8 * (self._known + 2)
            self._known += 2 + -(-length // 8)
            self.places[bytes(self._bytes[begin : begin + length])] = self._known

    def place(self, key: bytes) -> int | None:
        """The cell of a value, which is made with 0 when there is none; None when the slot is full."""
        self.refresh()
        if key in self.places:
            return self.places[key]
        begin = 8 * (self._known + 2)
        end = self._known + 2 + -(-len(key) // 8)
        if end >= len(self.cells):
            return None
        self._integers[self._known + 1] = len(key)
        self._bytes[begin : begin + len(key)] = key
        self._integers[0] = (
            end  # last, so that readers see it whole, and a killed writer leaves nothing half made
        )
        self.refresh()
        return end


class Value:
    """One number of a metric, as the library's `values.ValueClass` makes it. Thread-safe. Of gauges, only sums over living workers."""

    _multiprocess = True  # what the library asks before it offers what only one process can have

    def __init__(
        self,
        kind: str,
        metric: str,
        name: str,
        _label_names: Collection[str],
        label_values: Collection[str],
        _help: str,
        **_: Any,
    ) -> None:
        self._key = json.dumps([kind, metric, name, *label_values]).encode()
        with _lock:
            _values[self._key] = self
            self._enter()
        if self._left_out:
            _leave_out("its memory for metrics is full")

    def _enter(self) -> None:
        place = _own.place(self._key) if _own else None
        self._left_out = place is None
        if _own and place:
            self._cells, self._place = _own.cells, place
        else:
            self._cells, self._place = memoryview(bytearray(8)).cast("d"), 0

    def inc(self, amount: float) -> None:
        with _lock:
            self._cells[self._place] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        with _lock:
            self._cells[self._place] = value

    def get(self) -> float:
        """The sum over all workers, as far as `elsewhere` has seen them."""
        return sum(
            slot.cells[slot.places[self._key]] for slot in _slots if self._key in slot.places
        )

    def set_exemplar(self, exemplar: Any) -> None:
        """Exemplars are not kept."""

    def get_exemplar(self) -> None:
        return None


_lock = threading.Lock()
_slots = [Slot()]  # the first is that of the process that forks the others
_own: Slot | None = _slots[0]
_values: dict[bytes, Value] = {}


def make_slots(workers: int) -> None:
    """Makes room for so many workers at a time, to be called before they are forked."""
    try:
        while len(_slots) <= workers:
            _slots.append(Slot())
    except OSError as error:
        _leave_out(str(error))


def free_slot(taken: Collection[int | None]) -> int | None:
    """A slot for a worker that is about to be forked, none of `taken`; None when there is no more."""
    slot = next((number for number in range(1, len(_slots)) if number not in taken), None)
    if slot is None:
        _leave_out("there are too many workers at once")
    return slot


def enter(slot: int | None) -> None:
    """Has this process, which was just forked, write to `slot`; its values begin with what is there."""
    global _lock, _own
    _lock = threading.Lock()  # a thread of the parent may have held it
    _own = None if slot is None else _slots[slot]
    for value in _values.values():
        value._enter()


def leave(slot: int | None) -> None:
    """Sets the gauges of a process that ended to 0; what it counted stays counted."""
    if slot is not None:
        ended = _slots[slot]
        ended.refresh()
        for key, place in ended.places.items():
            if json.loads(key)[0] == "gauge":
                ended.cells[place] = 0.0


def elsewhere() -> set[tuple[str, tuple[str, ...]]]:
    """Metric and label values of what only other workers have; looks what there is."""
    with _lock:
        for slot in _slots:
            slot.refresh()
        keys = {key for slot in _slots for key in slot.places} - _values.keys()
    found = (json.loads(key) for key in keys)
    # A bucket has a label more than the metric that it is part of.
    return {
        (metric, tuple(labels))
        for _, metric, name, *labels in found
        if not name.endswith("_bucket")
    }


def _leave_out(reason: str) -> None:
    if not incomplete.value:
        incomplete.value = 1.0
        log.error("not everything is in the metrics any more: %s", reason)
