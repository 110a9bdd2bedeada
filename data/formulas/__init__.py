"""Reads, mines and recombines lists of formulas."""
