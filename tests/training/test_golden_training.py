"""Windows, labels, batches, loss and gradients against numbers of the published training code."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from streamvln_gym.agents.checkpoint import LoadOptions, load_checkpoint
from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.models.conversion import our_key
from streamvln_gym.models.dialogue import ConjunctionPicker
from streamvln_gym.training import StreamVLNCollator, StreamVLNWindows, WindowConfig
from tests.golden_streamvln import COMPACT, NO_FULL, VISION_CONFIG, full_recording, write_published_checkpoint

BATCHES = {"s0": [0], "s1": [1], "s2": [2], "batch02": [0, 2]}


class CompactHead(torch.nn.Module):
    """The head's rows that lie in tests/data; an id without a row stands for all the left-out ones together.

    Its logit is the logsumexp of theirs, recorded for each target with its slope at the recorded hidden state, so that
    loss and gradients come out as with the whole head.

    Args:
        weight: (vocab, hidden), zero where rows are left out.
        arrays: of training.npz.
        samples: numbers of the samples whose targets come in.
    """

    def __init__(self, weight, arrays, samples):
        super().__init__()
        ids = np.load(COMPACT / "tiny_checkpoint.npz")["head_ids"].astype(np.int64)
        left_out = next(token for token in range(len(weight)) if token not in set(ids.tolist()))
        self.weight = torch.nn.Parameter(weight)
        self.ids = torch.from_numpy(ids)
        self.columns = torch.from_numpy(np.append(ids, left_out))
        names = ("rest_hidden", "rest_logsumexp", "rest_slope")
        parts = [np.concatenate([arrays[f"s{sample}_{name}"] for sample in samples]) for name in names]
        self.hidden, self.rest, self.slope = (torch.from_numpy(part).float() for part in parts)

    def forward(self, hidden):
        known = hidden @ self.weight[self.ids].T
        rest = self.rest + ((hidden - self.hidden) * self.slope).sum(1)
        logits = torch.full((len(hidden), len(self.weight)), -1e9)
        return logits.index_copy(1, self.columns, torch.cat([known, rest[:, None]], 1))


@pytest.fixture(scope="module")
def arrays():
    return dict(np.load(COMPACT / "training.npz"))


@pytest.fixture(scope="module")
def story():
    return json.loads((COMPACT / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    torch.set_num_threads(1)
    folder = write_published_checkpoint(tmp_path_factory.mktemp("published"))
    return load_checkpoint(folder, options=LoadOptions(vision_config=VISION_CONFIG))


@pytest.fixture(scope="module")
def dataset(parts, story):
    config = WindowConfig(memory_prompt="training", published_label_mask=True)
    windows = StreamVLNWindows(COMPACT / "trajectory", parts[1], config, check_pictures=False)
    windows.encoder.picker = lambda epoch, index: ConjunctionPicker(seed=story["samples"][index]["seed"])
    return windows


@pytest.fixture(scope="module")
def samples(dataset):
    return [dataset[index] for index in range(3)]


def batch_of(samples, tag):
    return StreamVLNCollator()([samples[index] for index in BATCHES[tag]])


@pytest.fixture
def compact_head(parts, arrays):
    """Call it with a batch's name: the model gets the head for its targets, until the test ends."""
    model = parts[0]
    whole = model.lm_head

    def install(tag):
        model.lm_head = CompactHead(whole.weight.detach().clone(), arrays, BATCHES[tag])

    yield install
    model.lm_head = whole


def spy(monkeypatch, model):
    """Notes what `_embed_batch` returns: [embeddings, attention mask, labels], all expanded."""
    seen = []
    expand = model._embed_batch
    monkeypatch.setattr(model, "_embed_batch", lambda *args: seen.extend(expand(*args)) or tuple(seen))
    return seen


def test_windows(dataset, story):
    """Windows of 32 steps; the episode of 3 actions is left out; each instruction makes its own windows."""
    found = [[window.trajectory, window.instruction, window.start, 0] for window in dataset.windows]
    assert found == story["data_list"]
    assert dataset.skipped == 1


@pytest.mark.parametrize("index", range(3))
def test_samples(samples, dataset, arrays, story, index):
    sample = samples[index]
    for name in ("input_ids", "labels", "time_ids"):
        np.testing.assert_array_equal(sample[name], arrays[f"s{index}_{name}"])
    _, _, encoded = dataset.encode(index)
    assert encoded.history_steps + encoded.frame_steps == arrays[f"s{index}_frames"].tolist()
    hashes = [hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in sample["pixel_values"]]
    assert hashes == story["samples"][index]["images_sha256"]


