"""Reads runs and their artifacts from ML Metadata, and shows them as text, JSON, DOT, Mermaid and an HTML page."""
