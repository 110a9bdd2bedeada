"""A data set: its records, its files, and its checks."""
