"""Renders LaTeX formulas to images, with TeX or with a built-in typesetter."""
