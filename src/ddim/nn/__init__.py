"""Networks (x, conditioning, label, augment) -> F, and averages of their weights over training."""
