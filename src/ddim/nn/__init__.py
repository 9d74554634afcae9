"""Networks (x, conditioning, label) -> F, and their EMA weights, device, precision and compilation."""
