"""Networks: (x, conditioning, label) -> F; the averages of their weights; how they are run."""
