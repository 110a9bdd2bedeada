"""How LaTeX is drawn."""
