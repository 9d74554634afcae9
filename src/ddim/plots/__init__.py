"""Image files, charts and pages (HTML and Markdown)."""
