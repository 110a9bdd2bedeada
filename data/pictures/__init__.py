"""Pictures of formulas: drawing them in many looks, and degrading them."""
