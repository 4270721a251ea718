"""Images: sources, splits, binarisation."""
