"""Pickles in place of weights, most of which would run code."""

import os
import pickle

import torch


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def harmful(path, canary):
    """Write a pickle that touches the canary if anything of it runs."""
    torch.save({"a": torch.ones(3), "b": Runs(os.system, f"touch {canary}")}, path)


def legacy(path, canary):
    path.write_bytes(pickle.dumps({"a": Runs(exec, f"open({str(canary)!r}, 'w')")}))


def old_format(path, canary):
    torch.save({"a": Runs(os.mkdir, str(canary))}, path, _use_new_zipfile_serialization=False)


def eval_in_torch(path, canary):
    """Write a pickle that calls a function of torch, `torch.hub.load`."""
    from torch.fx._symbolic_trace import _assert_is_none  # noqa: F401  (there are such functions)

    torch.save({"a": Runs(torch.hub.load, str(canary), "x")}, path)


def truncated(path, canary):
    torch.save({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def whole_model(path, canary):
    torch.save(torch.nn.Identity(), path)


def not_a_dictionary(path, canary):
    torch.save([torch.ones(3)], path)


PICKLES = {
    write.__name__: write
    for write in (
        harmful,
        legacy,
        old_format,
        eval_in_torch,
        truncated,
        whole_model,
        not_a_dictionary,
    )
}
"""Functions (path, canary) that write a pickle; whatever runs of it touches the canary."""
