"""Losses, feeds and loops that train the networks (needs the extra `train`)."""
