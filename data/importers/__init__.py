"""The formats that data sets are imported from."""
