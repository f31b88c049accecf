"""The report of a run: tables, plots, Markdown and one HTML file."""
