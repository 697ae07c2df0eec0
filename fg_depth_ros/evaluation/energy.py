"""Energy that a computer's processors draw, by the counters of RAPL (running average power limit; Intel, AMD).

Linux shows them at ``/sys/class/powercap`` (kernel documentation, "Power Capping Framework"), to root alone by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyError(RuntimeError):
    """Energy cannot be measured here; the message says why, and what helps."""


class EnergyMeter:
    """Counts the joules of all processor packages of this computer, whatever runs on them, from now on.

    Raises EnergyError: no counter, or one that this user may not read.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it, intel-rapl:1 "psys" the whole platform.
        zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
        if not self._packages:
            raise EnergyError(
                f"no energy counter of a processor package in {powercap}: the processor has no RAPL, its driver "
                "is not loaded (sudo modprobe intel_rapl_msr), or this is a virtual machine"
            )
        self._before = self._counts()

    def joules(self) -> float:
        """Return the energy since the last call, or since the start. A counter may wrap around once in between."""
        now, total = self._counts(), 0
        for zone, before, after in zip(self._packages, self._before, now, strict=True):
            total += after - before if after >= before else after - before + int(_text(zone / "max_energy_range_uj"))
        self._before = now
        return total / 1e6

    def _counts(self) -> Sequence[int]:
        return [int(_text(zone / "energy_uj")) for zone in self._packages]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise EnergyError(
            f"{path}: {error.strerror}; run as root, or let everybody read it: sudo chmod a+r {path}"
        ) from error
