"""Names of devices: what "auto" is, and what is refused with a remedy."""

import pytest
import torch

from streamvln_gym.devices import choose_device


@pytest.fixture
def gpus(monkeypatch):
    """Makes this machine one with so many GPUs."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return pretend


@pytest.mark.parametrize(("count", "expected"), [(0, "cpu"), (2, "cuda")])
def test_auto_is_the_gpu_where_there_is_one(gpus, count, expected):
    gpus(count)
    assert choose_device("auto") == expected
    assert choose_device("cpu") == "cpu"


def test_a_gpu_may_be_named_by_its_number(gpus):
    gpus(2)
    assert [choose_device(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda", "cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match=r"no device 'cuda:2' here: use auto, cpu or cuda or cuda:0 or cuda:1"):
        choose_device("cuda:2")


def test_a_gpu_that_is_not_there(gpus):
    gpus(0)
    with pytest.raises(ValueError, match=r"no device 'cuda' here \(this torch sees no GPU.*use auto, cpu$"):
        choose_device("cuda")


def test_a_name_that_is_none(gpus):
    gpus(0)
    with pytest.raises(ValueError, match=r"no device 'foo' here: use auto, cpu$"):
        choose_device("foo")
