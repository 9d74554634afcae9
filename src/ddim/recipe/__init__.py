"""The tree of choices behind a run: its fields, named recipes, text and JSON."""
