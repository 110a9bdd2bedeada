"""Draws images of formulas in many looks, and degrades them."""
