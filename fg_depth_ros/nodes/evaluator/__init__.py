"""Run replay_evaluator_node: measure a running depth node."""
