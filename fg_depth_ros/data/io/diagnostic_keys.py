"""Keys on /diagnostics that one program reports and another reads; what is read by people alone is not here.

``nodes.common.codes`` has the values that programs compare.
"""

from __future__ import annotations

STATE = "state"
REASON, FAULTS = "reason", "faults"

RATE = " rate (Hz)"
"""Suffix of a rate, such as that of an input."""
DROPPED = "dropped: "
"""Prefix of the number of pairs that were dropped for a reason."""
WITHOUT_PARTNER = " without partner"
"""Suffix of the number of messages of an input that form no pair."""
LOST_ON_THE_WAY = " lost on the way"
"""Suffix of the number of messages of a topic that never arrived."""

# stereo_depth_node: pairs
PAIRS_MATCHED, PAIRS_PUBLISHED = "pairs matched", "pairs published"
MONO_PUBLISHED = "mono fallback published"
LATENCIES = ("inference", "processing", "pipeline")
"""Latencies of which percentiles are reported, by their names; see ``latency``."""
PERCENTILES = (50, 95, 99)

# stereo_depth_node: model; with the prefix of a network
FLOW_PREFIX, MONO_PREFIX = "flow ", "mono "
MODEL, SHA256, SWAP = "model", "weights sha256", "swap"
ENGINE, PRECISION, DEVICE = "engine", "precision", "device"

# data_logger_node
PAIRS_FORMED, PAIRS_WRITTEN = "pairs formed", "pairs written"
PAIRS_NOT_WANTED, PAIRS_IN_RING, PAIRS_IN_QUEUE = "pairs not wanted", "pairs in ring", "pairs in queue"
QUEUE_MEAN, QUEUE_LARGEST = "pairs in queue, mean", "pairs in queue, largest"
DROPPED_BEFORE_RECORDER = "dropped before the recorder: "
WRITE_RATE = "rate (MB/s)"

# replay_evaluator_node
PAIRS_SENT, PAIRS_DELIVERED, PAIRS_WITHOUT_DEPTH = "pairs sent", "pairs delivered", "pairs without depth"
DELIVERY_RATE, DELIVERY_LATENCY = "delivery rate (Hz)", "latency (ms)"


def latency(name: str, percent: int) -> str:
    """Return the key of a percentile of a latency."""
    return f"{name} {percent} % (ms)"
