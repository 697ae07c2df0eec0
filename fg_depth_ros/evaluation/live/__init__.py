"""The account of a running node: pairs that were sent and answered, its counters, and the report of both."""
