"""Replay recordings through the estimators and compare weights."""
