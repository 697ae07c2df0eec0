"""The four subscriptions of stereo_depth_node: open only while an output has a subscriber."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node

from fg_depth_ros.compat import load_message_filters
from fg_depth_ros.compat.message_filters import SimpleFilter
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.nodes.common.clock import clock_has_ended
from fg_depth_ros.nodes.common.codes import DropReason, FaultCode, FaultSubject
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Faults, PairStatistics, RateMeter
from fg_depth_ros.nodes.common.input_topics import input_types
from fg_depth_ros.nodes.common.missing_pairs import (
    LostImages,
    explain_lost,
    explain_no_pair,
    images_beside,
    why_silent,
)
from fg_depth_ros.nodes.common.parameters import DeclaredParameters
from fg_depth_ros.nodes.common.qos import (
    CameraInfoSubscription,
    input_qos,
    naming_overrides,
    overridable,
    subscription_events,
)
from fg_depth_ros.nodes.common.synchronizing import PairSynchronizer, StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.common.video import PacketSubscriber, VideoStream

PAIR_FAULTS = (
    FaultSubject.INPUT,
    FaultSubject.MATCHING,
    FaultSubject.IMAGES,
    FaultSubject.RIGHT_CAMERA,
    FaultSubject.PAIRS,
    FaultSubject.LOST_IMAGES,
    FaultSubject.CALIBRATION,
    FaultSubject.RECTIFICATION,
    FaultSubject.ROWS,
    FaultSubject.RANGE,
    FaultSubject.DEPTH,
    FaultSubject.SCALE,
    FaultSubject.FLOW,
    FaultSubject.CLOUD,
)
"""Subjects of faults of the pairs, in the order of a status; forgotten when the inputs are closed."""
_RETRY_SECONDS = 1.0  # after an input could not be subscribed
# Images are compared in number with camera_infos that come for so long, and are so many: the images of a driver that
# starts may come later.
_LOSS_SECONDS, _LOSS_INFOS = 4.0, 10


class StereoInputs:
    """Subscribes to the inputs, synchronises them, and reports why no pair arrives. For the executor's thread.

    ``submit`` gets each pair, and left images alone while the right camera is silent; it must return at once.
    ``topics``: input name -> resolved topic. ``mono_off``: whether no depth is wanted from left images alone.
    """

    def __init__(
        self,
        node: Node,
        parameters: DeclaredParameters,
        topics: Mapping[str, str],
        submit: Callable[[StereoMessages], None],
        mono_off: Callable[[], bool],
        statistics: PairStatistics,
        faults: Faults,
    ) -> None:
        self._node, self._parameters, self._topics, self._submit = node, parameters, topics, submit
        self._mono_off, self._statistics, self._faults = mono_off, statistics, faults
        self._filters = load_message_filters()
        self._images: dict[str, Any] = {}  # subscribers
        self._camera_infos: list[CameraInfoSubscription] = []
        self._infos: dict[str, Any] = {}  # camera_infos of earlier subscriptions
        self._packet_drops = {name: Counter[str]() for name in INPUTS}  # in earlier subscriptions
        self._sync: PairSynchronizer | None = None
        self.ended = False
        """Whether no pair arrives since simulated time has ended."""
        self._opened, self._failed = 0.0, -_RETRY_SECONDS
        self._unmatched: Counter[str] = Counter()  # in earlier subscriptions
        self._rates = {name: RateMeter() for name in INPUTS}

    @property
    def is_open(self) -> bool:
        """Whether the inputs are subscribed."""
        return self._sync is not None

    @property
    def is_receiving(self) -> bool:
        """Whether a message of any input has come since they were subscribed."""
        return self._sync is not None and any(self._sync.received(name) for name in INPUTS)

    def open(self) -> None:
        """Subscribe to all four inputs, or report why that is not possible."""
        if self._sync is not None or time.monotonic() - self._failed < _RETRY_SECONDS:
            return
        try:
            sources = [self._subscribe(name) for name in INPUTS]
        except ValueError as error:
            self._failed = time.monotonic()
            self._unsubscribe()
            self._faults.report(FaultSubject.CONFIGURATION, ERROR, f"not configured: {error}", FaultCode.NOT_CONFIGURED)
            return
        self._faults.clear(FaultSubject.CONFIGURATION)
        self._sync = PairSynchronizer(
            sources,
            self._submit,
            approximate=self._parameters["approximate_sync"],
            slop=self._parameters["sync_slop"],
            queue_size=self._parameters["sync_queue_size"],
            allow_unstamped=self._parameters["allow_unstamped"],
            now=lambda: self._node.get_clock().now().nanoseconds or time.time_ns(),
            on_error=self._on_error,
            on_time_jump=self._on_time_jump,
            on_left_only=self._on_left_only,
            infos=self._infos,
            filters=self._filters,
        )
        self._opened = time.monotonic()

    def close(self) -> None:
        """Unsubscribe, and forget the faults of the pairs; those of one that was still in work at the next call."""
        for subject in (*PAIR_FAULTS, FaultSubject.MONO):
            self._faults.forget(subject)
        if self._sync is None:
            return
        for name in INPUTS:
            self._unmatched[name] += self._sync.unmatched(name) + self._sync.waiting(name)
            self._packet_drops[name] += self._dropped(name)
        self._unsubscribe()
        self._infos, self._sync, self.ended = self._sync.infos, None, False

    def check(self) -> None:
        """Report when no pair arrives, and follow the publishers; called periodically."""
        if self._sync is None:
            return
        for subscription in self._camera_infos:
            subscription.follow()
        timeout = self._parameters["stall_timeout"]
        waited = time.monotonic() - max(self._opened, self._sync.last_match)
        if waited < timeout:
            self.ended = False
            self._faults.clear(FaultSubject.PAIRS)
            self._check_lost_images()
            return
        self._faults.forget(FaultSubject.LOST_IMAGES)  # reported as the cause, or not known
        self.ended = clock_has_ended(self._node)
        if self.ended:
            self._faults.forget(FaultSubject.PAIRS)
            return
        if self._sync.silent(INPUTS[0]) >= timeout:
            self._faults.forget(FaultSubject.RIGHT_CAMERA)  # the left one is silent, too
        elif self._faults[FaultSubject.RIGHT_CAMERA] is not None:
            self._faults.forget(FaultSubject.PAIRS)  # reported already, with its consequence
            return
        if problems := [problem for name in INPUTS if (problem := self._video_problem(name)) is not None]:
            why, code = "; ".join(problems), FaultCode.VIDEO_NOT_DECODED
        else:
            why = explain_no_pair(self._sync.unpaired, self._publishers, self._topics.__getitem__, self._others)
            code = self._sync.stall_code
        self._faults.report(FaultSubject.PAIRS, WARN, f"no stereo pair for {waited:.0f} s: {why}", code)

    def _check_lost_images(self) -> None:
        """Report images of which most are lost while others form pairs."""
        if self._faults[FaultSubject.RIGHT_CAMERA] is not None:  # reported already, with its consequence
            self._faults.forget(FaultSubject.LOST_IMAGES)
            return
        lost = {name: found for name in INPUTS[:2] if (found := self._lost_lately(name)) is not None}
        text = explain_lost(lost, self._topics.__getitem__) if lost else None
        self._faults.update(FaultSubject.LOST_IMAGES, WARN, text, FaultCode.IMAGES_LOST)

    def _lost_lately(self, name: str) -> LostImages | None:
        """Return what is known of the images of an input, where less than half as many come as camera_infos."""
        assert self._sync is not None
        info_name = name.replace("image_rect", "camera_info")
        images, infos = self._rates[name].count, self._rates[info_name]
        enough = infos.count >= _LOSS_INFOS and infos.seconds >= _LOSS_SECONDS
        few = 0 < 2 * images < infos.count  # without any, no pair forms
        if not enough or not few or self._video_problem(name) is not None:
            return None
        info = self._sync.infos.get(info_name)
        size = int(getattr(info, "width", 0)), int(getattr(info, "height", 0))
        return LostImages(*size, self._sync.largest(name), images, infos.count)

    def values(self) -> dict[str, str]:
        """Return the key-value pairs of a DiagnosticStatus: rate and losses by input."""
        values = {}
        for name in INPUTS:
            values[f"{name}{keys.RATE}"] = f"{self._rates[name].rate():.2f}"
            now = self._sync.unmatched(name) if self._sync is not None else 0
            values[f"{name}{keys.WITHOUT_PARTNER}"] = str(self._unmatched[name] + now)
            if self._sync is not None and (repeated := self._sync.repeated(name)):
                values[f"{name} used again"] = str(repeated)
            for reason, count in sorted((self._packet_drops[name] + self._dropped(name)).items()):
                values[f"{name} {keys.DROPPED}{reason}"] = str(count)
        return values

    def _unsubscribe(self) -> None:
        for subscriber in self._images.values():
            self._node.destroy_subscription(subscriber.sub)
        for subscription in self._camera_infos:
            subscription.destroy()
        self._images, self._camera_infos = {}, []

    def _subscribe(self, name: str) -> Any:
        """Subscribe to an input; returns the filter of its messages. Raises ValueError."""
        topic, kind = self._topics[name], input_types(self._parameters)[name]
        packets = name.endswith("image_rect") and self._parameters["image_transport"] != "raw"
        qos = input_qos(self._parameters["use_system_default_qos"], every=packets)
        if name.endswith("camera_info"):
            source: Any = SimpleFilter()
            self._camera_infos.append(CameraInfoSubscription(self._node, topic, source.signalMessage, qos))
        elif packets:
            source = self._images[name] = PacketSubscriber(self._node, kind, topic, qos)
        else:
            events = subscription_events(self._node, topic)
            with naming_overrides(topic, "subscription"):
                source = self._images[name] = self._filters.Subscriber(
                    self._node, kind, topic, event_callbacks=events, **overridable(qos)
                )
        source.registerCallback(lambda message, rate=self._rates[name]: rate.tick())
        return source

    def _on_left_only(self, left: Any, left_info: Any) -> None:
        """Submit a left image alone when the right camera is silent."""
        timeout = self._parameters["mono_timeout"]
        if self._sync is None or timeout == 0 or self._mono_off():
            self._faults.forget(FaultSubject.RIGHT_CAMERA)  # there is no fallback any more
            return
        silent = self._sync.silent_right(timeout)
        if silent is None:
            self._faults.clear(FaultSubject.RIGHT_CAMERA)
            return
        seconds = self._sync.silent(silent)
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
        why = self._video_problem(silent) or why_silent(
            self._publishers(silent), self._topics[silent], self._others(silent), self._lost(silent)
        )
        reason = f"no message on {self._topics[silent]} since {since} ({seconds:.0f} s): {why}"
        self._submit(StereoMessages(left, None, left_info, None, reason))

    def _stream(self, name: str) -> VideoStream | None:
        return getattr(self._images.get(name), "stream", None)

    def _video_problem(self, name: str) -> str | None:
        """Return why no image can be made of the packets of an input; None where it can, or where none come."""
        return None if (stream := self._stream(name)) is None else stream.problem

    def _dropped(self, name: str) -> Counter[str]:
        """Packets of an input that gave no image, by reason, since it was opened."""
        return Counter() if (stream := self._stream(name)) is None else stream.drops

    def _lost(self, name: str) -> LostImages | None:
        return self._sync.lost_images(name) if self._sync is not None and name.endswith("image_rect") else None

    def _others(self, name: str) -> list[str]:
        return images_beside(self._node, self._topics[name]) if name.endswith("image_rect") else []

    def _publishers(self, name: str) -> int:
        return int(self._node.count_publishers(self._topics[name]))

    def _on_error(self, error: Exception) -> None:
        self._statistics.drop(DropReason.INTERNAL_ERROR)
        self._node.get_logger().error(f"a pair could not be submitted: {error!r}")

    def _on_time_jump(self, name: str, seconds: float) -> None:
        if name != INPUTS[0]:
            return  # all four jump together
        self._node.get_logger().info(
            f"time on {self._topics[name]} went back by {seconds:.3f} s (a recording that starts again?): "
            "going on with the new time"
        )
