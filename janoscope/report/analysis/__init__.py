"""The page of one analysis."""
