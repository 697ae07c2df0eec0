"""Runs the project's checks and closes with a summary: "make test" and "make lint".

Every check runs, also after one has failed, so that one run shows all failures. The tests often wait for
messages; the other checks run meanwhile, one after another, and what they print comes after the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS: dict[str, list[str]] = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "imports": ["lint-imports"],
    "spelling": ["codespell"],
    # One worker more than cores: many tests wait for messages of other processes.
    "tests": ["pytest", "-n", str(min((os.cpu_count() or 1) + 1, 8)), "--dist", "worksteal", "--durations=10"],
}


@dataclass(frozen=True)
class Outcome:
    """How one check ended."""

    name: str
    passed: bool
    seconds: float
    detail: str
    output: str


@dataclass(frozen=True)
class Counts:
    """What pytest counted."""

    passed: int
    failed: int
    skipped: int


def run(name: str, command: list[str], environment: dict[str, str]) -> Outcome:
    """Run one check; the tests print to the terminal, what another one prints is kept."""
    kept = {} if name == "tests" else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    began = time.monotonic()
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=REPOSITORY, env=environment, text=True, check=False, **kept
    )
    detail = f"exit status {done.returncode}" if done.returncode else ""
    return Outcome(name, not detail, time.monotonic() - began, detail, done.stdout or "")


def print_title(name: str, command: list[str]) -> None:
    """Print the line above a check's output."""
    print(f"\n=== {name}: {' '.join(command)}", flush=True)


def counts(junit: Path) -> Counts | None:
    """Numbers from pytest's report; None where it wrote none."""
    try:
        suites = list(ET.parse(junit).getroot().iter("testsuite"))
    except (FileNotFoundError, ET.ParseError):
        return None
    total, failed, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return Counts(total - failed - skipped, failed, skipped)


def main(names: list[str]) -> int:
    """Run the named checks (all without a name); 0 when all passed."""
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"unknown check '{unknown[0]}'; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    names = names or list(CHECKS)
    outcomes, tested = [], None
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(max_workers=1) as beside:
        others = [beside.submit(run, name, CHECKS[name], environment) for name in names if name != "tests"]
        if "tests" in names:
            junit = Path(scratch) / "tests.xml"
            command = [*CHECKS["tests"], f"--junitxml={junit}"]
            print_title("tests", command)
            outcomes.append(run("tests", command, environment))
            tested = counts(junit)
        for other in others:
            outcome = other.result()
            print_title(outcome.name, CHECKS[outcome.name])
            print(outcome.output, end="", flush=True)
            outcomes.append(outcome)

    print("\n=== summary")
    for outcome in outcomes:
        word = "passed" if outcome.passed else "FAILED"
        print(f"{outcome.name:10s} {word}  {outcome.seconds:6.1f} s  {outcome.detail}".rstrip())
    if tested:
        print(f"tests: {tested.passed} passed, {tested.failed} failed, {tested.skipped} skipped")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
