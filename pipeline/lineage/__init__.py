"""What ML Metadata knows of runs and of what they made, as text, JSON, DOT, Mermaid and a page."""
