"""Everything is said in pyproject.toml; this file serves tools that still look for it, Beam's --setup_file among them."""

from setuptools import setup

setup()
