"""The UNetModel of improved-diffusion and guided-diffusion, written anew from Nichol & Dhariwal 2021.

The layers have the same places as in the released code, so the weights have the names of the released state
dicts. Attention is computed head by head, because its channels are ordered by head.
"""

import math

import torch
from torch import nn


def timestep_embedding(t, width):
    """Cosines, then sines, of t at width / 2 frequencies from 1 to nearly 1 / 10000."""
    frequencies = torch.tensor([10000 ** (-k / (width // 2)) for k in range(width // 2)])
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], 1)


class Res(nn.Module):
    """A residual block; `resize` is "down", "up" or None."""

    def __init__(self, width, out, embedding, shift, resize=None):
        super().__init__()
        self.shift, self.resize = shift, resize
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out * (1 + shift)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def resized(self, x):
        if self.resize == "down":
            return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if self.resize == "up" else x

    def forward(self, x, emb):
        h = self.in_layers[2](self.resized(self.in_layers[:2](x)))
        emb = self.emb_layers(emb)[..., None, None]
        norm, rest = self.out_layers[0], self.out_layers[1:]
        if self.shift:
            half = emb.shape[1] // 2
            h = rest(norm(h) * (1 + emb[:, :half]) + emb[:, half:])
        else:
            h = rest(norm(h + emb))
        return self.skip_connection(self.resized(x)) + h


class Attend(nn.Module):
    """Attention: the channels of qkv are those of the first head's query, key and value, and so on."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.GroupNorm(32, width), nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x, emb):
        flat = x.flatten(2)
        mixed = []
        for head in self.qkv(self.norm(flat)).chunk(self.heads, 1):
            q, k, v = head.chunk(3, 1)
            weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), 2)
            mixed.append(v @ weight.transpose(1, 2))
        return (flat + self.proj_out(torch.cat(mixed, 1))).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, x, emb):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x, emb):
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class First(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


class UNetModel(nn.Module):
    """The network (x, t, label) -> output; `attend` are the stages with attention."""

    def __init__(  # noqa: PLR0917
        self, width=32, mults=(1, 2), blocks=1, attend=(1,), heads=4, shift=True, updown=False,
        channels=3, outputs=3, classes=None,
    ):  # fmt: skip
        super().__init__()
        self.width, emb = width, 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes:
            self.label_emb = nn.Embedding(classes, emb)
        self.input_blocks = nn.ModuleList([nn.ModuleList([First(channels, width, 3, padding=1)])])
        now, kept = width, [width]
        for stage, mult in enumerate(mults):
            for _ in range(blocks):
                layers = [Res(now, mult * width, emb, shift)]
                now = mult * width
                self.input_blocks.append(nn.ModuleList(layers + self._attention(stage, attend, now, heads)))
                kept.append(now)
            if stage < len(mults) - 1:
                layer = Res(now, now, emb, shift, "down") if updown else Down(now)
                self.input_blocks.append(nn.ModuleList([layer]))
                kept.append(now)
        self.middle_block = nn.ModuleList(
            [Res(now, now, emb, shift), Attend(now, heads), Res(now, now, emb, shift)]
        )
        self.output_blocks = nn.ModuleList()
        for stage, mult in reversed([*enumerate(mults)]):
            for k in range(blocks + 1):
                layers = [Res(now + kept.pop(), mult * width, emb, shift)]
                now = mult * width
                layers += self._attention(stage, attend, now, heads)
                if stage and k == blocks:
                    layers.append(Res(now, now, emb, shift, "up") if updown else Up(now))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, outputs, 3, padding=1))

    @staticmethod
    def _attention(stage, attend, width, heads):
        return [Attend(width, heads)] if stage in attend else []

    def forward(self, x, t, label=None):
        emb = self.time_embed(timestep_embedding(t, self.width))
        emb = emb if label is None else emb + self.label_emb(label)
        kept = []
        for layers in self.input_blocks:
            for layer in layers:
                x = layer(x, emb)
            kept.append(x)
        for layer in self.middle_block:
            x = layer(x, emb)
        for layers in self.output_blocks:
            x = torch.cat([x, kept.pop()], 1)
            for layer in layers:
                x = layer(x, emb)
        return self.out(x)