@pytest.mark.parametrize("tag", BATCHES)
def test_batches(parts, samples, arrays, compact_head, monkeypatch, tag):
    """Expanded labels and masks are equal; embeddings, logits at the targets and the loss agree."""
    model, batch = parts[0], batch_of(samples, tag)
    np.testing.assert_array_equal(batch["attention_mask"].bool(), arrays[f"{tag}_attention_mask"])
    compact_head(tag)
    seen = spy(monkeypatch, model)
    with torch.inference_mode():
        output = model(**batch)
    embeddings, mask, labels = seen
    np.testing.assert_array_equal(mask.bool(), arrays[f"{tag}_expanded_mask"])
    np.testing.assert_array_equal(labels, arrays[f"{tag}_expanded_labels"])
    if tag != "batch02":
        np.testing.assert_allclose(embeddings[0, ::16], arrays[f"{tag}_inputs_embeds_every16"], atol=1e-5)
        logits = output.logits[:, arrays["vocab_quarter"].astype(np.int64)]
        np.testing.assert_allclose(logits, arrays[f"{tag}_label_logits"], atol=2e-4)
    targets = labels[:, 1:][labels[:, 1:] != IGNORE_LABEL]
    nll = torch.nn.functional.cross_entropy(output.logits, targets, reduction="none")
    np.testing.assert_allclose(nll, arrays[f"{tag}_label_nll"], atol=2e-4)
    assert float(output.loss) == pytest.approx(float(arrays[f"{tag}_loss"]), abs=1e-5)


def test_gradients(parts, samples, arrays, story, compact_head):
    """d loss(s2), everything trainable."""
    model = parts[0]
    compact_head("s2")
    model.zero_grad()
    model(**batch_of(samples, "s2")).loss.backward()
    check_gradients(model, arrays, story["grad_norms_s2"], whole_head=False)


@pytest.mark.skipif(full_recording() is None, reason=NO_FULL)
def test_whole_checkpoint(samples, arrays, story, tmp_path):
    """The same with every row of the vocabulary: losses of all batches, first logits, and gradients."""
    folder = full_recording()
    whole = np.load(folder / "golden_B_training.npz")
    tensors = load_file(folder / "tiny_checkpoint" / "model.safetensors")
    published = write_published_checkpoint(tmp_path / "whole", tensors)
    model, _ = load_checkpoint(published, options=LoadOptions(vision_config=VISION_CONFIG))
    vocab_sample = whole["vocab_sample"]
    for tag in BATCHES:
        with torch.inference_mode():
            output = model(**batch_of(samples, tag))
        assert float(output.loss) == pytest.approx(float(whole[f"{tag}_loss"]), abs=1e-5)
        rows = [f"{tag}_r{row}" for row in range(2)] if tag == "batch02" else [tag]
        expected = np.concatenate([whole[f"{row}_label_logits"] for row in rows])
        np.testing.assert_allclose(output.logits[:, vocab_sample], expected, atol=2e-4)
    batch = batch_of(samples, "s2")
    with torch.inference_mode():
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        first = model(**inputs, logits_to_keep=torch.arange(64)).logits[0, :, vocab_sample]
    np.testing.assert_allclose(first, whole["s2_first64_logits"], atol=2e-4)
    model(**batch).loss.backward()
    check_gradients(model, whole, story["grad_norms_s2"], whole_head=True)


def check_gradients(model, arrays, norms, whole_head):
    """Every recorded gradient to 1e-4 of its norm, and the norms of all.

    The vision keys' biases have no gradient but rounding, by the symmetry of softmax: they are compared absolutely.
    """
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    recorded = [name for name in arrays if name.startswith("grad")]
    assert len(recorded) == 29
    for entry in recorded:
        kind, name = entry.split("/")
        gradient = gradients[our_key(name)].numpy()
        if kind == "grad_rows":
            gradient = gradient[arrays["vocab_sample"]]
        bound = 1e-6 if is_rounding(name) else 1e-4 * np.linalg.norm(arrays[entry])
        assert np.linalg.norm(gradient - arrays[entry]) <= bound, name
    for name, norm in norms.items():
        if norm is None:
            assert our_key(name) is None, "SigLIP's last norm is not part of the network"
        elif not is_rounding(name) and (whole_head or name != "lm_head.weight"):
            assert float(gradients[our_key(name)].norm()) == pytest.approx(norm, rel=1e-4), name


def is_rounding(name):
    return "vision_tower" in name and name.endswith("k_proj.bias")
