"""Tests and times everything that runs on CUDA; what ".ci/gpu.sh" starts in the environment that it made.

Writes one JSON: the device, how the tests marked "cuda" ended, the rows of "fg-depth bench", and what was left out and
why. Exit status 1: a test failed, or there is no CUDA device.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from checks import REPOSITORY, counts

SIZES = ("640x480", "1280x720", "1920x1080")
MODELS = ("flownet_stereo", "flownet_lite", "depthnet_efficient")
ENGINES = ("torch", "onnxruntime", "tensorrt")
PRECISIONS = ("float16", "bfloat16", "float32")


def main(out: Path, repeats: int) -> int:
    """Run all; returns the exit status."""
    if find_spec("torch") is None:
        print("no PyTorch: this needs a Python that has it, built for CUDA (PYTHON=...)", file=sys.stderr)
        return 1
    import torch

    if not torch.cuda.is_available():
        print(
            f"no CUDA device: PyTorch {torch.__version__} finds none, so nothing was run and {out} was not written",
            file=sys.stderr,
        )
        return 1
    device = torch.cuda.get_device_properties(0)
    left_out: list[str] = []
    found: dict[str, Any] = {
        "device": {"name": device.name, "memory_gib": round(device.total_memory / 2**30, 1)},
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]},
        "tests": tests(left_out),
        "bench": bench(repeats, left_out),
        "left_out": left_out,
    }
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"\n{out}: {found['tests']}, {len(found['bench'])} rows, {len(left_out)} left out")
    for reason in left_out:
        print(f"  left out: {reason}")
    return 0 if found["tests"]["failed"] == 0 and found["tests"]["passed"] and found["bench"] else 1


def tests(left_out: list[str]) -> dict[str, int]:
    """Run the tests marked "cuda"; return how many passed, failed and were skipped."""
    files = [path for path in sorted(REPOSITORY.glob("test/*/test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", f"--junitxml={junit}", *map(str, files)]
        subprocess.run(command, cwd=REPOSITORY, check=False)
        done = counts(junit)
    if done is None:
        left_out.append("all tests: pytest wrote no report (is it among the wheels?)")
        return {"passed": 0, "failed": 0, "skipped": 0}
    return asdict(done)


def bench(repeats: int, left_out: list[str]) -> list[dict[str, Any]]:
    """Measure every model in every engine, precision and size, and the node; return the rows of the reports.

    What fails is left out with its reason: a combination, or an engine that is not installed.
    """
    variants = [word for engine in ENGINES for word in ("--engine", engine)]
    variants += [word for precision in PRECISIONS for word in ("--precision", precision)]
    runs = [(model, size, variants) for model in MODELS for size in SIZES]
    if find_spec("rclpy") is None:
        left_out.append("fg-depth bench --node: rclpy is not installed")
    else:
        runs += [(MODELS[0], size, ["--node"]) for size in SIZES]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        for model, size, options in runs:
            report.unlink(missing_ok=True)
            command = [sys.executable, "-m", "fg_depth_ros.cli", "bench", "--device", "cuda", "--model", model]
            command += ["--size", size, "--repeats", str(repeats), "--json", str(report), *options]
            done = subprocess.run(command, cwd=REPOSITORY, check=False)
            if not report.is_file():
                left_out.append(f"{model} at {size}: fg-depth bench ended with exit status {done.returncode}")
                continue
            measured = json.loads(report.read_text(encoding="utf-8"))
            rows += measured["rows"]
            left_out += measured["settings"].get("left_out", [])
    return rows


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), int(sys.argv[2])))
