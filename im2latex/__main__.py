"""`python -m im2latex` is the command."""

from im2latex.cli import main

main()
