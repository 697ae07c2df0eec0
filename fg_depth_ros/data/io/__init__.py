"""Read and write file formats, calibrations and encodings."""
