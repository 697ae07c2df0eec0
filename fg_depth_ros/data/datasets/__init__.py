"""Read public and own data sets with ground truth."""
