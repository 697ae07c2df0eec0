"""The slot between the executor's thread and the worker's: it holds the newest item."""

from __future__ import annotations

import threading

import pytest
from support.waiting import wait_until

from fg_depth_ros.nodes.stereo_depth.newest_slot import NewestSlot


def test_the_slot_holds_the_newest() -> None:
    slot: NewestSlot[int] = NewestSlot()
    assert slot.put(1) is None
    assert slot.put(2) == 1
    assert slot.put(3) == 2
    assert slot.get() == 3
    assert slot.get(timeout=0.01) is None


@pytest.mark.timeout(60)
def test_a_worker_waits_for_the_slot_and_ends_with_it() -> None:
    slot: NewestSlot[int] = NewestSlot()
    taken: list[int | None] = []

    def work() -> None:
        while (item := slot.get()) is not None:
            taken.append(item)
        taken.append(None)

    worker = threading.Thread(target=work)
    worker.start()
    for item in (1, 2):
        slot.put(item)
        wait_until(lambda item=item: item in taken, period=0.001)
    assert slot.close() is None
    worker.join()
    assert taken == [1, 2, None]
    assert slot.get() is None
