"""Mixing folders: shares, order, groups of similar length."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from streamvln_gym.errors import DatasetError
from streamvln_gym.training import StreamVLNWindows
from streamvln_gym.training.mixture import (
    EpochSampler,
    Source,
    WindowMixture,
    epoch_order,
    group_by_length,
    parse_sources,
    share_counts,
)
from tests.training.demonstrations import thin_processor, write_demonstrations


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    return write_demonstrations(root / "a", copies=3), write_demonstrations(root / "b", ("red",))


def mixture(*texts):
    processor = thin_processor()
    sources = parse_sources(texts)
    return WindowMixture(sources, [StreamVLNWindows(source.folder, processor) for source in sources])


def test_sources_are_read():
    assert Source.parse("a/b=2.5") == Source(Path("a/b"), 2.5)
    assert Source.parse("a/b") == Source(Path("a/b"))
    assert parse_sources(["a=1", "b=3"])[1].weight == 3.0


def test_a_folder_may_have_an_equals_sign(tmp_path):
    folder = tmp_path / "p=0.5"
    folder.mkdir()
    assert Source.parse(str(folder)) == Source(folder)
    assert Source.parse(f"{folder}=2") == Source(folder, 2.0)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a=-1"], "weight must be positive, got -1"),
        (["a=0"], "leave out a folder not wanted"),
        (["a=nan"], "must be positive"),
        (["a=much"], "must be a number, got 'much'"),
        (["a=1", "b"], "b has no weight but others have: write b=WEIGHT"),
        (["a=1", "a/../a=2"], "named twice"),
    ],
)
def test_bad_sources(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_sources(texts)


def test_share_counts_add_up():
    assert share_counts([2, 1], 9) == [6, 3]
    assert share_counts([1, 1, 1], 10) == [4, 3, 3]
    assert share_counts([12, 2], 14) == [12, 2]
    for total in range(1, 40):
        assert sum(share_counts([0.3, 1.7, 1.1], total)) == total


def test_without_weights_every_window_comes_once_an_epoch():
    order = epoch_order([5, 3], [5, 3], seed=1, epoch=2)
    assert sorted(order) == list(range(8))
    assert order != epoch_order([5, 3], [5, 3], seed=1, epoch=3)
    assert order != epoch_order([5, 3], [5, 3], seed=2, epoch=2)
    assert order == epoch_order([5, 3], [5, 3], seed=1, epoch=2)


def test_each_folder_is_gone_through_before_it_repeats():
    """A third of folder 0 an epoch, folder 1 more than twice: over three epochs all windows come equally often."""
    seen = Counter(i for epoch in range(3) for i in epoch_order([9, 3], [3, 7], seed=0, epoch=epoch))
    assert [seen[i] for i in range(9)] == [1] * 9
    assert [seen[i] for i in range(9, 12)] == [7] * 3


def test_shares_of_a_mixture(folders):
    mixed = mixture(f"{folders[0]}=1", f"{folders[1]}=2")
    assert mixed.sizes == [12, 2]
    sampler = EpochSampler(mixed, seed=0, length=30)
    parts = Counter(mixed.locate(index)[0] for index in sampler)
    assert (parts[0], parts[1]) == (10, 20)
    assert len(sampler) == 30
    assert mixed[13]["window"] == 13
    assert "episode 0" not in mixed.describe(13)
    assert f"{folders[1]}/annotations.json, entry 0 (id 0), instruction 0, steps 8 to 9" == mixed.describe(13)
    with pytest.raises(DatasetError, match="none of the 4 windows"):
        EpochSampler(mixture(f"{folders[0]}=1000", f"{folders[1]}=1"), seed=0, length=4)


def test_epochs_reach_sampler_and_windows(folders):
    mixed = mixture(str(folders[0]))
    sampler = EpochSampler(mixed, seed=0)
    first, texts = list(sampler), [mixed[i]["input_ids"].tolist() for i in range(4)]
    sampler.start_epoch(1)
    assert list(sampler) != first
    assert [mixed[i]["input_ids"].tolist() for i in range(4)] != texts
    sampler.start_epoch(0)
    assert list(sampler) == first
    assert [mixed[i]["input_ids"].tolist() for i in range(4)] == texts
    # Otherwise accelerate sets them itself, after a resume to a wrong epoch.
    assert not hasattr(sampler, "set_epoch")
    assert not hasattr(mixed, "set_epoch")


def test_groups_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(10, 1000, 1003).tolist()
    order = epoch_order([1003], [1003], seed=0, epoch=0)
    grouped = group_by_length(order, lengths, 8, seed=0)
    assert sorted(grouped) == sorted(order)

    def waste(rows):
        batches = [[lengths[i] for i in rows[k : k + 8]] for k in range(0, len(rows), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches) / sum(lengths)

    assert waste(grouped) < 0.05 < 0.5 < waste(order)
    means = [np.mean([lengths[i] for i in grouped[k : k + 8]]) for k in range(0, 400, 8)]
    assert np.any(np.diff(means) > 0) and np.any(np.diff(means) < 0), "the groups themselves are shuffled"


def test_lengths_are_those_of_the_network(folders):
    mixed = mixture(str(folders[0]))
    tokens = thin_processor().config.tokens_per_frame
    sample = mixed[1]
    frames, special = len(sample["pixel_values"]), int((sample["input_ids"] < 0).sum())
    assert sample["memory_frames"] == 2
    assert mixed.length(1) == len(sample["input_ids"]) - special + frames * tokens
    sampler = EpochSampler(mixed, seed=0, group=4)
    kinds = [[mixed.length(i) for i in list(sampler)[k : k + 4]] for k in range(0, 12, 4)]
    assert sum(max(row) - min(row) for row in kinds) < sum(abs(a - b) for a, b in zip(kinds[0], kinds[-1], strict=True))
