"""Figures from arrays: axes in, axes out; the style and the SVG that pages embed."""
