"""Rows of a SlotCache give what a stream by itself gives, whatever their neighbours do."""

import pytest
import torch

from streamvln_gym.models.configuration_streamvln import StreamVLNConfig
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.slot_cache import SlotCache


def make_model(**text: object) -> StreamVLNForConditionalGeneration:
    config = StreamVLNConfig.tiny(128)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = ["full_attention"] * 2
    for name, value in text.items():
        setattr(config.text_config, name, value)
    config.vision_config.num_hidden_layers = 1
    return StreamVLNForConditionalGeneration.from_seed(config)


@pytest.fixture(scope="module")
def model() -> StreamVLNForConditionalGeneration:
    return make_model()


class Reference:
    """Streams one by one, each with transformers' own cache."""

    def __init__(self, model: StreamVLNForConditionalGeneration, slots: int) -> None:
        self.model = model
        self.caches = [model.new_cache() for _ in range(slots)]

    @torch.inference_mode()
    def extend(self, embeddings: torch.Tensor, slots: list[int], counts: list[int]) -> torch.Tensor:
        rows = zip(embeddings, slots, counts, strict=True)
        return torch.cat([self.model.extend(row[None, :count], self.caches[slot]) for row, slot, count in rows])

    def restart(self, slots: list[int]) -> None:
        for slot in slots:
            self.caches[slot] = self.model.new_cache()


def check_random_streams(model: StreamVLNForConditionalGeneration, rounds: int, slots: int = 7) -> None:
    generator = torch.Generator().manual_seed(3)

    def below(high: int, size: int) -> list[int]:
        return torch.randint(0, high, (size,), generator=generator).tolist()

    hidden = model.config.text_config.hidden_size
    cache, reference = SlotCache(model, slots, 20), Reference(model, slots)
    for number in range(rounds):
        gone = sorted(set(below(slots, 2))) if number % 3 == 2 else []
        cache.restart(torch.tensor(gone, dtype=torch.long))
        reference.restart(gone)
        rows = torch.randperm(slots, generator=generator)[: 1 + below(slots, 1)[0]].tolist()
        everyone = number % 4 == 0
        if everyone:
            rows = list(range(slots))
        length = 1 + below(9, 1)[0]
        counts = [1 + count for count in below(length, len(rows))]
        embeddings = torch.randn(len(rows), length, hidden, generator=generator)
        expected = reference.extend(embeddings, rows, counts)
        for row, count in enumerate(counts):
            embeddings[row, count:] = 1e4  # padding that would be noticed
        given = None if everyone else torch.tensor(rows)
        longest = None if number % 2 else 16 * 9
        got = cache.extend(embeddings, given, torch.tensor(counts), longest)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        lengths = [reference.caches[slot].get_seq_length() for slot in range(slots)]
        assert cache.lengths.tolist() == lengths


def test_streams_are_independent(model: StreamVLNForConditionalGeneration) -> None:
    check_random_streams(model, 24)


