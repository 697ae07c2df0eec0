"""Joules are those of all processor packages, across the end of a counter; what cannot be read says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from fg_depth_ros.evaluation import bench, energy
from fg_depth_ros.evaluation.bench import BenchError, bench_models, measure
from fg_depth_ros.evaluation.energy import EnergyError, EnergyMeter


def zone(powercap: Path, number: str, name: str, microjoules: int) -> Path:
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")
    return folder / "energy_uj"


def test_joules_of_all_packages_across_the_end_of_a_counter(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 100), zone(tmp_path, "1", "package-1", 999_000_000)
    for number, name in (("0:0", "core"), ("2", "psys")):  # parts of a package, and the platform around them
        zone(tmp_path, number, name, 0)
    meter = EnergyMeter(tmp_path)
    first.write_text("2000100\n")
    second.write_text("500000\n")  # 1 J up to the end, and 0.5 J
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("900000\n")
    assert meter.joules() == pytest.approx(2 + 1.5)
    assert meter.joules() == 0


def test_what_cannot_be_read_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnergyError, match="no energy counter.*virtual machine"):
        EnergyMeter(tmp_path)
    counter = zone(tmp_path, "0", "package-0", 5)
    counter.unlink()
    counter.mkdir()  # root may read whatever is a file
    with pytest.raises(EnergyError, match=f"sudo chmod a\\+r {counter}"):
        EnergyMeter(tmp_path)
    monkeypatch.setattr(bench, "EnergyMeter", lambda: EnergyMeter(tmp_path / "none"))
    with pytest.raises(BenchError, match="no energy counter"):  # before anything is measured
        bench_models(["sgbm"], energy=True)


def test_a_row_has_the_joules_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, read = zone(tmp_path, "0", "package-0", 0), energy._text

    def three_joules_later(path: Path) -> str:
        text = read(path)
        if path == counter:
            counter.write_text(f"{int(text) + 3_000_000}\n")
        return text

    monkeypatch.setattr(energy, "_text", three_joules_later)
    monkeypatch.setattr(bench, "EnergyMeter", lambda: EnergyMeter(tmp_path))
    job = {"model": "sgbm", "width": 64, "height": 48, "precision": "float32", "repeats": 4, "weights": ""}
    found = measure({**job, "device": "cpu", "threads": 0, "energy": True})
    assert found["metrics"]["energy_j"] == pytest.approx(3 / 4)
    assert "energy_j" not in measure({**job, "device": "cpu", "threads": 0})["metrics"]
