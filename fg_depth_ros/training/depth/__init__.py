"""Distil a depth network for one camera from stereo pairs."""
