"""Render a virtual world of streets and rooms with exact depth, disparity, motion and poses."""
