"""Measure what the triggers of data_logger_node compare with their limits: motion, disagreement, confidence, faults."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.data.io import messages
from fg_depth_ros.data.io.messages import LearnedWhite, depth_to_array, image_to_array, stamp_ns
from fg_depth_ros.geometry.masks import Label
from fg_depth_ros.nodes.common.codes import CALIBRATION_FAULTS, FaultSubject, RecorderFault
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults, fault_codes, reason_of
from fg_depth_ros.nodes.common.parameters import DeclaredParameters
from fg_depth_ros.recording.measures import confident_share, disagreement, mean_flow, small_grey
from fg_depth_ros.recording.triggers import PeriodicTimer, above, below

DEPTH, MONO, LABELS = "depth/image_rect", "mono_depth/image_rect", "mask/labels"
MONITOR_FAULTS = (FaultSubject.MOTION, DEPTH, MONO, LABELS, FaultSubject.DISAGREEMENT)
_SHORT_GAP = 1e9  # ns: two left images so close show one motion,
_LONG_GAP = 3  # and so do those that are apart by fewer than so many of the usual times between them
_KEPT = 20  # images of each kind that wait for the others of their moment
_WEIGHTS = {
    kind: (prefix + keys.MODEL, prefix + keys.SHA256)
    for kind, prefix in (("stereo", ""), ("mono", keys.MONO_PREFIX), ("flow", keys.FLOW_PREFIX))
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TriggerMonitor:
    """Measures motion, disagreement and confidence, and calls ``fire(kind, detail)``. For the executor's thread."""

    def __init__(
        self, parameters: DeclaredParameters, now: Callable[[], int], fire: Callable[[str, str], None], faults: Faults
    ) -> None:
        self._parameters, self._now, self._fire, self._faults = parameters, now, fire, faults
        self._times = {kind: PeriodicTimer() for kind in ("motion", "disagreement", "low_confidence")}
        self._before: np.ndarray | None = None  # the last left image
        self._looked, self._gap = 0, 0  # when it came, and how long after the one before, ns
        self._white = LearnedWhite()
        self._alarm = False
        self._has_labels = False
        self._waiting: dict[str, OrderedDict[int, Any]] = {name: OrderedDict() for name in (DEPTH, MONO, LABELS)}
        self.figures: dict[str, float | None] = {}

    def uses(self) -> dict[str, Callable[[bytes], None]]:
        """Return the topics that the enabled triggers need: name -> callback for their bytes.

        Forgets the faults of the others.
        """
        names: set[str] = set()
        if self._parameters["record"] == "triggers":
            if self._parameters["disagreement_abs_rel"]:
                names |= {DEPTH, MONO, LABELS}
            if self._parameters["low_confidence_share"]:
                names.add(LABELS)
        measured = names | {FaultSubject.DISAGREEMENT} if MONO in names else names
        for subject in {*MONITOR_FAULTS} - {FaultSubject.MOTION} - measured:
            self._faults.forget(subject)
        if not self._parameters["motion_flow"]:
            self._faults.forget(FaultSubject.MOTION)
        return {name: functools.partial(self._on_depth_message, name) for name in names}

    def on_left_image(self, decode: Callable[[], Any]) -> None:
        """Measure motion where it is due. ``decode`` returns the image's message, or raises ValueError."""
        limit = self._parameters["motion_flow"]
        now, period = self._now(), self._parameters["check_period"]
        if not limit or not self._times["motion"].due(now, period):
            if not limit:
                self._before = None
            return
        before, self._before = self._before, None
        usual, gap = max(period * 1e9, self._gap), now - self._looked
        self._looked, self._gap = now, gap
        if not 0 < gap <= max(_SHORT_GAP, _LONG_GAP * usual):
            before = None  # the camera paused, or a recording begins again
        white = self._white.level
        try:
            (pixels,) = self._white.to_uint8(image_to_array(decode(), "left image", mono16_white=None))
            image = small_grey(pixels)
            if self._white.level != white:
                before = None  # it was brighter, and did not move by that
            if before is not None and before.shape == image.shape:
                self.figures["motion"] = flow = mean_flow(before, image)
                self._fire_if("motion", above(flow, limit, "mean flow", " px"))
        except (ValueError, RuntimeError) as error:  # damaged, of an encoding that no camera sends, or tiny
            self._faults.report(FaultSubject.MOTION, WARN, f"no motion can be measured: {error}", RecorderFault.MOTION)
            return
        self._before = image
        self._faults.clear(FaultSubject.MOTION)

    def reset_motion(self) -> None:
        """Do not compare the next left image with the one before."""
        self._before = None

    def on_diagnostics(self, array: DiagnosticArray, depth_node: str) -> None:
        """Fire on a calibration fault of the depth node, whose full name without the first slash is ``depth_node``.

        Fires when the fault begins, not as long as it lasts: a camera that has moved stays where it is.
        """
        for status in array.status:
            if status.name == f"{depth_node}: pairs":
                codes = CALIBRATION_FAULTS & fault_codes(status)
                before, self._alarm = self._alarm, bool(codes)
                if self._alarm and not before and self._parameters["calibration_alarm"]:
                    # The message is about the worst fault alone.
                    text = f": {status.message}" if reason_of(status) in codes else ""
                    self._fire("calibration", ", ".join(sorted(codes)) + text)

    def values(self) -> dict[str, str]:
        """Return keys for a DiagnosticStatus: the last figures."""
        return {
            f"measured: {kind}": "nothing to measure" if figure is None else f"{figure:.3g}"
            for kind, figure in sorted(self.figures.items())
        }

    def _on_depth_message(self, name: str, data: bytes) -> None:
        try:
            message = deserialize_message(data, Image)
            array = messages.view(message) if name == LABELS else depth_to_array(message, name)
        except (ValueError, RuntimeError) as error:
            self._faults.report(name, WARN, f"{name} cannot be read: {error}", RecorderFault(name))
            return
        self._faults.clear(name)
        if name == LABELS:
            self._has_labels = True
            self._check_labels(array)
        if self._parameters["disagreement_abs_rel"]:
            self._check_depths(name, stamp_ns(message.header), array)

    def _check_labels(self, labels: np.ndarray) -> None:
        limit = self._parameters["low_confidence_share"]
        if limit and self._times["low_confidence"].due(self._now(), self._parameters["check_period"]):
            self.figures["low_confidence"] = share = confident_share(labels)
            self._fire_if("low_confidence", below(share, limit, "share of valid pixels"))

    def _check_depths(self, name: str, stamp: int, array: np.ndarray) -> None:
        waiting = self._waiting[name]
        waiting[stamp] = array
        while len(waiting) > _KEPT:
            waiting.popitem(last=False)
        depth, mono = self._waiting[DEPTH].get(stamp), self._waiting[MONO].get(stamp)
        if depth is None or mono is None:
            return
        labels = self._waiting[LABELS].get(stamp)
        if labels is None and self._has_labels:
            return  # not arrived yet
        for others in self._waiting.values():
            others.pop(stamp, None)
        if not self._times["disagreement"].due(self._now(), self._parameters["check_period"]):
            return
        # What was filled from mono depth agrees with it.
        trusted = None if labels is None or labels.shape != depth.shape else labels == Label.VALID
        if depth.shape != mono.shape:
            text = f"{DEPTH} is {depth.shape} and {MONO} {mono.shape}: nothing to compare"
            self._faults.report(FaultSubject.DISAGREEMENT, WARN, text, RecorderFault.DISAGREEMENT, log_every_text=True)
            return
        self._faults.clear(FaultSubject.DISAGREEMENT)
        self.figures["disagreement"] = figure = disagreement(depth, mono, trusted)
        limit = self._parameters["disagreement_abs_rel"]
        self._fire_if("disagreement", above(figure, limit, "AbsRel between stereo and mono depth"))

    def _fire_if(self, kind: str, detail: str | None) -> None:
        if detail is not None:
            self._fire(kind, detail)


