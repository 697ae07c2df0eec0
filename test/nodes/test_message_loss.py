"""Messages that never came are counted by what the publishers number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import rclpy.subscription

from fg_depth_ros.nodes.common.message_loss import MessageLoss, with_info


def info(number: int | None, publisher: bytes = b"one") -> dict[str, Any]:
    return {"publication_sequence_number": number, "publisher_gid": {"data": publisher}}


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ([1, 2, 3], 0),
        ([7, 8], 0),  # what was before nobody knows
        ([1, 2, 6, 8], 4),
        ([1, 4, 2, 5], 1),  # the late one is not lost, 3 is
        ([5, 5], 0),
    ],
)
def test_gaps_are_counted(numbers: list[int], lost: int) -> None:
    loss = MessageLoss()
    for number in numbers:
        loss.on_received(info(number))
    assert loss.lost == lost


def test_every_publisher_counts_for_itself() -> None:
    loss = MessageLoss()
    for number, publisher in ((1, b"a"), (100, b"b"), (3, b"a"), (101, b"b"), (1, b"started again"), (4, b"a")):
        loss.on_received(info(number, publisher))
    assert loss.lost == 1


def test_what_was_sent_while_a_topic_is_subscribed_to_again_is_not_lost() -> None:
    loss = MessageLoss()
    for number in (1, 3):
        loss.on_received(info(number))
    loss.begin_again()
    assert loss.lost == 1
    for number in (2, 4):  # the first one had been kept for late subscribers
        loss.on_received(info(number))
    assert loss.lost == 2
    loss.begin_again()
    for number in (9, 10):
        loss.on_received(info(number))
    assert loss.lost == 2


def test_without_numbers_the_middleware_is_believed_and_with_them_not_counted_twice() -> None:
    silent, numbered = MessageLoss(), MessageLoss()
    for loss in (silent, numbered):
        loss.on_lost(SimpleNamespace(total_count_change=3))
    for unknown in (info(None), {}, {"publication_sequence_number": 1}, {"publication_sequence_number": 9}):
        silent.on_received(unknown)  # the last two might be of two publishers: so it is before Kilted
    numbered.on_received(info(1))
    numbered.on_received(info(3))
    assert (silent.lost, numbered.lost) == (3, 1)


def test_the_bytes_are_handed_on() -> None:
    loss, came = MessageLoss(), []
    callback = loss.counting(came.append)
    callback(b"x", info(1))
    callback(b"y", info(5))
    assert (came, loss.lost) == ([b"x", b"y"], 3)


def test_rclpy_gives_the_info_to_what_takes_it_since_iron_and_to_nothing_on_humble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came: list[Any] = []
    with monkeypatch.context() as iron:
        iron.delattr(rclpy.subscription, "MessageInfo")
        with_info(lambda *both: came.append(both))("x", info(1))
    monkeypatch.delattr(rclpy.subscription.Subscription, "CallbackType")
    with_info(lambda *both: came.append(both))("y")
    assert came == [("x", info(1)), ("y", {})]
