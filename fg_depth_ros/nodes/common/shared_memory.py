"""Fast DDS's files in /dev/shm: which a process uses, and removing those whose owner has ended. No ROS import."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_SEGMENT = re.compile(r"^(sem\.)?(fastdds|fastrtps)_")
# Of segments by config/fastdds_shm.xml and fastdds_shm_large.xml, with what Fast DDS adds; and of the one with its
# defaults that every ROS node has, too, when discovery stays on the machine (rmw_fastrtps adds a transport of its own).
_OWN_BYTES = (range(2**24, 2**24 + 2**21), range(2**26, 2**26 + 2**22), range(2**19, 2**19 + 2**17))
_OLD = 10.0  # s; a younger segment may not be locked yet


def remove_abandoned() -> list[str]:
    """Remove segments as this package's nodes have them that killed processes of this user left.

    A node that is killed leaves 18 or 70 MB, and four of 18 fill the /dev/shm of a container. Segments of other sizes
    belong to other programs and stay. Returns the removed files.
    """
    names = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(SHARED_MEMORY):
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                ours = found.st_uid == os.getuid() and any(found.st_size in sizes for sizes in _OWN_BYTES)
                if ours and _SEGMENT.match(entry.name) and time.time() - found.st_mtime > _OLD:
                    names.add(entry.name)
    return remove_segments(names)


def open_segments(pid: int) -> set[str]:
    """Return the names of Fast DDS's files in /dev/shm that a process has mapped or open."""
    names: set[str] = set()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            position = line.find("/dev/shm/")
            if position >= 0:
                names.add(line[position + len("/dev/shm/") :].removesuffix(" (deleted)"))
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("/dev/shm/"):
                    names.add(target.removeprefix("/dev/shm/").removesuffix(" (deleted)"))
    return {name for name in names if _SEGMENT.match(name)}


def remove_segments(names: set[str]) -> list[str]:
    """Remove those of the named files in /dev/shm whose owner has ended, with their lock and semaphore files.

    Fast DDS holds a lock (flock) on NAME_el, or on NAME_sl for what several processes share, as long as it uses NAME.
    Its tool ``fastdds shm clean`` checks the same locks, but removes the segments of all programs on the machine, and
    not every installation can run it (that of the wheels needs psutil). Returns the names of the removed files.
    """
    removed = []
    for base in sorted({re.sub(r"^sem\.|_mutex$|_el$|_sl$", "", name) for name in names}):
        if not _SEGMENT.match(base) or any(_is_locked(SHARED_MEMORY / f"{base}{end}") for end in ("_el", "_sl")):
            continue
        for name in (base, f"{base}_el", f"{base}_sl", f"sem.{base}_mutex"):
            with contextlib.suppress(OSError):
                (SHARED_MEMORY / name).unlink()
                removed.append(name)
    return removed


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
