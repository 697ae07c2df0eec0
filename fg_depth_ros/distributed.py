"""Work that several processes share: each takes every n-th part, and all get all results in their order.

The environment is that of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), whoever sets it.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_maps = itertools.count()  # every process shares the same ones, one after another
_INIT_TIMEOUT = datetime.timedelta(minutes=5)  # until all processes have found one another
_BARRIER_TIMEOUT = datetime.timedelta(hours=24)  # shares differ in length, and who is done waits for the others


class DistributedError(ValueError):
    """The processes cannot work together; the message says why and what to do."""


def process_rank() -> tuple[int, int]:
    """Return this process's rank and the number of processes; without a launcher (0, 1). Raises DistributedError."""
    try:
        rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    except ValueError as error:
        raise DistributedError(f"RANK and WORLD_SIZE must be numbers ({error}); start with torchrun") from None
    if not 0 <= rank < ranks:
        raise DistributedError(f"RANK is {rank} of a WORLD_SIZE of {ranks}; it must lie in 0 .. WORLD_SIZE - 1")
    return rank, ranks


def own_share_first(count: int) -> list[int]:
    """Return the numbers of ``count`` items, this process's share of them first, then those of the others.

    For work whose results lie in a cache: when a process comes to the share of another one, it is done.
    """
    rank, ranks = process_rank()
    return sorted(range(count), key=lambda i: ((i - rank) % ranks, i))


def shared_map(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]]) -> list[Result]:
    """Return ``work`` of all items, in their order, in every process; each works on every n-th of them.

    ``work``: the results of some items, in their order; they must be picklable. Raises DistributedError: the
    environment is incomplete, the processes do not find one another, or another one failed. Raises what ``work`` raises
    here.
    """
    rank, ranks = process_rank()
    if ranks == 1:
        return work(items)
    from torch import distributed

    if not distributed.is_initialized():
        _init_process_group(rank, ranks)
    failure: Exception | None = None
    results: list[Result] = []
    try:
        results = work(items[rank::ranks])
    except Exception as error:  # the others wait for this process's word: they must hear of it
        failure = error
    parts: list[Any] = [None] * ranks
    said = "" if failure is None else str(failure) or repr(failure)
    distributed.all_gather_object(parts, (said, results), group=distributed.new_group(timeout=_BARRIER_TIMEOUT))
    barrier(f"map {next(_maps)}")
    if failure is not None:
        raise failure
    failed = [f"process {k}: {text}" for k, (text, _) in enumerate(parts) if text]
    if failed:
        raise DistributedError("; ".join(failed))
    return [parts[k % ranks][1][k // ranks] for k in range(len(items))]


def barrier(name: str) -> None:
    """Return when every process has come to the place of this name (once in its life), so that none leaves too early.

    One that ends closes its connections, and another one that still is within the last exchange would fail. Without a
    process group nothing is waited for.
    """
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return
    store = distributed.distributed_c10d._get_default_store()
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    store.set(f"fg_depth/{name}/{rank}", "here")
    with contextlib.suppress(RuntimeError):  # the process that keeps the store was here, too, and has left
        store.wait([f"fg_depth/{name}/{k}" for k in range(ranks)], _BARRIER_TIMEOUT)


def _init_process_group(rank: int, ranks: int) -> None:
    """Make the process group, which lasts until this process ends. Raises DistributedError.

    It is made once: a second one at the same address could meet what is left of the first, and wait for ever.
    """
    from torch import distributed

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise DistributedError(
            f"WORLD_SIZE is {ranks}, but {' and '.join(missing)} is not set; start with torchrun, or set them to "
            "the host of process 0 and a free port on it"
        )
    try:
        distributed.init_process_group("gloo", init_method="env://", timeout=_INIT_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"process {rank} of {ranks} does not find the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}); check the address, and start all of them"
        ) from error
    atexit.register(distributed.destroy_process_group)
