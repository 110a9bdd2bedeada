"""Where examples come from: records of formula images and their LaTeX, drawn or imported."""
