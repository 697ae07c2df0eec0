"""The logger's parameters: lists of names, and what the recorder makes of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from fg_depth_ros.nodes.common.parameters import NO_NAMES, DeclaredParameters, Parameter, ParameterTable
from fg_depth_ros.nodes.data_logger.parameters import DATA_LOGGER, recorder_config, small_quota

TABLE = ParameterTable("some_node", "", (Parameter("names", NO_NAMES, "Names."),))


@pytest.fixture
def context(ros_domain: int) -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    yield context
    rclpy.shutdown(context=context)


def declared(context: Context, text: str, path: Path) -> DeclaredParameters:
    """The table on a node that was started with this value in its parameter file."""
    path.write_text(f"/**:\n  ros__parameters:\n    names: {text}\n")
    node = Node("some_node", context=context, cli_args=["--ros-args", "--params-file", str(path)])
    try:
        return TABLE.declare(node)
    finally:
        node.destroy_node()


@pytest.mark.parametrize("text", ["7", "word", "[1, 2]", "true"])
def test_what_is_no_list_of_words_is_refused_and_named(context: Context, tmp_path: Path, text: str) -> None:
    found = declared(context, text, tmp_path / "given.yaml")
    assert found["names"] == NO_NAMES
    assert len(found.problems) == 1
    assert "parameter names = " in found.problems[0]
    assert 'give a string array, for example [""]' in found.problems[0]


@pytest.mark.parametrize(
    ("text", "names"), [("[]", NO_NAMES), ("['']", NO_NAMES), ("['/tf']", ("/tf",)), ("[b, 'a']", ("b", "a"))]
)
def test_a_list_of_words_is_taken_in_its_order(
    context: Context, tmp_path: Path, text: str, names: tuple[str, ...]
) -> None:
    found = declared(context, text, tmp_path / "given.yaml")
    assert (found["names"], found.problems) == (names, [])


def test_a_list_can_be_set_while_the_node_runs(context: Context) -> None:
    node = Node("some_node", context=context)
    found = TABLE.declare(node)
    assert node.set_parameters_atomically([RosParameter("names", value=["x", "y"])]).successful
    assert found["names"] == ("x", "y")
    assert not node.set_parameters_atomically([RosParameter("names", value=3)]).successful
    assert found["names"] == ("x", "y")
    node.destroy_node()


def test_a_default_that_is_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="its own default is refused"):
        Parameter("names", (), "Names.")


def test_the_parameter_file_holds_every_default(repository: Path) -> None:
    content = yaml.safe_load((repository / "config" / "data_logger.yaml").read_text(encoding="utf-8"))
    found = content["/**"]["ros__parameters"]
    assert found == {**DATA_LOGGER.defaults(), "topics": [""]}


def test_sizes_become_bytes_and_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/robot")
    values = {**DATA_LOGGER.defaults(), "quota": 1.5, "free_floor": 0.25, "ring_size": 3, "queue_size": 2}
    config = recorder_config(values)
    assert config.root == Path("/home/robot/fg_depth_recordings")
    assert (config.quota_bytes, config.free_floor_bytes) == (1_610_612_736, 268_435_456)
    assert (config.ring_bytes, config.queue_bytes, config.max_episode_bytes) == (3 << 20, 2 << 20, 4096 << 20)
    assert (config.before, config.after, config.max_episode_seconds, config.sync_seconds) == (5.0, 5.0, 300.0, 1.0)
    assert (config.storage, config.jpeg_quality) == ("raw", 95)


def test_a_quota_of_less_than_two_episodes_is_named_with_what_happens() -> None:
    defaults = DATA_LOGGER.defaults()
    assert small_quota(recorder_config(defaults)) is None  # no quota
    assert small_quota(recorder_config({**defaults, "quota": 8.0})) is None
    text = small_quota(recorder_config({**defaults, "quota": 5.0}))
    assert text is not None
    assert text.startswith("quota is 5 GiB and max_episode_size 4096 MiB: ")
    assert "a new episode at 2560 MiB" in text
