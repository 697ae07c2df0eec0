"""File formats, calibrations, data sets and synthetic scenes."""
