"""Check a bag before a training uses it: stamps, gaps, exposure, calibration, damage."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fg_depth_ros.data.bags.folders import EPISODE_FILE, bag_sha256
from fg_depth_ros.data.bags.pairs import StereoBag, open_stereo_bag
from fg_depth_ros.data.bags.storage import Unread
from fg_depth_ros.data.samples import StereoSample
from fg_depth_ros.files import FileError, read_bytes
from fg_depth_ros.geometry import StereoRig

_CHECKED_PAIRS = 12
"""Pairs of a bag whose pixels are checked, spread evenly."""
_BLACK, _WHITE = 5, 250  # grey values of 255 at which an image holds no information
_WARN_SHARE, _UNUSABLE_SHARE = 0.3, 0.9  # of the pixels that are black or white
_BRIGHTER = 1.25
_STAMP_DIFFERENCE = 0.005  # s; at 10 m/s a car moves by 5 cm
_GAP = 3.0  # periods


class Problem(NamedTuple):
    """Something wrong with a bag: ``leave out``: it cannot be used, ``warn``: it can; the text says what to do."""

    severity: str
    text: str


@dataclass(frozen=True)
class Exposure:
    """Exposure of the checked pairs: shares of pixels ``dark`` and ``bright``; brightness ``ratio``, left to right."""

    dark: float
    bright: float
    ratio: float


@dataclass(frozen=True)
class BagCheck:
    """Content and problems of a bag. Times in s; None: the bag could not be read so far."""

    path: Path
    sha256: str = ""
    pairs: int = 0
    seconds: float = 0.0
    """From the first pair to the last one."""
    rate: float | None = None
    """Hz, by the median of the time between pairs."""
    largest_gap: float | None = None
    unpaired: tuple[int, int] = (0, 0)
    """Left and right images without a partner."""
    stamp_difference: float | None = None
    """Largest difference of the two stamps of a pair."""
    exposure: Exposure | None = None
    calibration_changes: int = 0
    encodings: tuple[str, str] = ("", "")
    rig: StereoRig | None = None
    unread: Unread = field(default_factory=Unread)
    problems: tuple[Problem, ...] = ()
    samples: Sequence[StereoSample] = field(default=(), repr=False, compare=False)
    """The pairs themselves, in the order of their stamps."""

    @property
    def usable(self) -> bool:
        """Whether the bag can be used."""
        return all(problem.severity != "leave out" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the check for a report or a card."""
        return {
            "path": str(self.path), "sha256": self.sha256, "usable": self.usable, "pairs": self.pairs,
            "seconds": self.seconds, "rate": self.rate, "largest_gap": self.largest_gap,
            "unpaired": list(self.unpaired), "slack": self.stamp_difference,
            "exposure": vars(self.exposure) if self.exposure else None,
            "calibration_changes": self.calibration_changes, "encodings": list(self.encodings),
            "rig": self.rig.to_dict() if self.rig else None, "unread": self.unread._asdict(),
            "problems": [{"severity": problem.severity, "text": problem.text} for problem in self.problems],
        }  # fmt: skip


def check_bag(path: str | Path, **options: Any) -> BagCheck:
    """Look at every message's stamp and every camera_info of a bag, and at the pixels of some pairs.

    ``options``: topics, slop and rig as of ``open_stereo_bag``. What is wrong with the bag is in the result; nothing is
    raised for it.
    """
    path = Path(path)
    found: list[Problem] = []
    digest = ""
    try:
        digest = bag_sha256(path)
        bag, of_messages = open_checked_bag(path, **options)
    except (FileError, OSError) as error:
        return BagCheck(path, digest, problems=(Problem("leave out", str(error)),))
    samples = bag.samples
    with _collected_warnings() as warnings:
        exposure = _exposure(samples, found)
    of_pixels = (Problem("warn", text) for text in dict.fromkeys(warnings))
    found += of_messages + [problem for problem in of_pixels if problem not in of_messages]
    found += _of_recorder(path, digest)
    stamps = np.array([int(sample.name) for sample in samples], np.int64)
    between = np.diff(stamps) / 1e9
    difference = max(abs(sample.stamp_difference) for sample in samples)
    rate = float(1 / np.median(between)) if len(between) else None
    found += _of_time(between, difference)
    return BagCheck(
        path,
        digest,
        pairs=len(samples),
        seconds=float((stamps[-1] - stamps[0]) / 1e9),
        rate=rate,
        largest_gap=float(between.max()) if len(between) else None,
        unpaired=bag.unpaired,
        stamp_difference=difference,
        exposure=exposure,
        calibration_changes=bag.calibration_changes,
        encodings=bag.encodings,
        rig=samples[0].rig,
        unread=bag.unread,
        problems=tuple(found),
        samples=samples,
    )


