"""Questions about one run: how good its samples are, and why."""
