"""stereo_depth_node as a process of its own, over Fast DDS with the package's profile."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from support.nodes import QUICK, User, pair_messages, share_near, wall
from support.waiting import LIMIT, response_to

from fg_depth_ros.apps.processes import Child, ProcessGroup
from fg_depth_ros.data.io import messages
from fg_depth_ros.nodes.common.environment import child_environment
from fg_depth_ros.nodes.common.shared_memory import SHARED_MEMORY

MODULE = "fg_depth_ros.nodes.stereo_depth.node"


@pytest.fixture
def user(ros_domain: int) -> Iterator[User]:
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    made = User(context)
    yield made
    made.close()
    rclpy.shutdown(context=context)


@pytest.fixture
def group(ros_domain: int, tmp_path: Path) -> Iterator[ProcessGroup]:
    with ProcessGroup(tmp_path / "logs", child_environment(domain_id=ros_domain)) as made:
        yield made


def start(group: ProcessGroup, ros_args: tuple[str, ...] = (), **values: Any) -> Child:
    return group.start("stereo_depth_node", MODULE, {**QUICK, **values}, ros_args=ros_args)


def test_every_large_pair_is_answered_and_accounted_for(user: User, group: ProcessGroup) -> None:
    scene = wall(disparity=24, width=1280, height=720)  # 2.8 MB an image
    pair = pair_messages(scene)
    child = start(group, inference_scale=0.25)
    user.listen("depth/image_rect")
    user.wait(user.heard)
    user.send_until(pair, lambda: user.seen["depth/image_rect"], period=0.3)
    seen = len(user.statuses)
    user.wait(lambda: len(user.statuses) >= seen + 2 and user.accounted())  # the warming-up pairs are counted
    first = user.values()
    user.seen["depth/image_rect"].clear()
    sent, got = [], []
    for _ in range(20):  # each as soon as the one before is answered: none is lost on the way in or out
        sent.append(user.send(pair))
        user.wait(lambda: len(user.seen["depth/image_rect"]) == len(sent))
        got.append(messages.stamp_ns(user.seen["depth/image_rect"][-1].header))
    user.wait(lambda: int(user.values()["pairs matched"]) >= int(first["pairs matched"]) + 20 and user.accounted())
    last = user.values()

    def grown(key: str) -> int:
        return int(last.get(key, 0)) - int(first.get(key, 0))

    assert (grown("pairs matched"), grown("pairs published"), grown("pairs dropped")) == (20, 20, 0)
    assert got == sent
    depth = messages.depth_to_array(user.seen["depth/image_rect"][-1])
    assert np.nanmedian(depth) == pytest.approx(scene.depth, rel=0.03)
    assert child.running


def test_it_ends_cleanly_and_leaves_nothing_behind(user: User, group: ProcessGroup) -> None:
    child = start(group)
    user.listen("depth/image_rect")
    user.fresh_depth(pair_messages(wall()))
    child.note_segments()
    sizes = [path.stat().st_size for name in child.segments if (path := SHARED_MEMORY / name).exists()]
    assert max(sizes) > 16_000_000  # the profile's segment, not the half megabyte of the defaults
    child.signal(signal.SIGINT)
    user.wait(lambda: not child.running)
    assert child.returncode == 0, child.last_lines()
    child.drain()
    assert "Traceback" not in child.log_path.read_text()
    group.stop()
    ours = Path("/proc/self/maps").read_text()  # this process goes on talking
    left = [path for name in child.segments if name not in ours and (path := SHARED_MEMORY / name).exists()]
    assert [path for path in left if path.stat().st_size > 1_000_000] == []


def test_it_ends_cleanly_while_an_engine_is_being_compiled(user: User, ros_domain: int, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the engine that compiles")
    environment = {**child_environment(domain_id=ros_domain), "FG_DEPTH_CACHE": str(tmp_path / "nothing yet")}
    with ProcessGroup(tmp_path / "logs", environment) as group:
        child = start(group, model="flownet_stereo", engine="openvino")
        user.listen("depth/image_rect")
        pair = pair_messages(wall(width=640, height=480))
        user.send_until(pair, lambda: "compiling" in user.values("model").get("engine", ""))
        child.signal(signal.SIGINT)
        user.wait(lambda: not child.running)
        assert child.returncode == 0, child.last_lines()


def test_remapping_namespace_and_parameter_file(user: User, group: ProcessGroup, tmp_path: Path) -> None:
    scene = wall()
    path = tmp_path / "mine.yaml"
    values = {"max_depth": 2.0, "depth_encoding": "16UC1"}
    path.write_text(yaml.safe_dump({"/**/stereo_depth_node": {"ros__parameters": values}}))
    remaps = [f"{side}/{name}:=/{side}/{name}" for side in ("left", "right") for name in ("image_rect", "camera_info")]
    words = ["-r", "__ns:=/robot", "--params-file", str(path)]
    words += [word for remap in remaps for word in ("-r", remap)]
    start(group, (*words, "-r", "depth/image_rect:=/depth/image_rect"))
    user.listen("depth/image_rect")
    depth = user.fresh_depth(pair_messages(scene))
    assert user.seen["depth/image_rect"][-1].encoding == "16UC1"
    assert not np.isfinite(depth).any()  # the wall at 3 m is beyond max_depth
    user.wait(user.status)
    assert user.status().name == "robot/stereo_depth_node: pairs"


def test_corrupt_weights_fail_configure_and_the_process_stays(user: User, group: ProcessGroup, tmp_path: Path) -> None:
    weights = tmp_path / "corrupt.safetensors"
    weights.write_bytes(b"\0" * 64)
    child = start(group, model="flownet_stereo", depth_weights=str(weights))
    user.wait(lambda: user.level() == 2)
    assert "not configured" in user.status().message
    assert str(weights) in user.status().message
    change = user.node.create_client(SetParameters, "/stereo_depth_node/set_parameters")
    assert change.wait_for_service(LIMIT)
    request = SetParameters.Request()
    request.parameters = [Parameter("model", value="sgbm").to_parameter_msg()]
    assert response_to(change, request).results[0].successful
    scene = wall()
    user.listen("depth/image_rect")
    assert share_near(user.fresh_depth(pair_messages(scene)), scene.depth) > 0.97
    assert child.running


def test_a_source_that_restarts_its_clock_keeps_producing(user: User, group: ProcessGroup) -> None:
    pair = pair_messages(wall())
    start(group)
    user.listen("depth/image_rect")
    user.fresh_depth(pair)
    for _ in range(3):
        for frame in range(4):
            stamp = 500.0 + 0.1 * frame
            user.seen["depth/image_rect"].clear()
            sent = user.send(pair, stamp)
            user.wait(lambda sent=sent: user.answered(sent))
