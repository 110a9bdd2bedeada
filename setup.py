"""Everything is said in pyproject.toml; this file serves tools that still look for it, such as Beam's --setup_file."""

from setuptools import setup

setup()