def test_keys_and_values_are_those_of_a_stream_alone(model: StreamVLNForConditionalGeneration) -> None:
    cache, reference = SlotCache(model, 3, 32), Reference(model, 3)
    embeddings = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(0))
    cache.extend(embeddings, torch.tensor([2, 0]), torch.tensor([5, 3]))
    reference.extend(embeddings, [2, 0], [5, 3])
    for layer in range(2):
        for slot, length in ((2, 5), (0, 3)):
            alone = reference.caches[slot].layers[layer]
            torch.testing.assert_close(cache.keys[layer][slot, :, :length], alone.keys[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(cache.values[layer][slot, :, :length], alone.values[0], rtol=1e-5, atol=1e-5)
        assert not cache.keys[layer][1].any(), "an untouched row"
        assert not cache.keys[layer][0, :, 3:-1].any(), "padding leaves no trace"


def test_grouped_heads_and_eager_attention() -> None:
    grouped = make_model(num_key_value_heads=2)
    check_random_streams(grouped, 8)
    grouped.set_attn_implementation("eager")
    check_random_streams(grouped, 8)


def test_all_rows_without_padding_need_no_counts(model: StreamVLNForConditionalGeneration) -> None:
    cache, reference = SlotCache(model, 4, 16), Reference(model, 4)
    embeddings = torch.randn(4, 6, 256, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        cache.extend(embeddings), reference.extend(embeddings, [0, 1, 2, 3], [6] * 4), rtol=1e-4, atol=1e-4
    )
    token = embeddings[:, :1]
    torch.testing.assert_close(
        cache.extend(token, longest=7), reference.extend(token, [0, 1, 2, 3], [1] * 4), rtol=1e-4, atol=1e-4
    )


def test_a_row_with_nothing_new_stays(model: StreamVLNForConditionalGeneration) -> None:
    cache = SlotCache(model, 2, 16)
    embeddings = torch.randn(2, 4, 256, generator=torch.Generator().manual_seed(2))
    hidden = cache.extend(embeddings, None, torch.tensor([0, 4]))
    assert cache.lengths.tolist() == [0, 4]
    assert torch.isfinite(hidden).all()


def test_restart_takes_rows_a_mask_or_everything(model: StreamVLNForConditionalGeneration) -> None:
    cache = SlotCache(model, 3, 16)
    for slots, expected in (
        (torch.tensor([1]), [4, 0, 4]),
        (torch.tensor([True, False, True]), [0, 4, 0]),
        (None, [0, 0, 0]),
    ):
        cache.restart()
        cache.extend(torch.zeros(3, 4, 256))
        cache.restart(slots)
        assert cache.lengths.tolist() == expected


def test_it_grows_inside_and_outside_of_inference_mode(model: StreamVLNForConditionalGeneration) -> None:
    cache, reference = SlotCache(model, 2, 4), Reference(model, 2)
    embeddings = torch.randn(2, 30, 256, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        cache.extend(embeddings[:, :15])
        cache.extend(embeddings[:, 15:])
    assert cache.max_length >= 30
    reference.extend(embeddings, [0, 1], [30, 30])
    expected = reference.extend(embeddings, [0, 1], [30, 30])
    torch.testing.assert_close(cache.extend(embeddings), expected, rtol=1e-4, atol=1e-4)
    assert cache.nbytes == 2 * 2 * 2 * 4 * (cache.max_length + 1) * 64 * 4


def test_output_can_be_trained_on(model: StreamVLNForConditionalGeneration) -> None:
    hidden = SlotCache(model, 2, 8).extend(torch.zeros(2, 3, 256))
    head = torch.nn.Linear(256, 1)
    head(hidden).sum().backward()
    assert head.weight.grad is not None


def test_bfloat16() -> None:
    model = make_model().to(torch.bfloat16)
    cache = SlotCache(model, 3, 16)
    assert cache.keys[0].dtype == torch.bfloat16
    hidden = cache.extend(torch.ones(2, 3, 256, dtype=torch.bfloat16), torch.tensor([0, 2]), torch.tensor([3, 1]))
    assert hidden.dtype == torch.bfloat16
    assert torch.isfinite(hidden.float()).all()


def test_what_cannot_work_is_refused(model: StreamVLNForConditionalGeneration) -> None:
    cache = SlotCache(model, 3, 16)
    with pytest.raises(ValueError, match="2 rows, but there are 3 slots"):
        cache.extend(torch.zeros(2, 1, 256))
    with pytest.raises(ValueError, match="and 1 counts"):
        cache.extend(torch.zeros(3, 1, 256), None, torch.tensor([1]))
    with pytest.raises(ValueError, match="grows to 5 positions, but longest is 4"):
        cache.extend(torch.zeros(3, 5, 256), longest=4)
    assert cache.lengths.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="at least 1"):
        SlotCache(model, 0, 16)
    spread = make_model()
    spread.language_model.layers[1].to("meta")
    with pytest.raises(ValueError, match="one device, but this one is spread over"):
        SlotCache(spread, 1, 16)
    sliding = make_model(layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(ValueError, match="full attention only"):
        SlotCache(sliding, 1, 16)
    other = make_model()
    other.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="use sdpa or eager"):
        SlotCache(other, 1, 16).extend(torch.zeros(1, 1, 256))
    checkpointing = make_model()
    checkpointing.gradient_checkpointing_enable()
    checkpointing.train()
    with pytest.raises(ValueError, match="gradient checkpointing"):
        SlotCache(checkpointing, 1, 16).extend(torch.zeros(1, 1, 256))
