"""Networks, functions (x, conditioning, label) -> F; EMA of their weights; device, precision, compilation."""
