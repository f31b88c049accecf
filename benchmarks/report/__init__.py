"""A run as tables, plots, Markdown and one HTML file."""
