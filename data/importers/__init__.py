"""Imports data sets from other formats."""
