"""The four subscriptions of stereo_depth_node: open only while somebody listens to an output."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from fg_depth_ros.compat import load_message_filters
from fg_depth_ros.nodes.common.codes import DropReason, FaultCode
from fg_depth_ros.nodes.common.diagnostics import WARN, Faults, PairStatistics, RateMeter
from fg_depth_ros.nodes.common.qos import OVERRIDES, sensor_data, subscription_events
from fg_depth_ros.nodes.common.synchronizing import INPUTS, LeftView, Pair, PairSynchronizer, why_silent


class StereoInputs:
    """Subscribes, synchronises, counts, and says why no pair comes.

    `settings` gives image_transport, approximate_sync, sync_slop, sync_queue_size, stall_timeout, mono_model and
    mono_timeout; `on_come` gets pairs, and left images alone while the right camera is gone, and must return at once.
    All methods are for the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        settings: Any,
        on_come: Callable[[Pair | LeftView], None],
        statistics: PairStatistics,
        faults: Faults,
    ) -> None:
        self._node, self._settings, self._on_come = node, settings, on_come
        self._statistics, self._faults = statistics, faults
        self._filters = load_message_filters()
        self._subscribers: list[Any] = []
        self._sync: PairSynchronizer | None = None
        self._opened = 0.0
        self._lost: Counter[str] = Counter()  # without partner, in earlier subscriptions
        self._rates = {name: RateMeter() for name in INPUTS}

    @property
    def opened(self) -> bool:
        """Whether the topics are subscribed to."""
        return self._sync is not None

    @property
    def compressed(self) -> bool:
        """Whether the images are CompressedImage."""
        return bool(self._settings["image_transport"] == "compressed")

    def topic(self, name: str) -> str:
        """Resolved name of an input, remapping included."""
        resolved = self._node.resolve_topic_name(name)
        return f"{resolved}/compressed" if self.compressed and name.endswith("image_rect") else resolved

    def open(self) -> None:
        """Subscribe to all four."""
        if self._sync is not None:
            return
        self._subscribers = [self._subscribe(name) for name in INPUTS]
        self._sync = PairSynchronizer(
            self._subscribers,
            self._matched,
            approximate=self._settings["approximate_sync"],
            slop=self._settings["sync_slop"],
            queue_size=self._settings["sync_queue_size"],
            on_error=self._failed,
            on_time_jump=self._time_jumped,
            on_left=self._left_came,
            filters=self._filters,
        )
        self._opened = time.monotonic()

    def close(self) -> None:
        """Unsubscribe."""
        if self._sync is None:
            return
        for name in INPUTS:
            self._lost[name] += self._sync.unmatched(name) + self._sync.waiting(name)
        for subscriber in self._subscribers:
            self._node.destroy_subscription(subscriber.sub)
        self._subscribers, self._sync = [], None
        for subject in ("pairs", "right camera", "input", "rectification", "range", "scale", "mono", "flow"):
            self._faults.forget(subject)

    def watch(self) -> None:
        """Called now and then: report when no pair comes."""
        if self._sync is None:
            return
        patience = self._settings["stall_timeout"]
        waited = time.monotonic() - max(self._opened, self._sync.last_match)
        if waited < patience:
            self._faults.clear("pairs")
            return
        if self._sync.silent(INPUTS[0]) >= patience:
            self._faults.forget("right camera")  # nothing comes from the left one either
        elif self._faults["right camera"] is not None:
            self._faults.forget("pairs")  # told, with what is done about it
            return
        why = self._sync.why_no_pair(self._publishers, self.topic)
        self._faults.report("pairs", WARN, f"no stereo pair for {waited:.0f} s: {why}", code=FaultCode.NO_PAIRS)

    def values(self) -> dict[str, str]:
        """Key -> value for a DiagnosticStatus: rate and losses by input."""
        values = {}
        for name in INPUTS:
            values[f"{name} rate (Hz)"] = f"{self._rates[name].rate():.2f}"
            now = self._sync.unmatched(name) if self._sync is not None else 0
            values[f"{name} without partner"] = str(self._lost[name] + now)
        return values

    def _subscribe(self, name: str) -> Any:
        image = CompressedImage if self.compressed else Image
        subscriber = self._filters.Subscriber(
            self._node,
            CameraInfo if name.endswith("camera_info") else image,
            self.topic(name),
            qos_profile=sensor_data(),
            event_callbacks=subscription_events(self._node, self.topic(name)),
            qos_overriding_options=OVERRIDES,
        )
        subscriber.registerCallback(lambda message, rate=self._rates[name]: rate.tick())
        return subscriber

    def _matched(self, pair: Pair) -> None:
        self._faults.clear("right camera")
        self._statistics.came()
        self._on_come(pair)

    def _left_came(self, left: Any, left_info: Any) -> None:
        """Hand on a left image whose right one will not come."""
        sync, patience = self._sync, self._settings["mono_timeout"]
        if sync is None or patience == 0 or self._settings["mono_model"] == "off":
            self._faults.forget("right camera")  # nothing stands in for it any more
            return
        gone = sync.right_gone(patience)
        if gone is None:
            self._faults.clear("right camera")
            return
        seconds = sync.silent(gone)
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - seconds))
        why = f"no message on {self.topic(gone)} since {since} ({seconds:.0f} s): {why_silent(self._publishers(gone))}"
        self._statistics.came(alone=True)
        self._on_come(LeftView(left, left_info, why))

    def _publishers(self, name: str) -> int:
        return int(self._node.count_publishers(self.topic(name)))

    def _failed(self, error: Exception) -> None:
        self._statistics.dropped(DropReason.INTERNAL_ERROR)
        self._node.get_logger().error(f"a pair could not be taken in: {error!r}")

    def _time_jumped(self, name: str, seconds: float) -> None:
        if name != INPUTS[0]:
            return  # all four jump together; once is enough to know
        self._node.get_logger().info(
            f"time on {self.topic(name)} went back by {seconds:.3f} s (a recording that starts again?): "
            "going on with the new time"
        )
