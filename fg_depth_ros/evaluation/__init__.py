"""Metrics, evaluation of data sets and of recordings, reports and pictures."""
