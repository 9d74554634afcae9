"""Checkpoints of other programs, changed so that they must be refused, and pickles that would run code."""

import os
import pickle
import struct
import zipfile
from functools import cache

import torch

from ddim.nn.linear_attention_unet import LinearAttentionUNetSpec
from ddim.runs.lucidrains_checkpoint import translate_name
from ddim.runs.pickle_reader import DEEPEST
from oracles import made, shaken
from unet_model import UNetModel


def own(network, **options):
    """A UNetModel with random weights."""
    return shaken(made(lambda: network(**options)))


def theirs(spec, channels=3):
    """Return our network, and its weights with the names and shapes of denoising-diffusion-pytorch."""
    net = shaken(made(lambda: spec.network(channels)))
    found = {}
    for name, value in net.state_dict().items():
        possible = translate_name(name)
        # The last stage has no layer before its convolution; linear attention has a norm behind it.
        last = "sample." in name and f"sample.{len(spec.attention) - 1}." in name
        full = (
            any(f".{k}.attention.proj" in name and a for k, a in enumerate(spec.attention)) and "down" in name
        )
        full |= any(f"up.{k}.attention.proj" in name and a for k, a in enumerate(reversed(spec.attention)))
        full |= name.startswith("middle_attention.proj")
        chosen = possible[1] if last else possible[0]
        chosen = possible[-1] if ".proj." in name and not full else chosen
        found[chosen] = value.reshape(1, -1, 1, 1) if chosen.endswith(".g") else value
    return net, found


LITTLE = LinearAttentionUNetSpec(8, (1, 2), (False, True), 2, 4)
NETS = {"lucidrains": lambda: theirs(LITTLE)[1], "openai": lambda: dict(own(UNetModel).state_dict())}


def without(name):
    return lambda state: {key: value for key, value in state.items() if name not in key}


def replaced(part, change):
    return lambda state: {key: change(value) if part in key else value for key, value in state.items()}


HOSTILE = {
    "one weight": lambda state: dict(list(state.items())[:1]),
    "no time": without("time_"),
    "no middle": without("mid"),
    "no first": lambda s: {k: v for k, v in s.items() if ".0.0." not in k and "init" not in k},
    "more": lambda state: {**state, "more.weight": torch.ones(3)},
    "an odd name": lambda state: {**state, "m\x1b[2Jore\n": torch.ones(3)},
    "flat": replaced("weight", lambda value: value.flatten().clone()),
    "empty": replaced("weight", lambda value: value[:0].clone()),
    "wide": replaced("init_conv.weight", lambda value: torch.ones(2**20, 3, 1, 1)),
    "wide too": replaced("input_blocks.0.0.weight", lambda value: torch.ones(2**20, 3, 1, 1)),
    "NaN": replaced("conv", lambda value: value * float("nan")),
    "infinity in one": replaced("2.bias", lambda value: value / 0),
    "other shapes": replaced("bias", lambda value: torch.ones(len(value) + 1)),
    "one less": replaced("time_", lambda value: value[:-1].clone()),
    "six channels": lambda s: {k: v.repeat(1, 2, 1, 1) if v.shape[1:2] == (3,) else v for k, v in s.items()},
    "numbers": replaced("weight", lambda value: torch.tensor(1.0)),
    "many stages": lambda s: {
        **s,
        **{f"downs.{k}.0.block1.proj.weight": torch.ones(1, 1, 1, 1) for k in range(2, 3000)},
        **{f"output_blocks.{k}.0.in_layers.0.weight": torch.ones(1) for k in range(4, 3000)},
    },
    "a stage of nothing": lambda s: {**s, "downs.1.0.block1.proj.weight": torch.ones(0, 1, 1, 1),
                                     "input_blocks.3.0.out_layers.3.weight": torch.ones(0, 1, 1, 1)},
    "a gap": without("s.1."),
    "halves": replaced("weight", lambda value: value[: len(value) // 2].clone()),
}  # fmt: skip


@cache
def _state(kind):
    return NETS[kind]()


def changes_network(kind, name):
    """Return whether a change of `HOSTILE` changes anything of a network."""
    before = _state(kind)
    after = HOSTILE[name](dict(before))
    return before.keys() != after.keys() or any(not torch.equal(before[key], after[key]) for key in before)


# Pickles


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def rewritten(path, name, content, how=zipfile.ZIP_DEFLATED):
    """Replace a member of a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            hit = member.endswith(name)
            archive.writestr(member, content if hit else data, how if hit else zipfile.ZIP_STORED)


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


def bomb(path, canary):
    """A pickle of half a gigabyte of zeros, packed into half a megabyte."""
    torch.save({"a": torch.ones(3)}, path)
    rewritten(path, "data.pkl", b"\x80\x02" + b"\x8b" + struct.pack("<i", 2**29 - 1) + bytes(2**29))


def storage_bomb(path, canary):
    torch.save({"a": torch.zeros(2**26)}, path)
    rewritten(path, "data/0", bytes(2**28))


def expanded(path, canary):
    """A tensor of 40 GB that is one number, repeated."""
    torch.save({"a": torch.ones(1).expand(10**10)}, path)


def nested(path, canary):
    content = {"a": torch.ones(3)}
    for _ in range(DEEPEST + 1):
        content = {"in": content}
    torch.save(content, path)


def brackets(path, canary):
    torch.save({"a": torch.ones(3)}, path)
    rewritten(path, "data.pkl", b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".")


def odd_name(path, canary):
    torch.save({"a\x1b[2J\n": torch.ones(3)}, path)


def truncated(path, canary):
    torch.save({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def whole_model(path, canary):
    torch.save(torch.nn.Identity(), path)


def sparse(path, canary):
    torch.save({"a": torch.eye(3).to_sparse()}, path)


def not_a_dictionary(path, canary):
    torch.save([torch.ones(3)], path)


def many(path, canary):
    torch.save({str(k): 0 for k in range(100_002)}, path)


def imaginary(path, canary):
    torch.save({"a": torch.ones(3, dtype=torch.complex64)}, path)


PICKLES = {
    write.__name__: write
    for write in (
        harmful,
        legacy,
        old_format,
        eval_in_torch,
        bomb,
        storage_bomb,
        expanded,
        nested,
        brackets,
        odd_name,
        truncated,
        whole_model,
        sparse,
        not_a_dictionary,
        many,
        imaginary,
    )
}
"""Functions (path, canary) that write a pickle; whatever runs of it touches the canary."""
