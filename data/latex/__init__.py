"""LaTeX: its commands, its tokens, and how it is drawn."""
