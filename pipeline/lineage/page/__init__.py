"""The lineage as one HTML page."""
