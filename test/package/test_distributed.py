"""Work shared by several processes: the environment that names them. Two processes at work: test/cli/test_replay.py."""

from __future__ import annotations

import pytest

from fg_depth_ros.distributed import DistributedError, process_rank, shared_map


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "must be numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 of a WORLD_SIZE of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, "MASTER_ADDR is not set; start with torchrun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT is not set"),
    ],
)
def test_an_incomplete_environment_is_named(monkeypatch, environment, message):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert process_rank() == (0, 1)
    assert shared_map([1, 2, 3], lambda part: [10 * x for x in part]) == [10, 20, 30]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match=message):
        shared_map([1], list)
