"""Reports of an evaluation: what is found and missed, as one HTML page and one Markdown file."""
