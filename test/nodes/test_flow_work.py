"""Flow between moments and the watch over the rows: units with a stand-in, and the node with a real method."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.nodes import Bench, pair_messages, wall
from support.waiting import wait_until

from fg_depth_ros.data.io import messages
from fg_depth_ros.networks import ModelCard, create_model, save_checkpoint
from fg_depth_ros.nodes.common.codes import FaultCode
from fg_depth_ros.nodes.common.topics import INPUTS
from fg_depth_ros.nodes.stereo_depth.pair_checks import VerticalFlowCheck
from fg_depth_ros.nodes.stereo_depth.temporal_flow import TemporalFlow

SECOND = 1_000_000_000


class Answers:
    """Stands for a FlowEstimator: the flow it is given, and the images it was asked about."""

    def __init__(self, *flows: np.ndarray) -> None:
        self.flows, self.asked = list(flows), []

    def estimate(self, first: np.ndarray, second: np.ndarray) -> Any:
        self.asked.append((first, second))
        return SimpleNamespace(flow=self.flows.pop(0) if len(self.flows) > 1 else self.flows[0])


def flow(v: float, tilt: float = 0.0, width: int = 300, u: float = -12.0) -> np.ndarray:
    columns = (np.arange(width) - (width - 1) / 2) / width
    field = np.full((60, width, 2), u, np.float32)
    field[..., 1] = v + tilt * columns
    return field


def grey(value: int, width: int = 300) -> np.ndarray:
    return np.full((60, width), value, np.uint8)


def test_flow_goes_from_the_image_before_to_the_newest():
    estimator, temporal = Answers(flow(1.0)), TemporalFlow()
    assert temporal.update(0, grey(1), estimator) is None
    assert temporal.update(SECOND // 10, grey(2), estimator) is not None
    first, second = estimator.asked[0]
    assert (first[0, 0], second[0, 0]) == (1, 2)


@pytest.mark.parametrize(
    ("stamp", "width"), [(3 * SECOND, 300), (SECOND, 300), (SECOND // 2, 300), (SECOND + SECOND // 10, 200)]
)
def test_a_gap_a_jump_back_and_another_size_begin_anew(stamp: int, width: int):
    estimator, temporal = Answers(flow(1.0)), TemporalFlow()
    temporal.update(SECOND, grey(1), estimator)
    assert temporal.update(stamp, grey(2, width), estimator) is None
    assert temporal.update(stamp + SECOND // 10, grey(3, width), estimator) is not None
    assert estimator.asked[0][0][0, 0] == 2


def test_after_nobody_listened_the_next_image_is_a_first_one():
    temporal = TemporalFlow()
    temporal.update(0, grey(1), Answers(flow(0.0)))
    temporal.reset()
    assert temporal.update(1000, grey(2), Answers(flow(0.0))) is None


def test_images_too_far_apart_in_a_row_are_a_problem_until_one_comes_in_time():
    estimator, temporal = Answers(flow(1.0)), TemporalFlow()
    stamps = [SECOND * 5 // 4 * k for k in range(4)]
    for stamp in stamps:
        assert temporal.problem is None
        assert temporal.update(stamp, grey(1), estimator) is None
    assert "more than 1 s apart (the last two 1.25 s)" in temporal.problem
    temporal.update(stamps[-1] + SECOND // 10, grey(1), estimator)
    assert temporal.problem is None
    temporal.update(stamps[-1] + 9 * SECOND, grey(1), estimator)
    temporal.reset()
    assert temporal.problem is None


TOPICS = {name: f"/stereo/{name}" for name in INPUTS}


def monitor(*flows: np.ndarray, doffs: float = 0.0) -> VerticalFlowCheck:
    rows, scene = VerticalFlowCheck(TOPICS), wall(doffs=doffs)
    estimator = Answers(*flows)
    for _ in flows:
        rows.measure(scene.left, scene.right, scene.rig.doffs, estimator, 10.0)
    return rows


def test_rows_that_agree_are_no_problem():
    rows = monitor(flow(0.3, 0.5))
    assert rows.problem(1.0, 2.0) is None
    assert rows.values() == {"vertical flow median (px)": "+0.30", "vertical flow tilt (px)": "+0.50"}


@pytest.mark.parametrize(("found", "words"), [(flow(1.6), "+1.6 px lower"), (flow(0.0, -3.0), "-3.0 px more")])
def test_cameras_that_moved_are_named_with_the_measure(found: np.ndarray, words: str):
    problem = monitor(found).problem(1.0, 2.0)
    assert words in problem
    assert "/stereo/right/image_rect" in problem
    assert "calibrate" in problem


def test_one_bad_measurement_among_five_raises_no_alarm():
    good = [flow(0.1)] * 4
    assert monitor(*good[:2], flow(20.0), *good[2:]).problem(1.0, 2.0) is None


def test_after_another_calibration_nothing_is_left_of_the_measurements_before():
    rows = monitor(flow(20.0))
    rows.reset()
    assert rows.problem(1.0, 2.0) is None
    assert rows.due(10.0)


def test_what_moves_to_the_right_is_a_wrong_match_and_does_not_count():
    assert monitor(flow(5.0, u=8.0)).median is None
    assert monitor(flow(0.2, u=8.0), doffs=20.0).median.median == pytest.approx(0.2)  # infinity lies at +20


def test_a_look_is_due_after_the_period_and_never_with_zero():
    rows = VerticalFlowCheck(TOPICS)
    assert rows.due(10.0)
    assert not rows.due(0.0)
    scene = wall()
    rows.measure(scene.left, scene.right, scene.rig.doffs, Answers(flow(0.0)), 1000.0)
    assert not rows.due(1000.0)


# ---- the node ----------------------------------------------------------------------------------------------------


def test_the_node_publishes_the_flow_between_frames(make: Callable[..., Bench]) -> None:
    scene = wall()
    moved = wall()
    shift = np.float32([[1, 0, 4], [0, 1, 3]])  # the picture moves 4 px to the right and 3 px down
    moved = type(scene)(
        *(cv2.warpAffine(i, shift, (320, 240), borderMode=cv2.BORDER_REPLICATE) for i in (scene.left, scene.right)),
        scene.rig,
        scene.disparity,
    )
    b = make(flow_model="dis")
    b.listen("temporal_flow/image", "temporal_flow/image_color")
    pairs = [pair_messages(scene), pair_messages(moved)]
    b.wait(b.heard)
    turns = itertools.cycle(pairs)

    def found() -> list[np.ndarray]:
        """There, and back; a pair that was replaced on a busy machine makes a flow of zero."""
        speeds = []
        for message in list(b.seen["temporal_flow/image"]):
            assert (message.encoding, message.height, message.width) == ("32FC2", 240, 320)
            field = np.frombuffer(message.data, np.float32).reshape(240, 320, 2)
            speeds.append(np.median(field[40:-40, 40:-40].reshape(-1, 2), axis=0))
        directions = [np.array([s for s in speeds if sign * s[0] > 2]) for sign in (1, -1)]
        return directions if all(map(len, directions)) and b.seen["temporal_flow/image_color"] else []

    there, back = wait_until(found, period=0.1, step=lambda: b.send(next(turns)))
    np.testing.assert_allclose(there, np.tile([4.0, 3.0], (len(there), 1)), atol=0.3)
    np.testing.assert_allclose(back, np.tile([-4.0, -3.0], (len(back), 1)), atol=0.3)
    assert b.seen["temporal_flow/image_color"][0].encoding == "rgb8"
    assert messages.stamp_ns(b.seen["temporal_flow/image"][0].header) > 0


def test_a_listener_without_a_flow_model_is_told(make: Callable[..., Bench]) -> None:
    b = make(flow_model="off")
    b.listen("temporal_flow/image")
    b.send_until(pair_messages(wall()), lambda: b.log_has("flow_model is off"))


def test_a_listener_to_the_flow_of_a_slow_camera_is_told(make: Callable[..., Bench]) -> None:
    b, pair = make(flow_model="dis"), pair_messages(wall())
    b.listen("temporal_flow/image")
    b.wait(b.heard)
    stamps = itertools.count(1000.0, 1.25)
    apart = lambda: b.has(FaultCode.FRAMES_APART, "temporal_flow/*", "1.25 s")  # noqa: E731
    wait_until(apart, period=0.1, step=lambda: b.send(pair, next(stamps)))
    assert b.seen["temporal_flow/image"] == []
    b.send_until(pair, lambda: b.seen["temporal_flow/image"] and b.level() == 0)


def test_rows_that_disagree_are_a_warning_with_the_measure(make: Callable[..., Bench]) -> None:
    scene = wall()
    lower = np.roll(scene.right, 2, axis=0)
    shifted = type(scene)(scene.left, lower, scene.rig, scene.disparity)
    b = make(flow_model="dis", rectification_check_period=0.1)
    b.listen("depth/image_rect")
    b.send_until(
        pair_messages(shifted),
        lambda: "vertical flow median (px)" in b.values() and "rows misaligned" in b.values()["faults"].split(", "),
    )
    assert float(b.values()["vertical flow median (px)"]) == pytest.approx(2.0, abs=0.2)
    b.set(rectification_check_period=0.0)
    b.send_until(pair_messages(shifted), lambda: b.depth_node.faults["rows"] is None)


def test_flow_weights_that_do_not_exist_are_refused_and_the_node_goes_on(make: Callable[..., Bench]) -> None:
    b = make(flow_model="dis")
    (result,) = b.set(flow_model="flownet_lite", flow_weights="/nowhere/flow.safetensors")
    assert not result.successful
    assert "flow_weights = '/nowhere/flow.safetensors'" in result.reason
    b.listen("depth/image_rect")
    b.send_until(pair_messages(wall()), lambda: bool(b.seen["depth/image_rect"]))


def test_a_first_flow_model_that_cannot_be_loaded_is_named(make: Callable[..., Bench], tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"this is no checkpoint")
    b = make(flow_model="off")
    b.listen("temporal_flow/image")
    (result,) = b.set(flow_model="flownet_lite", flow_weights=str(corrupt))
    assert result.successful  # the file is there; what is in it turns out later
    b.wait(lambda: b.level("model") == 1)
    assert b.has(FaultCode.MODEL_NOT_LOADED, "flownet_lite", str(corrupt), name="model")
    assert b.values("model")["flow swap"] == "failed"
    b.send_until(pair_messages(wall()), lambda: b.has(FaultCode.NO_FLOW_MODEL, str(corrupt)))
    parameters = b.depth_node.parameters
    assert (parameters["flow_model"], parameters["flow_weights"]) == ("off", "")  # names nothing that does not run


def test_no_value_of_a_weights_parameter_ends_the_node_and_the_one_in_use_comes_back(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    used, corrupt = tmp_path / "used.safetensors", tmp_path / "corrupt.safetensors"
    network = create_model("flownet_stereo", max_disparity=64)
    save_checkpoint(used, network, ModelCard("flownet_stereo", network.options))
    corrupt.write_bytes(b"this is no checkpoint")
    b = make(model="flownet_stereo", depth_weights=str(used))
    for value in ("x" * 256, "/" + "y" * 5000, str(tmp_path)):
        (result,) = b.set(depth_weights=value)
        assert not result.successful and "there is no such file" in result.reason
    used.unlink()  # it still runs
    (result,) = b.set(depth_weights=str(corrupt))
    assert result.successful
    b.wait(lambda: b.has(FaultCode.SWAP_FAILED, str(corrupt), name="model"))
    assert b.depth_node.parameters["depth_weights"] == str(used)