class WeightsMonitor:
    """Hashes of the weights that made the depth, from the depth node's diagnostics."""

    def __init__(self) -> None:
        self.weights: dict[str, dict[str, str] | None] = dict.fromkeys(_WEIGHTS)

    def on_diagnostics(self, array: DiagnosticArray, depth_node: str) -> bool:
        """Take in a report of the depth node. Returns whether the weights are others than before."""
        for status in array.status:
            if status.name == f"{depth_node}: model":
                before, self.weights = self.weights, _weights(status)
                return before != self.weights
        return False

    def values(self) -> dict[str, str]:
        """Return keys for a DiagnosticStatus."""
        return {
            f"{kind} weights used": f"{found['model']} {found['sha256'] or 'no weights'}" if found else "none"
            for kind, found in self.weights.items()
        }


def _weights(status: DiagnosticStatus) -> dict[str, dict[str, str] | None]:
    values = {item.key: item.value for item in status.values}
    found: dict[str, dict[str, str] | None] = {}
    for kind, (model, sha256) in _WEIGHTS.items():
        # A model that is not loaded has no hash key; a classical one has "none".
        known = model in values and sha256 in values
        digest = values.get(sha256, "")
        found[kind] = {"model": values[model], "sha256": digest if _SHA256.fullmatch(digest) else ""} if known else None
    return found
