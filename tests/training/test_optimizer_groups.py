"""Parts, rates, and who has weight decay."""

import pytest
import torch

from streamvln_gym.errors import TrainingError
from streamvln_gym.models import StreamVLNForConditionalGeneration
from streamvln_gym.training.config import OptimiserConfig
from streamvln_gym.training.optimizer_groups import freeze_parts, optimizer_groups, part_of
from tests.training.demonstrations import thin_processor


@pytest.fixture
def model():
    return StreamVLNForConditionalGeneration.from_seed(thin_processor().config)


def test_every_trained_parameter_is_in_one_group(model):
    rates = OptimiserConfig(learning_rate=1e-3, vision_learning_rate=1e-4, weight_decay=0.1)
    groups = {group["name"]: group for group in optimizer_groups(model, rates)}
    assert list(groups) == [f"{p}{s}" for p in ("vision", "projector", "language") for s in ("", ", no decay")]
    assert groups["vision"]["lr"] == groups["vision, no decay"]["lr"] == 1e-4
    assert groups["projector"]["lr"] == groups["language"]["lr"] == 1e-3
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for label, group in groups.items():
        assert group["weight_decay"] == (0.0 if "no decay" in label else 0.1)
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            assert part_of(name) == label.split(",")[0]
            assert ("no decay" in label) == (name.endswith("bias") or "norm" in name), name
    assert not names
    torch.optim.AdamW(list(groups.values()))


def test_frozen_parts_are_left_out(model):
    freeze_parts(model, ["projector"])
    names = [group["name"] for group in optimizer_groups(model, OptimiserConfig())]
    assert names == ["projector", "projector, no decay"]
    freeze_parts(model, ["language", "vision"])
    assert not model.projector.linear_1.weight.requires_grad
    assert model.lm_head.weight.requires_grad and model.vision_tower.embeddings.patch_embedding.weight.requires_grad


def test_names_below_wrappers():
    assert part_of("module.base_model.model.vision_tower.encoder.layers.0.mlp.fc1.lora_A.default.weight") == "vision"
    assert part_of("base_model.model.projector.linear_1.weight") == "projector"
    assert part_of("lm_head.weight") == "language"


def test_nothing_to_train(model):
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no parameter is trained"):
        optimizer_groups(model, OptimiserConfig())
