"""Swap the weights of a running stereo_depth_node from another process, and wait for the result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from fg_depth_ros.data.io import diagnostic_keys as keys
from fg_depth_ros.networks import DEPTH_MODELS, STEREO_MODELS
from fg_depth_ros.nodes.common.codes import SwapState
from fg_depth_ros.nodes.common.environment import use_shared_memory_profile

RESPONSE_SECONDS = 10.0
SWAP_SECONDS = 60.0
_REQUESTS = 3  # in RESPONSE_SECONDS
_SETTLED = 2  # reports in a row without a swap in progress: one may have been under way
_MONO_TOPIC = "mono_depth/image_rect"


class NodeWeightsError(RuntimeError):
    """The node refused the weights and runs those it ran before; the message has its reason."""


class _Slot(NamedTuple):
    """A kind of network in the node: its parameters, and the prefix of its keys on /diagnostics."""

    model: str
    weights: str
    prefix: str

    @property
    def sha256(self) -> str:
        return self.prefix + keys.SHA256


STEREO = _Slot("model", "depth_weights", "")
FLOW = _Slot("flow_model", "flow_weights", keys.FLOW_PREFIX)
MONO = _Slot("mono_model", "mono_weights", keys.MONO_PREFIX)


class SwapResult(NamedTuple):
    """Result of a swap, and the parameters before it.

    ``confirmed``: the node's diagnostics have the new hash; else it accepted the parameters, and loads the file when an
    output first needs it.
    """

    confirmed: bool
    parameters: dict[str, str]


def set_node_weights(
    node: str, model: str, weights: str, sha256: str, *, timeout: float = SWAP_SECONDS, context: Any = None
) -> SwapResult:
    """Swap the weights of a network in a running node, and wait until it runs them.

    Args:
        node: its full name, such as "/stereo_depth_node".
        model: name of the network.
        weights: file that the node can read, with this ``sha256``; empty = those that come with its package.
        timeout: seconds to wait for the swap.
        context: an initialised rclpy context; default: one of its own.

    Raises:
        NodeWeightsError: no such node, it refuses the parameters, or cannot use the file. Its parameters are then as
            they were.
    """
    with _client(node, context) as client:
        slot = client.slot_of(model)
        before = client.parameters([slot.model, slot.weights])
        change = {slot.model: model, slot.weights: weights}
        client.set({name: value for name, value in change.items() if before[name] != value})
        try:
            confirmed = client.wait_for(slot, sha256, timeout)
        except NodeWeightsError:
            now = client.parameters([slot.model, slot.weights])
            # The node puts them back by itself where a model was running.
            with contextlib.suppress(NodeWeightsError):
                client.set({name: value for name, value in before.items() if now[name] != value})
            raise
        return SwapResult(confirmed, before)


def node_parameters(node: str, model: str, *, context: Any = None) -> dict[str, str]:
    """Return the parameters of a running node for this kind of network. Raises NodeWeightsError."""
    with _client(node, context) as client:
        slot = client.slot_of(model)
        return client.parameters([slot.model, slot.weights])


def set_node_parameters(node: str, parameters: Mapping[str, str], *, context: Any = None) -> None:
    """Set string parameters of a running node, such as those that it had before. Raises NodeWeightsError."""
    with _client(node, context) as client:
        client.set(parameters)


class _Client:
    """Calls the parameter services of a node, and reads its diagnostics."""

    def __init__(self, own: Node, executor: SingleThreadedExecutor, target: str) -> None:
        self._own, self._executor, self._target = own, executor, target
        self._status: DiagnosticStatus | None = None
        self._reports = 0
        own.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._get = own.create_client(GetParameters, f"{target}/get_parameters")
        self._set = own.create_client(SetParametersAtomically, f"{target}/set_parameters_atomically")

    def find(self) -> None:
        """Wait for the node. Raises NodeWeightsError."""
        if not self._until(lambda: self._get.service_is_ready() and self._set.service_is_ready(), RESPONSE_SECONDS):
            nodes = self._own.get_node_names_and_namespaces()
            others = (f"{space.rstrip('/')}/{name}" for name, space in nodes if name != self._own.get_name())
            running = ", ".join(sorted(others))
            raise NodeWeightsError(
                f"no node {self._target} answered within {RESPONSE_SECONDS:.0f} s (running: {running or 'none'}): give "
                "its full name, and the ROS_DOMAIN_ID that it runs in"
            )

    def parameters(self, names: list[str]) -> dict[str, str]:
        """Read the values of string parameters. Raises NodeWeightsError."""
        values = self._call(self._get, GetParameters.Request(names=names)).values
        if len(values) != len(names) or any(not value.type for value in values):
            raise NodeWeightsError(f"{self._target} has no parameters {', '.join(names)}: it is no stereo_depth_node")
        return {name: value.string_value for name, value in zip(names, values, strict=True)}

    def slot_of(self, model: str) -> _Slot:
        """Return the slot of a network: a flow network gives disparity where the node's ``model`` is one of its name.

        Raises NodeWeightsError.
        """
        if model in DEPTH_MODELS:
            return MONO
        return STEREO if model in STEREO_MODELS or self.parameters([STEREO.model])[STEREO.model] == model else FLOW

    def set(self, values: Mapping[str, str]) -> None:
        """Set them all or none. Raises NodeWeightsError with the node's reason."""
        if not values:
            return
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        result = self._call(self._set, request).result
        if not result.successful:
            raise NodeWeightsError(f"{self._target} refuses: {result.reason}")

    def wait_for(self, slot: _Slot, sha256: str, timeout: float) -> bool:
        """Wait until the node runs these weights; False: it will load them when needed. Raises NodeWeightsError."""
        begun, settled, demand = time.monotonic(), 0, None
        try:
            while self._next_report(begun + timeout - time.monotonic()):
                assert self._status is not None
                values = {item.key: item.value for item in self._status.values}
                state = values.get(slot.prefix + keys.SWAP)
                if values.get(slot.sha256) == sha256 and state != SwapState.LOADING:
                    return True
                if state == SwapState.NOT_LOADED:
                    if demand is None:  # a subscriber makes the node load it, once there is an image
                        topic = f"{self._target.rpartition('/')[0]}/{_MONO_TOPIC}"  # where it is not remapped
                        demand = self._own.create_subscription(Image, topic, lambda _: None, 1)
                    continue
                settled = 0 if state == SwapState.LOADING else settled + 1
                if settled >= _SETTLED:
                    runs = values.get(slot.sha256, "")[:12] or values.get(slot.prefix + keys.MODEL, "nothing")
                    message = f": {self._status.message}" if ord(self._status.level) else ""
                    raise NodeWeightsError(f"{self._target} still runs {runs}{message}")
        finally:
            if demand is not None:
                self._own.destroy_subscription(demand)
        if demand is not None:
            return False
        reason = "the swap is still in progress" if self._reports else "it sends no /diagnostics"
        raise NodeWeightsError(f"{self._target} did not run the weights within {timeout:.0f} s: {reason}")

    def _next_report(self, seconds: float) -> bool:
        """Wait for the next report of the node's models; False when none arrives."""
        before = self._reports
        return self._until(lambda: self._reports > before, max(0.0, seconds))

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == f"{self._target.lstrip('/')}: model":
                self._status = status
                self._reports += 1

    def _call(self, client: Any, request: Any) -> Any:
        """Return the response; asks again, since DDS loses a response whose reader it does not know yet."""
        requests: list[Any] = []
        for _ in range(_REQUESTS):
            requests.append(client.call_async(request))
            if self._until(lambda: any(each.done() for each in requests), RESPONSE_SECONDS / _REQUESTS):
                return next(each for each in requests if each.done()).result()
        raise NodeWeightsError(f"{self._target} did not respond within {RESPONSE_SECONDS:.0f} s: is it blocked?")

    def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() >= end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True


@contextlib.contextmanager
def _client(node: str, context: Any) -> Iterator[_Client]:
    target = node if node.startswith("/") else f"/{node}"
    own_context = None
    if context is None:
        use_shared_memory_profile()
        context = own_context = rclpy.Context()
        rclpy.init(context=context, args=[])
    own = Node("fg_depth_weights", context=context, enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(own)
    try:
        client = _Client(own, executor, target)
        client.find()
        yield client
    finally:
        executor.shutdown()
        own.destroy_node()
        if own_context is not None:
            rclpy.shutdown(context=own_context)
