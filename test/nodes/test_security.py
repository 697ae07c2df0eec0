"""config/security/policy.xml allows each node the topics and services that it creates, and nothing else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from support.bags import write
from support.nodes import KINDS, OTHER_KINDS, use_shared_memory_profile
from support.waiting import wait_until

from fg_depth_ros.apps import node_weights
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.data_logger.node import DataLoggerNode
from fg_depth_ros.nodes.evaluator.node import ReplayEvaluatorNode
from fg_depth_ros.nodes.players.bag_player import BagPlayerNode
from fg_depth_ros.nodes.players.stereo_player import StereoPlayerNode
from fg_depth_ros.nodes.stereo_depth.node import StereoDepthNode
from fg_depth_ros.nodes.stereo_depth.outputs import COMPRESSED_TOPICS
from fg_depth_ros.resources import resource_path

POLICY = "config/security/policy.xml"
NODES: tuple[Callable[[], Node], ...] = (
    StereoDepthNode, DataLoggerNode, StereoPlayerNode, BagPlayerNode, ReplayEvaluatorNode,
)  # fmt: skip
NAMES = {"stereo_depth_node", "data_logger_node", "stereo_player_node", "bag_player_node", "replay_evaluator_node"}
Rule = tuple[str, str, str]  # node, what it does, full name

use_shared_memory_profile()


def rules() -> set[Rule]:
    """Return what the policy allows, by node, with full names as sros2 makes them."""
    found = set()
    for profile in ET.parse(resource_path(POLICY)).getroot().iterfind("enclaves/enclave/profiles/profile"):
        node, namespace = profile.attrib["node"], profile.attrib["ns"]
        assert namespace == "/"
        for group in profile:
            for kind, verdict in group.attrib.items():
                assert verdict == "ALLOW"
                for element in group:
                    name = (element.text or "").strip()
                    full = name if name.startswith("/") else f"/{name}"
                    found.add((node, kind, full.replace("/~", f"/{node}")))
    return found


def created(observer: Node, name: str) -> set[Rule]:
    """Return what a running node creates, as far as the graph shows it to another one."""
    kinds = {
        "publish": observer.get_publisher_names_and_types_by_node,
        "subscribe": observer.get_subscriber_names_and_types_by_node,
        "reply": observer.get_service_names_and_types_by_node,
        "request": observer.get_client_names_and_types_by_node,
    }
    return {(name, kind, topic) for kind, ask in kinds.items() for topic, _ in ask(name, "/")}


@pytest.fixture
def running(ros_domain: int, tmp_path: Path) -> Callable[[bool], set[Rule]]:
    """Start every node, with what it subscribes to on demand, and return what they created."""
    bag = write(tmp_path / "bag")

    def run(simulated: bool) -> set[Rule]:
        values = {
            "stereo_depth_node": {"model": "sgbm", "flow_model": "dis", "mono_model": "depthnet_lite"},
            "data_logger_node": {
                "root": str(tmp_path / "episodes"), "record_depth": True, "motion_flow": 1.0, "free_floor": 0.0,
                "disagreement_abs_rel": 1.0, "low_confidence_share": 0.1, "record": "triggers",
            },
            "stereo_player_node": {"publish_clock": simulated, "wait_for_subscribers": 9},
            "bag_player_node": {"bags": [str(bag)], "publish_clock": simulated, "wait_for_subscribers": 9},
            # The camera's images are for a run without true depth, or with a snapshot.
            "replay_evaluator_node": {"idle_timeout": 0.0, "truth": not simulated},
        }  # fmt: skip
        values["stereo_depth_node"]["publish_compressed"] = simulated
        for node in ("stereo_depth_node", "data_logger_node", "replay_evaluator_node"):
            values[node] |= {"image_transport": "compressed" if simulated else "raw", "use_sim_time": simulated}
        given = [
            word
            for node, parameters in values.items()
            for name, value in parameters.items()
            for word in ("-p", f"{node}:{name}:={str(value).lower() if isinstance(value, bool) else value}")
        ]
        rclpy.init(args=["--ros-args", *given], domain_id=ros_domain)
        nodes: list[Node] = []
        try:
            nodes.extend(make() for make in NODES)
            observer = Node("operator")
            nodes.append(observer)
            for topic, kind in (KINDS | OTHER_KINDS).items():
                observer.create_subscription(kind, topic, lambda message: None, 1)
            executor = SingleThreadedExecutor()
            for node in nodes:
                executor.add_node(node)
            image = "/left/image_rect/compressed" if simulated else "/left/image_rect"
            wanted = {
                ("stereo_depth_node", "subscribe", image),
                ("stereo_depth_node", "publish", "/temporal_flow/image_color"),
                ("data_logger_node", "subscribe", "/mono_depth/image_rect"),
                ("data_logger_node", "subscribe", "/mask/labels"),
            }

            def found() -> set[Rule]:
                return {rule for node in nodes[:-1] for rule in created(observer, node.get_name())}

            wait_until(
                lambda: wanted <= found(),
                step=lambda: executor.spin_once(timeout_sec=0.05),
                describe=lambda: f"missing {wanted - found()}",
            )
            return found()
        finally:
            for node in nodes:
                node.destroy_node()
            rclpy.shutdown()

    return run


@pytest.mark.parametrize("simulated", [False, True])
def test_the_policy_allows_what_the_nodes_create_and_nothing_else(
    running: Callable[[bool], set[Rule]], simulated: bool
) -> None:
    allowed = {rule for rule in rules() if rule[0] in NAMES}
    found = running(simulated)
    assert found - allowed == set()
    # Not in this run: other transports, other truth, a snapshot; Humble has no get_type_description.
    images = {("stereo_depth_node", side) for side in INPUTS} | {("data_logger_node", side) for side in INPUTS}
    ends = ("depth/compressedDepth", "disparity")
    other_truth = {("replay_evaluator_node", "subscribe", f"/ground_truth/{end}") for end in ends}
    video = {
        (node, "subscribe", f"/{side}/image_rect/{transport}")
        for node in ("stereo_depth_node", "data_logger_node", "replay_evaluator_node")
        for side in ("left", "right")
        for transport in ("ffmpeg", "foxglove")
    }
    frames = {("stereo_depth_node", "subscribe", topic) for topic in ("/tf", "/tf_static")}  # needs tf2_msgs
    if simulated:
        other = {(node, "subscribe", f"/{name}") for node, name in images if name.endswith("image_rect")}
        other |= {("replay_evaluator_node", "subscribe", "/ground_truth/depth")}
        other |= {("replay_evaluator_node", "subscribe", f"/{side}/image_rect") for side in ("left", "right")}
        other |= {("stereo_player_node", "publish", "/ground_truth/depth")} - found
    else:
        other = {(node, "subscribe", f"/{name}/compressed") for node, name in images if name.endswith("image_rect")}
        other |= {rule for rule in allowed if rule[2] == "/clock"}
        for end in ("", "/compressed"):
            other |= {("replay_evaluator_node", "subscribe", f"/{side}/image_rect{end}") for side in ("left", "right")}
        other |= {("stereo_depth_node", "publish", f"/{topic}") for topic in COMPRESSED_TOPICS.values()}
    parts = {
        ("replay_evaluator_node", "subscribe", f"/{name}") for name in ("mask/labels", "points2", "left/image_rect")
    }
    missing = {rule for rule in allowed - found - parts if not rule[2].endswith("/get_type_description")}
    assert missing == (other | other_truth | video | frames) - parts


def test_only_the_operator_sets_parameters_and_calls_services() -> None:
    found = rules()
    assert {node for node, kind, _ in found if kind == "request"} == {"operator"}
    offered = {name for node, kind, name in found if kind == "reply" and node in NAMES}
    assert {name for _, kind, name in found if kind == "request"} <= offered
    assert ("operator", "request", "/stereo_depth_node/set_parameters") in found


def test_promote_may_set_the_weights_of_the_node(ros_domain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_weights._Client, "find", lambda self: None)
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    try:
        with node_weights._client("/stereo_depth_node", context) as client:
            own = client._own
            wait_until(lambda: created(own, own.get_name()) >= {
                (own.get_name(), "request", "/stereo_depth_node/set_parameters_atomically"),
                (own.get_name(), "subscribe", "/diagnostics"),
            })  # fmt: skip
            found = {rule[1:] for rule in created(own, own.get_name())}
    finally:
        rclpy.shutdown(context=context)
    assert found <= {rule[1:] for rule in rules() if rule[0] in ("operator", "fg_depth_weights")}
