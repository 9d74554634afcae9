"""Fields of recipes, as a command line has them."""


def options(text):
    """Return {field: value} of a text such as "optim.lr=1e-3 net.width=16"."""
    return dict(option.split("=", 1) for option in text.split())
