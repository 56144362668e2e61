"""Muon on all matrices of a shape at once is Muon."""

import copy

import pytest
import torch
from torch import nn

from streamvln_gym.training.muon import Muon, orthogonalise

SHAPES = ((8, 8), (8, 8), (24, 8), (8, 20))


def test_it_steps_as_torchs():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    begun = [p.detach().clone() for p in ours]
    theirs = [nn.Parameter(p.clone()) for p in begun]
    first = Muon(ours, lr=0.01, weight_decay=0.1)
    second = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        first.step()
        second.step()
    for a, b, start in zip(ours, theirs, begun, strict=True):
        assert (a - b).norm() < 0.05 * (b - start).norm()  # torch computes in bfloat16


def test_singular_values_come_near_one():
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40)).float())
    assert values.min() > 0.6 and values.max() < 1.3


def test_it_goes_on_from_its_state():
    torch.manual_seed(2)
    one = nn.Parameter(torch.randn(4, 4))
    optimizer = Muon([one], lr=0.1)
    one.grad = torch.randn(4, 4)
    optimizer.step()
    other = nn.Parameter(one.detach().clone())
    resumed = Muon([other], lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, o in ((one, optimizer), (other, resumed)):
        p.grad = torch.full((4, 4), 0.5) + torch.eye(4)
        o.step()
    assert torch.equal(one, other)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"for matrices.*\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
