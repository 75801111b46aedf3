"""Relative attention against the paper's sum, term by term."""

from __future__ import annotations

import math

import pytest
import torch

from asrtts.nn.relative_attention import RelativeAttention, by_distance, position_table


def sinusoid(place: float, dim: int) -> list[float]:
    """Vaswani et al. 2017, section 3.5, one row."""
    row = []
    for pair in range(dim // 2):
        angle = place / 10000 ** (2 * pair / dim)
        row += [math.sin(angle), math.cos(angle)]
    return row


@pytest.mark.parametrize("positions", ["relative", "key"])
def test_equals_the_sum_of_the_paper(positions):
    torch.manual_seed(0)
    dim, heads, frames, real = 8, 2, 5, 4
    attention = RelativeAttention(dim, heads, dropout=0.0, positions=positions).double()
    x = torch.randn(1, frames, dim, dtype=torch.float64)
    padding = torch.tensor([False] * real + [True] * (frames - real)).view(1, 1, 1, frames)
    table = position_table(frames, dim, positions).double()
    found = attention(x, table, padding)[0]

    query, key, value = attention.qkv(x)[0].view(frames, 3, heads, dim // heads).unbind(1)
    rows = []
    for i in range(frames):
        mixed = []
        for h in range(heads):
            scores = []
            for j in range(real):
                place = i - j if positions == "relative" else j
                sine = torch.tensor(sinusoid(place, dim), dtype=torch.float64)
                r = (attention.position.weight @ sine).view(heads, -1)[h]
                content = (query[i, h] + attention.content_bias[h]) @ key[j, h]
                distance = (query[i, h] + attention.position_bias[h]) @ r
                scores.append((content + distance) / math.sqrt(dim // heads))
            weights = torch.stack(scores).softmax(0)
            mixed.append(sum(weights[j] * value[j, h] for j in range(real)))
        rows.append(torch.cat(mixed))
    expected = attention.out(torch.stack(rows))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_by_distance_picks_the_right_diagonal(frames):
    scores = torch.randn(2, 3, frames, 2 * frames - 1)
    found = by_distance(scores)
    for i in range(frames):
        for j in range(frames):
            assert torch.equal(found[..., i, j], scores[..., i, frames - 1 - i + j])


def test_one_head_does_not_see_what_is_masked():
    torch.manual_seed(0)
    attention = RelativeAttention(8, 2, 0.0)
    x = torch.randn(1, 6, 8)
    padding = torch.tensor([False] * 3 + [True] * 3).view(1, 1, 1, 6)
    changed = x.clone()
    changed[:, 3:] += 5
    table = position_table(6, 8, "relative")
    torch.testing.assert_close(attention(x, table, padding)[:, :3], attention(changed, table, padding)[:, :3])
