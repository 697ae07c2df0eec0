"""Sample types, file formats and calibration, readers of data sets, pairs from bags."""
