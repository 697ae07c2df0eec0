"""Share what several nodes need: QoS, parameters, diagnostics, messages, synchronising, environment."""
