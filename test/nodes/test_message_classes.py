"""Classes of messages by the names of types in the graph of ROS."""

from __future__ import annotations

from pathlib import Path

import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from fg_depth_ros.nodes.common.message_classes import message_class


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sensor_msgs/msg/Image", Image),
        ("std_srvs/srv/Trigger_Event", Trigger.Event),
        ("std_srvs/srv/Trigger_Request", Trigger.Request),
    ],
)
def test_messages_and_the_parts_of_services_are_found(name: str, kind: type) -> None:
    assert message_class(name) is kind


def test_the_parts_of_actions_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As rosidl generates them: a module for each action, and the action alone in that of the package."""
    folder = tmp_path / "made_up_msgs" / "action"
    folder.mkdir(parents=True)
    (folder / "_drive.py").write_text("class Drive: ...\nclass Drive_FeedbackMessage: ...\nclass Drive_Goal: ...\n")
    (folder / "__init__.py").write_text("from made_up_msgs.action._drive import Drive\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert message_class("made_up_msgs/action/Drive_FeedbackMessage").__name__ == "Drive_FeedbackMessage"


@pytest.mark.parametrize(
    "name", ["no_such_msgs/action/Spin_FeedbackMessage", "no_such_msgs/srv/Ask_Event", "no_such_msgs/msg/Word"]
)
def test_the_package_to_install_is_named(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"install or source no_such_msgs \(apt install ros-\$ROS_DISTRO-no-such-msgs\)"
    ):
        message_class(name)


@pytest.mark.parametrize(
    "name", ["", "word", "/msg/Word", "std_msgs/msg/", "std_msgs/msg/NoSuch", "std_srvs/srv/Trigger_X"]
)
def test_a_name_of_no_type_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        message_class(name)
