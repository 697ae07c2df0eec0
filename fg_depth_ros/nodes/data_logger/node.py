"""data_logger_node: synchronised stereo pairs and other topics into crash-safe episodes, on triggers or all the time.

Callbacks pass on bytes; the recorder's own thread writes. See docs/recording.md.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from fg_depth_ros import __version__
from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.nodes.common import diagnostics
from fg_depth_ros.nodes.common.clock import CLOCK_ENDED_TEXT
from fg_depth_ros.nodes.common.codes import FaultCode, FaultSubject, NodeState, RecorderFault
from fg_depth_ros.nodes.common.diagnostics import ERROR, WARN, Fault, Faults
from fg_depth_ros.nodes.common.running import run_node
from fg_depth_ros.nodes.common.synchronizing import StereoMessages
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.data_logger.inputs import INPUT_FAULTS, LoggerInputs
from fg_depth_ros.nodes.data_logger.parameters import DATA_LOGGER, TRIGGER_LIMITS, recorder_config, small_quota
from fg_depth_ros.nodes.data_logger.topics import TOPIC_FAULTS, GraphTopics, Use
from fg_depth_ros.nodes.data_logger.trigger_monitor import DEPTH, LABELS, MONITOR_FAULTS, TriggerMonitor, WeightsMonitor
from fg_depth_ros.recording.definitions import Message, Topic
from fg_depth_ros.recording.episode_writer import ENCODING, MANIFEST, SPACE, TYPES
from fg_depth_ros.recording.recorder import DESCRIPTION, LOST, RECOVERY, Recorder
from fg_depth_ros.recording.recovery import recover
from fg_depth_ros.recording.transcode import image_encoder
from fg_depth_ros.recording.triggers import PeriodicTimer, RateLimiter

__all__ = ["DATA_LOGGER", "DataLoggerNode", "main"]

_CHECK_SECONDS = 0.1
_RESPONSE_SECONDS = 3.0  # a service waits this long for an episode to begin or to end
_CLOSE_SECONDS = 30.0
# Faults of the recorder that are no failing disk.
_WARNINGS = (SPACE, ENCODING, TYPES, MANIFEST, RECOVERY, DESCRIPTION)
_DROP_FAULT_SECONDS = 10.0  # drops are a warning for so long


class DataLoggerNode(Node):
    """Records pairs and other topics; a failing disk does not end it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("data_logger_node", **kwargs)
        self.faults = Faults(diagnostics.node_log(self))
        # Replaced, never changed: the recorder's thread adds to them while other threads read.
        self._fault_subjects: tuple[str, ...] = (*INPUT_FAULTS, *MONITOR_FAULTS, *TOPIC_FAULTS)
        self._fault_subjects += (FaultSubject.CONFIGURATION, FaultSubject.TOPIC_NAMES, RECOVERY)
        self._last_drop: tuple[int, float] | None = None  # how many drops there were by then, and since when
        self._responses: list[tuple[Callable[[], str | None], float, Future]] = []
        self._episode = ""
        self._queued = self._most_queued = 0  # pairs in the recorder's queue: sum over all pairs, and the largest
        self.parameters = DATA_LOGGER.declare(self, apply=self._apply)
        self._report_refused()
        values = self.parameters.values()
        self._extra_topics = self._resolved(values["topics"])
        self._record = values["record"]
        config = recorder_config(values)
        self.root: Path = config.root
        self._software = {
            "fg_depth_ros": __version__,
            "python": platform.python_version(),
            "platform": f"{sys.platform} {platform.machine()}",
            "ros": os.environ.get("ROS_DISTRO", "unknown"),
            "middleware": rclpy.get_rmw_implementation_identifier(),
        }
        self._weights = WeightsMonitor()
        namespace = self.get_namespace().strip("/")
        name = self.parameters["depth_node"].strip("/")
        self._depth_node = name if self.parameters["depth_node"].startswith("/") else f"{namespace}/{name}".lstrip("/")
        self._interval = PeriodicTimer()
        self._limiter = RateLimiter(self._fire)
        self._monitor = TriggerMonitor(self.parameters, self._now, self._on_trigger, self.faults)
        images = {str(self.resolve_topic_name(topic)) for topic in INPUTS if topic.endswith("image_rect")}
        self.recorder = Recorder(
            config,
            self._describe,
            self._recorder_fault,
            image_encoder(values["storage"], values["jpeg_quality"], images),
            latched=lambda: self.topics.latched(),  # made below
            on_finished=self._episode_finished,
        )
        self.inputs = LoggerInputs(
            self, self.parameters, self._now, self._on_pair, self._on_new_calibration, self.faults
        )
        depth = self.parameters["input_depth"]
        self.topics = GraphTopics(self, self._wanted_topics, depth, self._now, self.recorder.submit_extra, self.faults)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=50))
        # A group of their own: while one of them waits for its episode, the rest of the node continues.
        waiting = ReentrantCallbackGroup()
        for service, callback in (("start", self._on_start), ("stop", self._on_stop), ("snapshot", self._on_snapshot)):
            self.create_service(Trigger, f"~/{service}", callback, callback_group=waiting)
        # Simulated time may stand still; these must not.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(_CHECK_SECONDS, self._check, clock=steady)
        self.get_logger().info(
            f"episodes go to {self.root} (record: {self._record}), pairs come from {self.inputs.topics[INPUTS[0]]} "
            f"and {self.inputs.topics[INPUTS[1]]}"
        )
        self._warn_without_triggers()
        if (problem := small_quota(config)) is not None:
            self.get_logger().warning(problem)
        if self._record == "continuous":
            self.recorder.start()
        self._recovery = threading.Thread(target=self._recover, name="recovery", daemon=True)
        self._recovery.start()

    def destroy_node(self) -> None:
        """Finish the episode, then destroy the node; also one that was not made to its end."""
        if hasattr(self, "recorder"):
            self.recorder.close(_CLOSE_SECONDS)
        super().destroy_node()

    # ---- input -----------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _on_pair(self, pair: StereoMessages, messages: list[tuple[Topic, Message]]) -> None:
        self.recorder.submit_pair(pair.stamp, messages)
        queued = self.recorder.counters()["in_queue"]
        self._queued, self._most_queued = self._queued + queued, max(self._most_queued, queued)
        period = self.parameters["interval_period"]
        if period and self._interval.due(pair.left.recorded, period):
            self._on_trigger("interval", f"every {period:g} s")
        self._monitor.on_left_image(lambda: self.inputs.left_image(pair))

    def _on_new_calibration(self, reason: str) -> None:
        self._monitor.reset_motion()
        self.recorder.cut(reason)

    def _resolved(self, names: Sequence[str]) -> list[str]:
        """Resolve topic names; names that are not valid are reported and left out."""
        found, wrong = [], []
        for name in filter(None, names):
            try:
                found.append(str(self.resolve_topic_name(name)))
            except Exception as error:  # rclpy has a class of its own for each layer that may refuse
                wrong.append(f"'{name}' ({str(error).partition(', at ')[0]})")
        if wrong:
            text = f"parameter topics: {', '.join(wrong)} no valid topic name, not recorded; give names such as /odom"
            self.faults.report(FaultSubject.TOPIC_NAMES, WARN, text, RecorderFault.TOPIC_NAMES, log_every_text=True)
        return found

    def _wanted_topics(self) -> dict[str, Use]:
        wanted = {name: Use(True) for name in self._extra_topics}
        if self.parameters["record_depth"]:
            wanted |= {str(self.resolve_topic_name(name)): Use(True) for name in (DEPTH, LABELS)}
        for name, callback in self._monitor.uses().items():
            topic = str(self.resolve_topic_name(name))
            wanted[topic] = Use(topic in wanted and wanted[topic].record, callback)
        for name in INPUTS:  # recorded already
            wanted.pop(self.inputs.topics[name], None)
        return wanted

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        if self._weights.on_diagnostics(array, self._depth_node):
            self.get_logger().info("; ".join(f"{key}: {value}" for key, value in self._weights.values().items()))
        self._monitor.on_diagnostics(array, self._depth_node)

    # ---- episodes --------------------------------------------------------------------------------------------------

    def _on_trigger(self, kind: str, detail: str) -> None:
        """Handle an automatic trigger."""
        if self.parameters["record"] == "triggers":
            self._limiter.call(kind, detail, self._now(), self.parameters["cooldown"])

    def _fire(self, kind: str, detail: str) -> None:
        self.get_logger().info(f"trigger {kind}: {detail}")
        self.recorder.trigger(kind, detail)

    def _warn_without_triggers(self) -> None:
        """Log that nothing will be recorded, where that is so."""
        if self.parameters["record"] == "triggers" and not any(self.parameters[name] for name in TRIGGER_LIMITS):
            only = "only the trigger calibration is" if self.parameters["calibration_alarm"] else "no trigger is"
            self.get_logger().warning(
                f"record is triggers, and {only} on: set one of {', '.join(TRIGGER_LIMITS)}, or record to continuous, "
                "or call ~/start or ~/snapshot"
            )

    def _report_refused(self) -> None:
        """Report the start values that were refused and not replaced since."""
        problems = self.parameters.problems
        text = f"{'; '.join(problems)}; the default is used" if problems else None
        self.faults.update(FaultSubject.CONFIGURATION, WARN, text, RecorderFault.CONFIGURATION, log_every_text=True)

    def _apply(self, changed: set[str]) -> None:
        self._report_refused()
        if not changed.isdisjoint({"record", *TRIGGER_LIMITS}):
            self._warn_without_triggers()
        if "record" not in changed:
            return
        before, self._record = self._record, self.parameters["record"]
        if self._record == "continuous":
            self.recorder.start()  # again after ~/stop
        elif self._record != before and (before == "continuous" or self._record == "off"):
            self.recorder.stop()

    def _describe(self) -> dict[str, Any]:
        rig = self.inputs.rig
        rig_values = None if rig is None else rig.to_dict()
        return {"rig": rig_values, "weights": dict(self._weights.weights), "software": dict(self._software)}

    def _recover(self) -> None:
        """Recover what a crash or a power cut left, during the recording. In a thread of its own."""
        try:
            left = []
            for found in recover(self.root):
                self.get_logger().info(f"an earlier run left {found.name}: {found.messages} messages; {found.note}")
                left += [] if found.done else [f"{found.name}: {found.note}"]
            if left:
                self.faults.report(RECOVERY, WARN, "; ".join(left), RecorderFault.RECOVERY, log_every_text=True)
        except Exception as error:  # whatever is in the folder, recording continues
            text = f"what an earlier run left in {self.root} could not be recovered: {error}; try fg-depth recover"
            self.faults.report(RECOVERY, WARN, text, RecorderFault.RECOVERY, log_every_text=True)

    # ---- services --------------------------------------------------------------------------------------------------

    async def _on_start(self, _: Any, response: Any) -> Any:
        self.get_logger().info("~/start: recording everything")
        before, _ = self.recorder.begun
        self.recorder.start()
        return await self._respond_with_episode(response, before)

    async def _on_snapshot(self, _: Any, response: Any) -> Any:
        before, _ = self.recorder.begun
        self._limiter.call("manual", "~/snapshot", self._now())
        return await self._respond_with_episode(response, before)

    async def _respond_with_episode(self, response: Any, before: int) -> Any:
        """Respond with the episode in progress, or one begun after the first ``before`` ones, even if it has ended."""

        def episode() -> str | None:
            count, last = self.recorder.begun
            return self.recorder.episode or (last if count > before else None)

        name = await self._wait_for(episode)
        response.success = bool(name)
        response.message = name or f"no episode has begun yet: {self._why_not()}"
        return response

    async def _on_stop(self, _: Any, response: Any) -> Any:
        name = self.recorder.episode
        self.recorder.stop()
        ended = await self._wait_for(lambda: "yes" if self.recorder.episode != name or not name else None)
        response.success = bool(ended)
        response.message = (name or "nothing was being recorded") if ended else f"{name} has not ended yet"
        return response

    def _wait_for(self, found: Callable[[], str | None]) -> Future:
        """Return a future for the first true value of ``found()``; None after ``_RESPONSE_SECONDS``."""
        future: Future = Future()
        self._responses.append((found, time.monotonic() + _RESPONSE_SECONDS, future))
        return future

    def _why_not(self) -> str:
        faults = self._faults_present()
        return faults[0].text if faults else "it begins with the next pair"

    # ---- state -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self.inputs.check()
        self.topics.update()
        episode = self.recorder.episode
        if episode != self._episode:
            self._episode = episode
            if episode:
                self.get_logger().info(f"recording {episode}")
        waiting, self._responses = self._responses, []
        for found, end, future in waiting:
            result = found()
            if result is None and time.monotonic() < end:
                self._responses.append((found, end, future))
            else:
                future.set_result(result)
        self._check_drops()

    def _check_drops(self) -> None:
        self.recorder.count_lost(inputs=self.inputs.lost, others=self.topics.lost)
        drops = {
            "pairs": self.recorder.drops + self.inputs.drops,
            "camera messages": self.recorder.input_drops,
            "other messages": self.recorder.extra_drops,
        }
        dropped = sum(counts.total() for counts in drops.values())
        if self._last_drop is None or dropped > self._last_drop[0]:
            self._last_drop = (dropped, time.monotonic())
            text = "; ".join(
                f"{counts.total()} {what} were dropped so far: "
                + ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
                for what, counts in drops.items()
                if counts
            )
            if any({"queue full", LOST} & counts.keys() for counts in drops.values()):
                text += "; raise queue_size (queue full) or input_depth (lost on the way), or record less"
            if text:
                self.faults.report(FaultSubject.DROPS, WARN, text, RecorderFault.DROPS)
        elif time.monotonic() - self._last_drop[1] > _DROP_FAULT_SECONDS:
            self.faults.clear(FaultSubject.DROPS)

    def _faults_present(self) -> list[Fault]:
        return self.faults.present((*self._fault_subjects, FaultSubject.DROPS))  # a cause goes before its consequence

    def _recorder_fault(self, subject: str, text: str | None) -> None:
        """Handle a fault of the recorder, called from its thread."""
        if subject not in self._fault_subjects:
            self._fault_subjects = (*self._fault_subjects, subject)
        level = WARN if subject in _WARNINGS else ERROR
        self.faults.update(subject, level, text, subject, log_every_text=True)  # the subjects are codes

    def _episode_finished(self, line: dict[str, Any]) -> None:
        """Log a finished episode, called from the recorder's thread."""
        self.get_logger().info(f"{line['name']} is complete: {line['pairs']} pairs, {line['bytes'] / 1e6:.1f} MB")

    def _publish_diagnostics(self) -> None:
        values = {
            keys.STATE: NodeState.ACTIVE,
            **self.recorder.values(),
            keys.QUEUE_MEAN: f"{self._queued / max(self.inputs.matched, 1):.2f}",
            keys.QUEUE_LARGEST: str(self._most_queued),
            **self._limiter.values(),
            **self._monitor.values(),
            **self.inputs.values(),
            **self.topics.values(),
            **self._weights.values(),
            **({"earlier recordings": "being completed"} if self._recovery.is_alive() else {}),
        }
        fine, reason = f"waiting ({self._record})", FaultCode.OK
        if self._episode:
            fine = f"recording {self._episode}"
        elif self.inputs.ended:
            fine, reason = CLOCK_ENDED_TEXT, FaultCode.CLOCK_ENDED
        elif self._record == "continuous" and not self.recorder.continuous:
            fine = "stopped by ~/stop, though record is continuous: call ~/start, or set record again, to go on"
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        faults = self._faults_present()
        message.status.append(diagnostics.status(f"{name}: recording", "recorder", faults, fine, values, reason))
        self._diagnostics.publish(message)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM, then finish the episode."""
    # rclpy's own handlers shut the context down at once; here the episode is finished first, and a second signal does
    # not interrupt that.
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())

    def spin(node: DataLoggerNode, executor: SingleThreadedExecutor) -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.5)

    no_handlers, name = SignalHandlerOptions.NO, "data_logger_node"
    started = run_node(name, DataLoggerNode, spin, args, refusals=(ValueError,), handlers=no_handlers)
    return 0 if started else 1


if __name__ == "__main__":
    sys.exit(main())
