"""Inputs and outputs of `PackedOps` for tests; apart, so that a process of its own need not import the agents."""

import torch

from streamvln_gym.models.look_ahead import MoveTree
from streamvln_gym.models.packed_ops import Places, TorchOps
from streamvln_gym.models.packed_plan import pack_rows


def ops_case(heads, kv_heads, size, counts, past, slots, depth, recorded, dtype=torch.float32, device="cpu"):
    """Inputs of `PackedOps` at random, the same for everyone."""
    generator = torch.Generator().manual_seed(1)
    tree, length, count = MoveTree(3, depth), 1 + max(past) + max(counts) + 40, max(slots) + 1
    arrays = pack_rows(counts, slots, count, tree, heads // kv_heads, recorded)
    plan = arrays.plan(torch.from_numpy(arrays.numbers).to(device))
    lengths = torch.zeros(count + 1, dtype=torch.long)
    lengths[slots] = torch.tensor(past)
    held, base = lengths.to(device)[plan.slots], plan.slots * length
    before = held[plan.row]
    angle = ((before + plan.position)[:, None] * torch.rand(size // 2, generator=generator).to(device)).to(dtype)
    places = Places(plan, held, base, base[plan.row] + before + plan.place, angle.cos(), angle.sin())
    shapes = ((len(plan.row), (heads + 2 * kv_heads) * size), *2 * ((count * length + 1, kv_heads, size),))
    qkv, keys, values = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return qkv, keys, values, places


# heads, kv_heads, head_dim, counts, past, slots, depth, recorded
CASES = (
    (2, 2, 64, [3], [5], [1], 3, True),
    (7, 1, 32, [1, 1, 1], [70, 64, 130], [2, 0, 4], 1, False),
    (14, 2, 16, [1, 40, 7], [0, 129, 200], [1, 3, 4], 0, True),
)
# Too slow for Triton's interpreter.
LARGER_CASES = (
    (4, 4, 64, [3, 17], [0, 5], [2, 0], 3, True),
    (28, 4, 128, [213, 5], [1900, 64], [1, 0], 3, True),
)


def check_ops(case, tolerance: float, **where) -> None:
    from streamvln_gym.models.triton_ops import TritonOps

    found = []
    for ops in (TorchOps(), TritonOps()):
        qkv, keys, values, places = ops_case(*case, **where)
        given = qkv.clone()
        ops.rotate_and_store(qkv, keys, values, places)
        real = places.plan.row < len(places.plan.start)
        seen = ops.attend(qkv, keys, values, places)[real]
        queries = qkv[:, : case[0] * case[2]]
        found.append([queries, keys[:-1], values[:-1], seen, ops.rms_norm(given, given[0], 1e-6), ops.gated(given)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
