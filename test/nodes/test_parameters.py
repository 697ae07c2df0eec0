"""One table behind parameters, reference page and parameter file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.parameter import parameter_dict_from_yaml_file

from fg_depth_ros.inference import BlockMatching, MonoConfig, StereoConfig
from fg_depth_ros.inference.config import ENGINES, PRECISIONS
from fg_depth_ros.nodes import parameter_files
from fg_depth_ros.nodes.common.parameters import Alias, Parameter, ParameterTable
from fg_depth_ros.nodes.stereo_depth.parameters import STEREO_DEPTH

TABLE = ParameterTable(
    "some_node",
    "For tests.",
    (
        Parameter("speed", 1.5, "How fast.", "m/s", 0.0, 10.0),
        Parameter("count", 3, "How many.", minimum=1, maximum=5),
        Parameter("mode", "slow", "How.", choices=("slow", "fast"), elsewhere={"odd": "is for another thing"}),
        Parameter("name", "", "Anything."),
        Parameter("fixed", False, "Once.", run_time=False),
    ),
    renamed={"velocity": "speed"},
    aliases=(Alias("pace", "mode", {0: "slow", 1: "fast"}), Alias("limit_mps", "speed", {0.0: None}, "0 is no limit")),
    ignored={"colour": "nothing here has one"},
)


@pytest.fixture
def context(ros_domain: int) -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    yield context
    rclpy.shutdown(context=context)


def make_node(context: Context, **overrides: Any) -> Node:
    given = [RosParameter(name, value=value) for name, value in overrides.items()]
    return Node("some_node", context=context, parameter_overrides=given)


# ---- the files made from the tables ---------------------------------------------------------------------------


def test_the_reference_page_is_up_to_date(repository: Path) -> None:
    page = (repository / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert page == parameter_files.reference_page(), "run python -m fg_depth_ros.nodes.parameter_files"


def test_the_table_knows_the_models_of_the_estimators() -> None:
    """The table names them itself, so that it can be read without PyTorch."""
    choices = {parameter.name: set(parameter.choices) for parameter in STEREO_DEPTH.parameters.values()}
    assert choices["model"] == set(StereoConfig.known_models())
    assert choices["mono_model"] == {"auto", "off", *MonoConfig.known_models()}
    assert choices["engine"] == set(ENGINES) and choices["precision"] == set(PRECISIONS)


@pytest.mark.parametrize("field", dataclasses.fields(BlockMatching), ids=lambda field: field.name)
def test_the_table_has_defaults_and_ranges_of_the_block_matchers(field: dataclasses.Field[Any]) -> None:
    parameter = STEREO_DEPTH.parameters[field.name]
    assert parameter.default == field.default
    assert parameter.minimum is not None and parameter.maximum is not None
    for value in (parameter.minimum, parameter.maximum):
        BlockMatching(**{field.name: value})
    for value in (parameter.minimum - 2, parameter.maximum + 2):
        with pytest.raises(ValueError, match=field.name):
            BlockMatching(**{field.name: value})


@pytest.mark.parametrize("field", dataclasses.fields(StereoConfig), ids=lambda field: field.name)
def test_the_table_has_the_defaults_of_the_stereo_estimator(field: dataclasses.Field[Any]) -> None:
    if field.name == "block_matching":
        return
    parameter = STEREO_DEPTH.parameters[{"weights": "depth_weights"}.get(field.name, field.name)]
    assert parameter.default == field.default


def test_the_parameter_files_are_up_to_date(repository: Path) -> None:
    for name, text in parameter_files.parameter_files().items():
        found = (repository / "config" / name).read_text(encoding="utf-8")
        assert found == text, f"config/{name}: run python -m fg_depth_ros.nodes.parameter_files"


def test_the_parameter_file_holds_every_default(repository: Path) -> None:
    content = yaml.safe_load((repository / "config" / "stereo_depth.yaml").read_text(encoding="utf-8"))
    assert content == {"/**": {"ros__parameters": STEREO_DEPTH.defaults()}}


@pytest.mark.parametrize("name", ["/stereo_depth_node", "/robot/front/stereo_depth_node"])
def test_the_parameter_file_is_one_for_ros2_param_load(repository: Path, name: str) -> None:
    # What the command reads the file with; its wildcard is /** alone.
    path = str(repository / "config" / "stereo_depth.yaml")
    found = parameter_dict_from_yaml_file(path, use_wildcard=True, target_nodes=[name])
    values = {each: RosParameter.from_parameter_msg(message).value for each, message in found.items()}
    assert values == STEREO_DEPTH.defaults()


def test_the_page_names_type_default_unit_range_and_change_of_each_parameter() -> None:
    lines = TABLE.markdown().splitlines()
    assert "| `speed` | double | `1.5` | m/s | 0 to 10 | yes | How fast. |" in lines
    assert '| `mode` | string | `"slow"` | - | `slow`, `fast` | yes | How. |' in lines
    assert "| `fixed` | bool | `false` | - | - | no | Once. |" in lines
    assert '| `pace` | `mode` | `0` is `"slow"`, `1` is `"fast"` |' in lines
    assert "| `limit_mps` | `speed` | 0 is no limit |" in lines
    assert "| `colour` | - | not used: nothing here has one |" in lines


def test_generating_writes_the_files(tmp_path: Path) -> None:
    assert parameter_files.main(["--root", str(tmp_path)]) == 0
    assert (tmp_path / "docs" / "parameters.md").read_text() == parameter_files.reference_page()
    assert set(parameter_files.parameter_files()) == {p.name for p in (tmp_path / "config").iterdir()}


# ---- the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("speed", 11.0, r"parameter speed = 11.0 m/s is out of range: choose 0 to 10 m/s"),
        ("speed", float("nan"), "out of range"),
        ("speed", 3, "is a int: give a double, for example 1.5"),
        ("count", 6, "parameter count = 6 is out of range: choose 1 to 5"),
        ("count", True, "is a bool: give a int"),
        ("mode", "medium", "parameter mode = 'medium' is unknown: choose one of slow, fast"),
        ("mode", "slows", "choose one of slow, fast; did you mean slow?"),
        ("mode", "odd", "parameter mode = 'odd' is for another thing, or choose one of slow, fast"),
        ("fixed", "yes", "is a str: give a bool"),
    ],
)
def test_bad_values_are_named_with_the_way_out(name: str, value: Any, text: str) -> None:
    (problem,) = TABLE.problems({name: value})
    assert text in problem


def test_good_values_at_both_ends_pass() -> None:
    assert TABLE.problems({"speed": 0.0, "count": 5, "mode": "fast", "name": "x", "another's": 1}) == []


def test_a_word_or_a_whole_number(context: Context) -> None:
    parameter = Parameter("start", "auto", "Where.", "px", choices=("auto",), minimum=-4, maximum=4)
    assert (parameter.type_name, parameter.allowed) == ("string or int", "`auto`, -4 to 4")
    assert [parameter.problem(value) for value in ("auto", -4, 4)] == [None] * 3
    for wrong in ("far", 5, 1.0, True):
        assert parameter.problem(wrong) is not None
    table = ParameterTable("node", "", (parameter,))
    node = make_node(context, start=-3)
    assert table.declare(node)["start"] == -3
    for value, taken in (("auto", True), (2, True), (7, False), ("far", False), (1.5, False)):
        (result,) = node.set_parameters([RosParameter("start", value=value)])
        assert result.successful == taken
    assert node.get_parameter("start").value == 2
    node.destroy_node()


def test_a_number_or_a_word(context: Context) -> None:
    parameter = Parameter("scale", 1.0, "How large.", choices=("auto",), minimum=0.1, maximum=4.0)
    assert (parameter.type_name, parameter.allowed) == ("double or string", "`auto`, 0.1 to 4")
    table = ParameterTable("node", "", (parameter,))
    node = make_node(context, scale="auto")
    declared = table.declare(node)
    assert declared["scale"] == "auto"
    for value, taken in ((2, 2.0), (0.5, 0.5), ("auto", "auto"), (5.0, None), ("large", None), (True, None)):
        (result,) = node.set_parameters([RosParameter("scale", value=value)])
        assert result.successful == (taken is not None)
        assert taken is None or declared["scale"] == taken
    node.destroy_node()


def test_a_table_refuses_its_own_mistakes() -> None:
    with pytest.raises(ValueError, match="its own default is refused"):
        Parameter("wrong", 5, "", minimum=6, maximum=9)
    with pytest.raises(ValueError, match="give minimum and maximum"):
        Parameter("wrong", 5, "", minimum=6)
    with pytest.raises(ValueError, match="a name twice"):
        ParameterTable("node", "", (Parameter("a", 1, ""), Parameter("a", 2, "")))
    with pytest.raises(ValueError, match="a name twice"):
        ParameterTable("node", "", (Parameter("a", 1, ""),), aliases=(Alias("a", "a"),))
    with pytest.raises(ValueError, match="the aliases b of node stand for no parameter"):
        ParameterTable("node", "", (Parameter("a", 1, ""),), aliases=(Alias("b", "c"),))


# ---- on a node ------------------------------------------------------------------------------------------------


def test_descriptors_carry_the_table(context: Context) -> None:
    node = make_node(context)
    TABLE.declare(node)
    speed: ParameterDescriptor = node.describe_parameter("speed")
    assert (speed.floating_point_range[0].from_value, speed.floating_point_range[0].to_value) == (0.0, 10.0)
    assert "[m/s]" in speed.description
    assert node.describe_parameter("count").integer_range[0].to_value == 5
    assert "slow, fast" in node.describe_parameter("mode").additional_constraints
    assert node.describe_parameter("fixed").read_only
    node.destroy_node()


def test_start_values_are_taken_and_whole_numbers_serve_as_doubles(context: Context) -> None:
    node = make_node(context, speed=4, count=2, fixed=True)
    declared = TABLE.declare(node)
    assert declared.values() == {"speed": 4.0, "count": 2, "mode": "slow", "name": "", "fixed": True}
    assert node.get_parameter("speed").value == 4.0
    assert declared.problems == []
    node.destroy_node()


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Node], list[str]]:
    """Keeps what a node warns of."""

    def keep(node: Node) -> list[str]:
        lines: list[str] = []
        logger = node.get_logger()
        monkeypatch.setattr(logger, "warning", lines.append)
        monkeypatch.setattr(node, "get_logger", lambda: logger)
        return lines

    return keep


def test_names_of_another_package_are_taken_with_their_meaning(
    context: Context, warned: Callable[[Node], list[str]]
) -> None:
    node = make_node(context, pace=1, limit_mps=2)
    lines = warned(node)
    declared = TABLE.declare(node)
    assert (declared["mode"], declared["speed"]) == ("fast", 2.0)
    assert (node.get_parameter("mode").value, node.get_parameter("speed").value) == ("fast", 2.0)
    assert lines == ["parameter pace = 1 is taken as mode = fast", "parameter limit_mps = 2 is taken as speed = 2"]
    for name, value, taken in (
        ("pace", 0, True),
        ("pace", 7, False),
        ("limit_mps", 3.5, True),
        ("limit_mps", 99.0, False),
    ):
        (result,) = node.set_parameters([RosParameter(name, value=value)])
        assert result.successful == taken, result.reason
    assert (declared["mode"], declared["speed"]) == ("slow", 3.5)
    node.destroy_node()


def test_the_own_name_goes_before_that_of_another_package(
    context: Context, warned: Callable[[Node], list[str]]
) -> None:
    node = make_node(context, pace=1, mode="slow", limit_mps=0.0)
    lines = warned(node)
    declared = TABLE.declare(node)
    assert (declared["mode"], declared["speed"]) == ("slow", 1.5)
    assert lines == [
        "parameter pace = 1 is not used: mode = slow is given, too; leave one out",
        "parameter limit_mps = 0.0 is not used, speed keeps its value: 0 is no limit",
    ]
    node.destroy_node()


def test_a_value_that_another_name_leads_to_is_checked_as_any(context: Context) -> None:
    node = make_node(context, pace=2)
    (problem,) = TABLE.declare(node).problems
    assert problem.startswith("parameter mode = 2 is a int: give a string")
    node.destroy_node()


# Parameters of stereo_image_proc's disparity and point cloud nodes, Humble to Rolling, with a value that is no default.
UPSTREAM = {
    "approximate_sync": True, "approximate_sync_tolerance_seconds": 0.02, "queue_size": 7, "stereo_algorithm": 0,
    "sgbm_mode": 3, "prefilter_size": 11, "prefilter_cap": 20, "correlation_window_size": 21, "min_disparity": -2048,
    "disparity_range": 4096, "texture_threshold": 5, "speckle_size": 50, "speckle_range": 31, "disp12_max_diff": 9,
    "uniqueness_ratio": 25.0, "P1": 300.0, "P2": 700.0, "use_color": False, "avoid_point_cloud_padding": False,
    "use_system_default_qos": True, "image_transport": "compressed",
}  # fmt: skip
RENAMED = {"approximate_sync_tolerance_seconds": "sync_slop", "queue_size": "sync_queue_size"}
RENAMED |= {"disparity_range": "max_disparity"}


def test_every_parameter_of_stereo_image_proc_is_taken(context: Context, warned: Callable[[Node], list[str]]) -> None:
    node = make_node(context, **UPSTREAM)
    lines = warned(node)
    declared = STEREO_DEPTH.declare(node)
    assert declared.problems == []
    assert len(lines) == len(RENAMED) + 2
    assert not [line for line in lines if "unknown" in line]
    (size,) = [line for line in lines if "prefilter_size" in line]
    assert "is not used: the filter of OpenCV's block matching" in size
    assert declared["model"] == "bm"
    for name, value in UPSTREAM.items():
        if name not in ("stereo_algorithm", "prefilter_size"):
            assert declared[RENAMED.get(name, name)] == value, name
    node.destroy_node()
    humble = make_node(context, full_dp=True, stereo_algorithm=1, approximate_sync_tolerance_seconds=0.0)
    declared = STEREO_DEPTH.declare(humble)
    assert (declared["sgbm_mode"], declared["model"], declared["sync_slop"]) == (1, "sgbm", 0.01)
    humble.destroy_node()


def test_unknown_start_values_are_named_with_the_nearest_or_the_new_name(
    context: Context, warned: Callable[[Node], list[str]]
) -> None:
    node = make_node(context, velocity=4.0, sped=1.0, zzz=1, use_sim_time=True, speed=2.0)
    warnings = warned(node)
    assert TABLE.declare(node)["speed"] == 2.0
    assert len(warnings) == 3
    said = {name: next(text for text in warnings if f" {name} " in text) for name in ("velocity", "sped", "zzz")}
    assert "speed" in said["velocity"]
    assert "speed" in said["sped"]
    assert "parameters.md" in said["zzz"]
    node.destroy_node()


def test_refused_start_values_leave_the_default_and_are_named_until_replaced(context: Context) -> None:
    node = make_node(context, speed=99.0, mode="odd", fixed=7)
    applied: list[set[str]] = []
    declared = TABLE.declare(node, apply=applied.append, reread=True)
    assert (declared["speed"], declared["mode"], declared["fixed"]) == (1.5, "slow", False)
    assert [problem.split(" = ")[0] for problem in declared.problems] == [
        "parameter speed",
        "parameter mode",
        "parameter fixed",
    ]
    for name, value in (("speed", 1.5), ("mode", "fast"), ("fixed", True)):
        (result,) = node.set_parameters([RosParameter(name, value=value)])
        assert result.successful, result.reason
    assert declared.problems == []
    assert applied == [{"speed"}, {"mode"}, {"fixed"}]
    node.destroy_node()


def test_a_refused_start_value_that_is_read_once_stays_refused(context: Context) -> None:
    node = make_node(context, fixed=7)
    declared = TABLE.declare(node)
    (result,) = node.set_parameters([RosParameter("fixed", value=True)])
    assert not result.successful and "read-only" in result.reason
    assert len(declared.problems) == 1
    node.destroy_node()


def test_a_change_is_validated_then_applied(context: Context) -> None:
    node = make_node(context)
    applied: list[tuple[set[str], float]] = []
    declared = TABLE.declare(node, apply=lambda names: applied.append((names, declared["speed"])))
    (result,) = node.set_parameters([RosParameter("speed", value=7)])  # a whole number
    assert result.successful
    assert applied == [({"speed"}, 7.0)]
    (result,) = node.set_parameters([RosParameter("speed", value=7.0)])  # as it is: to try again
    assert result.successful
    assert applied == [({"speed"}, 7.0)] * 2
    node.destroy_node()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("speed", 10.5, "10.5"),
        ("count", 0, "0"),
        ("mode", "odd", "choose one of slow, fast"),
        ("fixed", True, "read-only"),
        ("count", "many", "Wrong parameter type"),
    ],
)
def test_a_refused_change_changes_nothing(context: Context, name: str, value: Any, text: str) -> None:
    node = make_node(context)
    applied: list[set[str]] = []
    declared = TABLE.declare(node, apply=applied.append)
    (result,) = node.set_parameters([RosParameter(name, value=value)])
    assert not result.successful
    assert text in result.reason
    assert declared.values() == TABLE.defaults()
    assert node.get_parameter(name).value == TABLE.defaults()[name]
    assert applied == []
    node.destroy_node()


def test_a_check_sees_all_values_as_they_would_become(context: Context) -> None:
    node = make_node(context)

    def check(values: dict[str, Any]) -> str | None:
        return "too much" if values["speed"] * values["count"] > 20 else None

    declared = TABLE.declare(node, check=check)
    together = [RosParameter("speed", value=8.0), RosParameter("count", value=2)]
    assert node.set_parameters_atomically(together).successful
    result = node.set_parameters_atomically([RosParameter("count", value=5)])
    assert (result.successful, result.reason) == (False, "too much")
    assert (declared["speed"], declared["count"]) == (8.0, 2)
    node.destroy_node()


def test_the_generated_file_is_read_by_a_node_in_a_namespace(context: Context, repository: Path) -> None:
    path = repository / "config" / "stereo_depth.yaml"
    node = Node(
        "stereo_depth_node",
        namespace="/robot/front",
        context=context,
        cli_args=["--ros-args", "--params-file", str(path), "-p", "max_depth:=30.0"],
    )
    declared = STEREO_DEPTH.declare(node)
    assert declared.values() == {**STEREO_DEPTH.defaults(), "max_depth": 30.0}
    node.destroy_node()
