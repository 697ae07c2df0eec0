"""The thread that turns the newest pair into outputs; the newest left image while the right camera is silent."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from fg_depth_ros.data.io.messages import DEPTH_16UC1, MessageError
from fg_depth_ros.geometry import PairFault, StereoRig
from fg_depth_ros.geometry.features import features_tell_more
from fg_depth_ros.inference import (
    FilledEstimate,
    MonoEstimate,
    OutOfMemory,
    StereoConfig,
    StereoDepthEstimator,
    StereoEstimate,
)
from fg_depth_ros.nodes.common.codes import DropReason, FaultCode, FaultSubject
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Faults, PairStatistics
from fg_depth_ros.nodes.common.parameters import DeclaredParameters
from fg_depth_ros.nodes.common.synchronizing import StereoMessages
from fg_depth_ros.nodes.stereo_depth.decoding import PairDecoder, StereoImages
from fg_depth_ros.nodes.stereo_depth.model_host import ModelHost
from fg_depth_ros.nodes.stereo_depth.models import NodeModels
from fg_depth_ros.nodes.stereo_depth.mono import MonoDepth
from fg_depth_ros.nodes.stereo_depth.newest_slot import NewestSlot
from fg_depth_ros.nodes.stereo_depth.outputs import (
    CAMERA_INFO_TOPIC,
    FILLED_TOPICS,
    LEFT_TOPICS,
    MONO_TOPIC,
    TEMPORAL_TOPICS,
    TOPICS,
    StereoOutputs,
)
from fg_depth_ros.nodes.stereo_depth.pair_checks import FeatureCheck, SwappedPairCheck, VerticalFlowCheck
from fg_depth_ros.nodes.stereo_depth.temporal_flow import TemporalFlow

_STOP_SECONDS = 30.0
_PAIRS_WITHOUT_DEPTH = 5  # in a row, before that is a fault
_MASKED_TOPICS = TOPICS.keys() - {CAMERA_INFO_TOPIC, "flow/image", "flow/image_color"}


class StereoWorker:
    """Decodes, checks, estimates and publishes, one pair at a time. The thread survives any input.

    ``topics``: input name -> resolved topic, for messages.
    """

    def __init__(
        self,
        node: LifecycleNode,
        parameters: DeclaredParameters,
        topics: Mapping[str, str],
        models: NodeModels,
        outputs: StereoOutputs,
        statistics: PairStatistics,
        faults: Faults,
    ) -> None:
        self._node, self._parameters, self._models, self._outputs = node, parameters, models, outputs
        self._statistics, self._faults = statistics, faults
        self._decoder = PairDecoder(topics)
        self._features, self._vertical_flow = FeatureCheck(topics), VerticalFlowCheck(topics)
        self._swapped_pair = SwappedPairCheck(topics)
        self._temporal, self._mono = TemporalFlow(), MonoDepth(models.mono, faults)
        self._topics = topics
        self._rig: StereoRig | None = None  # of the last pair
        self._scale: float | None = None  # that inference_scale auto chose last
        self._without_depth = 0  # pairs in a row
        self._published_left: int | None = None  # stamp of the last left image that was published alone
        self._slot: NewestSlot[StereoMessages] = NewestSlot()
        self._thread = threading.Thread(target=self._run, name="stereo worker", daemon=True)
        self._thread.start()

    def submit(self, messages: StereoMessages) -> None:
        """Queue messages for processing, replacing older ones that still wait. For the executor's thread."""
        mono = messages.right is None
        self._statistics.receive(mono=mono)
        if not mono:
            self._faults.clear(FaultSubject.RIGHT_CAMERA)
        if (replaced := self._slot.put(messages)) is not None:
            self._drop(DropReason.REPLACED, replaced)

    def stop(self) -> None:
        """End the thread after the pair in work."""
        if (waiting := self._slot.close()) is not None:
            self._drop(DropReason.STOPPED, waiting)
        self._thread.join(_STOP_SECONDS)

    def values(self) -> Mapping[str, str]:
        """Return the key-value pairs of a DiagnosticStatus."""
        white = {"mono16 white": str(self._decoder.white)} if self._decoder.white else {}
        inside = {"rectified inside": self._decoder.rectified_inside}
        rig = {} if self._rig is None else {"baseline (m)": f"{self._rig.baseline:.4f}"}
        return {**rig, **inside, **self._vertical_flow.values(), **self._mono.scale.values(), **white}

    def _run(self) -> None:
        while (messages := self._slot.get()) is not None:
            try:
                self._process(messages)
            except Exception as error:
                if not self._node.context.ok():
                    return  # the process is ending, and its publishers are gone
                self._drop(DropReason.INTERNAL_ERROR, messages)
                text = f"a pair could not be processed: {error!r}; please report this"
                self._faults.report(FaultSubject.MATCHING, ERROR, text, FaultCode.INTERNAL_ERROR)
                self._node.get_logger().debug(traceback.format_exc())

    def _drop(self, reason: str, messages: StereoMessages) -> None:
        self._statistics.drop(reason, mono=messages.right is None)

    def _process(self, messages: StereoMessages) -> None:
        begun = time.monotonic()
        topics = self._outputs.subscribed()
        process = self._process_left if messages.right is None else self._process_pair
        try:
            reason = process(begun, topics, messages) if topics else DropReason.NO_SUBSCRIBERS
        except MessageError as error:
            self._drop(error.reason, messages)
            self._faults.report(FaultSubject.INPUT, ERROR, str(error), error.reason)
            return
        if reason is not None:
            self._faults.forget(FaultSubject.RIGHT_CAMERA)  # no fallback is published: reported as any missing pair
            self._drop(reason, messages)

    # ---- a pair ------------------------------------------------------------------------------------------------------

    def _process_pair(self, begun: float, topics: set[str], messages: StereoMessages) -> DropReason | None:
        """Publish what follows from a pair; returns why it is dropped, or None. Raises MessageError."""
        self._mono.scale.end_fallback()
        if messages.stamp == self._published_left:  # the right camera is back, with a pair that was just replaced
            return DropReason.LEFT_PUBLISHED
        images = self._decode(messages)
        messages = replace(messages, left_info=images.left_info)
        estimate = None
        if topics & TOPICS.keys() - {CAMERA_INFO_TOPIC}:
            estimate = self._estimate_stereo(images, messages.stamp)
            if estimate is None:
                return DropReason.OUT_OF_MEMORY
        seconds = self._publish_depth(topics, estimate, images, messages)
        if seconds is None:
            return DropReason.NO_MONO_DEPTH
        seconds += self._publish_temporal_flow(topics, images.left, messages)
        self._finish(begun, seconds, messages)
        if estimate is None:
            self._faults.forget(FaultSubject.IMAGES)
        self._check_density(topics, estimate)
        self._check_rectification(images, None if estimate is None else estimate.fault)
        return None

    def _decode(self, messages: StereoMessages) -> StereoImages:
        """Return images and calibration. Raises MessageError."""
        white, used_white = self._decoder.white, self._decoder.used_white
        images = self._decoder.decode(messages, self._parameters["mono16_white"], self._parameters["rectify"])
        if self._decoder.white != white:
            self._report_white(white, self._decoder.white)
        if self._decoder.used_white != used_white:
            self._temporal.reset()  # the image before has another brightness
        if images.right is not None:
            if images.rig is not self._rig:
                self._features.reset(rectified_inside=self._decoder.rectified_inside != "no")
                self._swapped_pair.reset()
                self._vertical_flow.reset()
                self._temporal.reset()
                self._rig = images.rig
            if self._features.pending:
                self._features.check(images.left, images.right, images.rig.doffs)
        self._faults.clear(FaultSubject.INPUT)
        self._faults.update(FaultSubject.CALIBRATION, WARN, self._decoder.doubts, FaultCode.CALIBRATION_DOUBTFUL)
        # Without a right image the baseline of the rig may be none that was ever measured.
        for host in self._models.hosts if images.right is not None else (self._models.mono,):
            host.camera = images.rig
        return images

    def _report_white(self, before: int, now: int) -> None:
        bits = now.bit_length()
        text = f"mono16 images are taken to be of {bits} bits (white {now}) by their largest values"
        if before:
            text += f"; before it was {before.bit_length()} bits, and images were brighter by {now / before:.0f} times"
        self._node.get_logger().warning(f"{text}; set mono16_white if that is wrong")

    def _estimate_stereo(self, images: StereoImages, stamp: int) -> StereoEstimate | None:
        """Return the estimate of a pair; None where memory is short. Raises MessageError."""
        estimator = self._models.stereo.estimator
        assert estimator is not None
        assert images.right is not None
        limited = None
        if estimator.search_range(images.rig).limited:
            limited = _range_problem(images.rig, estimator.config.search_start(images.rig.doffs), self._topics)
        self._faults.update(FaultSubject.RANGE, WARN, limited, FaultCode.RANGE_LIMITED)
        try:
            found = estimator.estimate(images.left, images.right, images.rig)
        except OutOfMemory as error:
            self._reduce_scale(self._models.stereo, error)
            return None
        self._report_scale(estimator, images.rig)
        try:
            self._swapped_pair.check(images.left, images.right, found, stamp)
        except MessageError:
            # The next pairs are checked before they are matched.
            self._features.reset(rectified_inside=self._decoder.rectified_inside != "no")
            raise
        self._report_images(found.fault)
        return replace(found, config=self._published_range(found.config))

    def _report_scale(self, estimator: StereoDepthEstimator, rig: StereoRig) -> None:
        """Log what inference_scale auto chooses, and why, whenever it changes."""
        scale, reason = estimator.scale(rig), estimator.scale_reason
        if reason and scale != self._scale:
            self._node.get_logger().info(f"inference_scale auto is {scale:g} from now on: {reason}")
        self._scale = scale if reason else None

    def _published_range(self, config: StereoConfig) -> StereoConfig:
        """Return the configuration with the range that the depth message holds, so that masks and cloud agree."""
        if self._parameters["depth_encoding"] != "16UC1":
            return config
        farthest = min(config.max_depth, DEPTH_16UC1)
        return replace(config, min_depth=min(config.min_depth, farthest / 2), max_depth=farthest)

    def _report_images(self, fault: PairFault | None) -> None:
        """Report why the images cannot be matched: what they show, or that features of both lie on other rows."""
        shifted = self._features.problem if features_tell_more(fault) else None
        self._faults.update(FaultSubject.RECTIFICATION, WARN, shifted, FaultCode.NOT_RECTIFIED)
        text = None
        if fault is not None and shifted is None:
            text = f"{fault.explanation} ({self._topics['left/image_rect']} and {self._topics['right/image_rect']})"
        self._faults.update(FaultSubject.IMAGES, WARN, text, fault or "")

    def _publish_depth(
        self, topics: set[str], estimate: StereoEstimate | None, images: StereoImages, messages: StereoMessages
    ) -> float | None:
        """Publish what follows from the pair, and mono depth; returns the seconds in the models.

        None where nothing can be published since there is no mono depth.
        """
        fill = estimate is not None and self._parameters["fill_from_mono"] and bool(topics & FILLED_TOPICS)
        if estimate is not None:  # unfilled outputs do not wait for the mono network
            self._outputs.publish(topics - FILLED_TOPICS if fill else topics, estimate, images.left, messages)
        else:
            self._outputs.publish_camera_info(topics, messages)
        need = f"{MONO_TOPIC} has a subscriber" if MONO_TOPIC in topics else None
        mono = self._estimate_mono(images, "fill_from_mono is set" if fill else need)
        if estimate is not None and mono is not None and not fill and self._parameters["mono_timeout"] > 0:
            self._mono.update_scale(estimate, mono.depth)
        if estimate is not None and fill:
            filled = estimate if mono is None else self._mono.fill(estimate, mono.depth)
            self._outputs.publish(topics & FILLED_TOPICS, filled, images.left, messages)
        else:
            self._faults.forget(FaultSubject.SCALE)
        if mono is not None:
            self._outputs.publish_mono(topics, mono.depth, messages)
        if estimate is None and mono is None and not topics & (TEMPORAL_TOPICS.keys() | {CAMERA_INFO_TOPIC}):
            return None
        return sum(found.seconds for found in (estimate, mono) if found is not None)

    def _check_density(self, topics: set[str], estimate: StereoEstimate | None) -> None:
        """Report when hardly any pixel of several pairs in a row is valid, after they were published."""
        if estimate is None or not topics & _MASKED_TOPICS:
            self._without_depth = 0
            self._faults.forget(FaultSubject.DEPTH)
            return
        low = estimate.low_density
        self._without_depth = self._without_depth + 1 if low else 0
        if not low or estimate.fault is not None:  # that names the cause
            self._faults.clear(FaultSubject.DEPTH)
        elif self._without_depth >= _PAIRS_WITHOUT_DEPTH:
            self._faults.report(FaultSubject.DEPTH, WARN, estimate.explain_low_density(), FaultCode.HARDLY_ANY_DEPTH)

    def _check_rectification(self, images: StereoImages, fault: PairFault | None) -> None:
        """Check the rectification again from time to time, after the pair was published.

        Dense flow between images that cannot be matched (``fault``) says nothing of their rows, unless features say
        that they seem unrelated since their rows differ.
        """
        assert images.right is not None
        parameters, estimator = self._parameters, self._models.flow.estimator
        period, pair = parameters["rectification_check_period"], (images.left, images.right, images.rig.doffs)
        comparable = fault is None or (fault == PairFault.UNRELATED and self._features.problem is not None)
        if estimator is None or period == 0 or not comparable:
            self._faults.forget(FaultSubject.ROWS)
        elif self._vertical_flow.due(period):
            try:
                self._vertical_flow.measure(*pair, estimator, period)
            except OutOfMemory as error:
                self._reduce_scale(self._models.flow, error)
            limits = parameters["rectification_check_median"], parameters["rectification_check_tilt"]
            self._faults.update(
                FaultSubject.ROWS, WARN, self._vertical_flow.problem(*limits), FaultCode.ROWS_MISALIGNED
            )
        try:
            self._features.check(*pair)
        except MessageError as error:  # the next pair will not pass
            self._faults.report(FaultSubject.INPUT, ERROR, str(error), error.reason)

    # ---- a left image alone ------------------------------------------------------------------------------------------

    def _process_left(self, begun: float, topics: set[str], messages: StereoMessages) -> DropReason | None:
        """Publish what follows from a left image alone; returns why it is dropped, or None. Raises MessageError."""
        if not topics & (LEFT_TOPICS | TEMPORAL_TOPICS.keys()):
            return DropReason.RIGHT_CAMERA_SILENT
        for subject in (FaultSubject.IMAGES, FaultSubject.DEPTH):  # of pairs
            self._faults.forget(subject)
        images = self._decode(messages)
        messages = replace(messages, left_info=images.left_info)
        seconds = self._publish_mono_only(topics & LEFT_TOPICS, images, messages)
        if seconds is None:
            return DropReason.NO_MONO_DEPTH
        seconds += self._publish_temporal_flow(topics, images.left, messages)
        self._published_left = messages.stamp
        self._finish(begun, seconds, messages)
        return None

    def _publish_mono_only(self, topics: set[str], images: StereoImages, messages: StereoMessages) -> float | None:
        """Publish what follows from the left image alone; returns the seconds in the model, None without mono depth."""
        if not topics - {CAMERA_INFO_TOPIC}:
            self._outputs.publish_camera_info(topics, messages)
            self._faults.forget(FaultSubject.RIGHT_CAMERA)
            return 0.0
        mono, stereo = self._estimate_mono(images, "the right camera is silent"), self._models.stereo.estimator
        assert stereo is not None
        if mono is None:
            return None
        scaled = mono.depth * self._mono.scale.fallback()
        config = self._published_range(stereo.config)
        estimate = FilledEstimate.from_mono(scaled, images.rig, config, mono.seconds)
        self._outputs.publish(topics, estimate, images.left, messages)
        self._outputs.publish_mono(topics, mono.depth, messages)
        scale = ", at its own scale, as it was compared with no pair lately" if self._mono.scale.own_scale else ""
        text = f"depth comes from the left image alone ({self._mono.model_name}{scale}): {messages.reason}"
        self._faults.report(FaultSubject.RIGHT_CAMERA, WARN, text, FaultCode.RIGHT_CAMERA_SILENT)
        return mono.seconds

    # ---- both --------------------------------------------------------------------------------------------------------

    def _estimate_mono(self, images: StereoImages, need: str | None) -> MonoEstimate | None:
        """Estimate mono depth; None where nothing needs it (``need`` names what does) or where it fails."""
        if need is None:
            self._faults.forget(FaultSubject.MONO)
            return None
        try:
            return self._mono.estimate(images.left, images.rig, need)
        except OutOfMemory as error:
            self._reduce_scale(self._models.mono, error)
            return None

    def _publish_temporal_flow(self, topics: set[str], left: np.ndarray, messages: StereoMessages) -> float:
        """Publish the flow from the left image before; returns the seconds in the model."""
        estimator = self._models.flow.estimator
        if not topics & TEMPORAL_TOPICS.keys():
            self._temporal.reset()
            self._faults.clear(FaultSubject.FLOW)
            return 0.0
        if estimator is None:
            problem = self._models.flow.failure or "flow_model is off: set it to flownet_lite or dis"
            text = f"temporal_flow/* has a subscriber, but {problem}"
            self._faults.report(FaultSubject.FLOW, WARN, text, FaultCode.NO_FLOW_MODEL)
            return 0.0
        begun = time.monotonic()
        try:
            flow = self._temporal.update(messages.stamp, left, estimator)
        except OutOfMemory as error:
            self._reduce_scale(self._models.flow, error)
            return 0.0
        seconds = time.monotonic() - begun
        self._faults.update(FaultSubject.FLOW, WARN, self._temporal.problem, FaultCode.FRAMES_APART)
        if flow is not None:
            self._outputs.publish_flow(topics, flow, messages)
        return seconds

    def _finish(self, begun: float, seconds: float, messages: StereoMessages) -> None:
        self._faults.clear(FaultSubject.MATCHING)
        now = self._node.get_clock().now().nanoseconds
        self._statistics.publish(
            inference=seconds,
            processing=time.monotonic() - begun,
            pipeline=None if now == 0 else (now - messages.stamp) * 1e-9,  # 0: simulated time without /clock
            mono=messages.right is None,
        )

    def _reduce_scale(self, host: ModelHost[Any, Any], error: OutOfMemory) -> None:
        name = host.estimator.model_name if host.estimator is not None else "the model"
        scale = host.reduce_scale()
        text = (
            f"{name}: out of memory even at the smallest inference_scale ({error}): set device to cpu, send smaller "
            "images, or free memory"
            if scale is None
            else f"{name}: out of memory ({error}): going on with inference_scale {scale:g}; send smaller images or "
            "free memory, then set inference_scale again"
        )
        self._faults.report(FaultSubject.MEMORY, ERROR, text, FaultCode.OUT_OF_MEMORY)


def _range_problem(rig: StereoRig, min_disparity: int, topics: Mapping[str, str]) -> str | None:
    """Return why far points are not searched, or None: infinity is at an image disparity of ``-doffs``."""
    margin = rig.doffs + min_disparity
    if margin <= 1.0:
        return None
    return (
        f"nothing beyond {rig.fx * rig.baseline / margin:.1f} m is searched: the principal points of "
        f"{topics['left/camera_info']} and {topics['right/camera_info']} differ by {rig.doffs:.1f} px, so infinity is "
        f"at {-rig.doffs:.1f} px and the search begins at {min_disparity}; set min_disparity to auto or to "
        f"{math.floor(-rig.doffs)} if the scene reaches farther"
    )
