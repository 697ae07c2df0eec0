"""Account for the pairs of a running node: sent, delivered, dropped; its counters; the report of both."""