def open_checked_bag(path: str | Path, **options: Any) -> tuple[StereoBag, list[Problem]]:
    """Open the pairs of a bag, and find what is wrong with them without a look at their pixels.

    Warnings of the readers are problems, too, and are not logged. ``options`` and errors as of ``open_stereo_bag``.
    """
    with _collected_warnings() as warnings:
        bag = open_stereo_bag(path, **options)
    # Damage of two topics may be reported twice.
    found = [Problem("warn", text) for text in dict.fromkeys(warnings)]
    if bag.repeated:
        text = "images repeat the stamp of an earlier one, as from a source that loops: the first of each counts"
        found.append(Problem("warn", f"{path}: {bag.repeated} {text}; record it once"))
    elif bag.jumps:
        text = f"stamps jump back {bag.jumps} time(s), by up to {bag.largest_jump:.3g} s: the clock was set back"
        found.append(
            Problem("warn", f"{path}: {text}; pairs are in the order of their stamps: cut the recording there")
        )
    if bag.calibration_changes:
        text = "pairs of two cameras cannot share one; cut the recording there, or give the calibration"
        when = f"{bag.calibration_changes} time(s) within the bag, first at {bag.changed_at}"
        found.append(Problem("leave out", f"{path}: the calibration changes {when}: {text}"))
    return bag, found


def _of_recorder(path: Path, digest: str) -> list[Problem]:
    """Return a problem if an episode is not what the recorder wrote, by the hash that it noted."""
    try:
        noted = list(json.loads(read_bytes(path / EPISODE_FILE))["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # another recorder's
    if len(noted) != 1 or noted[0] == digest:
        return []
    text = (
        f"{path}: its content has the SHA-256 {digest[:12]} and {EPISODE_FILE} says {str(noted[0])[:12]}: it was "
        f"damaged or changed after it was recorded; copy it again, or remove {EPISODE_FILE} to use it as it is"
    )
    return [Problem("leave out", text)]


def _of_time(between: np.ndarray, difference: float) -> list[Problem]:
    found = []
    if len(between) > 1:
        period = float(np.median(between))
        gaps = between[between > _GAP * period]
        if len(gaps):
            sizes = f"{len(gaps)} gap(s) of up to {gaps.max():.2f} s at a period of {period:.3f} s"
            found.append(Problem("warn", f"{sizes}: pairs are missing; look at the drops of the recorder"))
    if difference > _STAMP_DIFFERENCE:
        apart = f"the two images of a pair are up to {1000 * difference:.1f} ms apart"
        found.append(Problem("warn", f"{apart}: what moves is at two places; trigger the cameras together"))
    return found


def _exposure(samples: Sequence[StereoSample], found: list[Problem]) -> Exposure | None:
    """Check the pixels of some pairs; what is wrong with them is added to ``found``."""
    count = min(_CHECKED_PAIRS, len(samples))
    chosen = [(2 * i + 1) * len(samples) // (2 * count) for i in range(count)]
    dark, bright, ratios, damage, still = [], [], [], [], 0
    before: np.ndarray | None = None
    for place in chosen:
        try:
            left, right = samples[place].images()
        except FileError as error:
            damage.append(str(error))
            continue
        grey = np.stack([left, right]).max(3)  # a colour is too dark when all of it is
        dark.append(float((grey <= _BLACK).mean()))
        bright.append(float((np.stack([left, right]).min(3) >= _WHITE).mean()))
        ratios.append((float(left.mean()) + 1) / (float(right.mean()) + 1))
        still += before is not None and np.array_equal(before, left)
        before = left
    if damage:
        severity = "leave out" if len(damage) == count else "warn"
        found.append(Problem(severity, f"{len(damage)} of {count} checked pairs cannot be read; first: {damage[0]}"))
    if not ratios:
        return None
    exposure = Exposure(float(np.mean(dark)), float(np.mean(bright)), float(np.median(ratios)))
    for share, what, way in (
        (exposure.dark, "black", "a longer exposure, more light, or a lens cap that is still on"),
        (exposure.bright, "white", "a shorter exposure, or less gain"),
    ):
        if share > _WARN_SHARE:
            severity = "leave out" if share > _UNUSABLE_SHARE else "warn"
            found.append(Problem(severity, f"{100 * share:.0f} % of the pixels are {what}: {way}"))
    if not 1 / _BRIGHTER < exposure.ratio < _BRIGHTER:
        brighter = f"the left image is {exposure.ratio:.2f} times as bright as the right one"
        text = "photometric losses compare them; let both cameras share exposure and gain"
        found.append(Problem("warn", f"{brighter}: {text}"))
    if len(ratios) > 2 and still == len(ratios) - 1:
        found.append(Problem("warn", "all checked left images are the same: the camera is frozen"))
    return exposure


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings of the readers of bags inside the block as texts instead of log lines."""
    texts: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, listener = logging.getLogger("fg_depth_ros.data"), Listener(logging.WARNING)
    logger.addHandler(listener)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield texts
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
