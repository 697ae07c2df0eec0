"""The subscriber that shows live topics."""
