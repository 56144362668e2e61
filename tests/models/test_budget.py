"""The token budget of the published sizes, number by number, and the command that prints it."""

import json

import pytest

from streamvln_gym.cli import main
from streamvln_gym.errors import CheckpointError
from streamvln_gym.models import StreamVLNConfig
from streamvln_gym.models.budget import (
    feature_bytes,
    format_budget,
    kv_bytes,
    read_budget_config,
    strategy_budget,
    token_budget,
)


def test_published_token_budget():
    rows = {row.name: row for row in token_budget(StreamVLNConfig.full_size())}
    counts = {name: (row.frames, row.unpooled, row.pooled) for name, row in rows.items()}
    assert counts == {
        "one frame": (1, 729, 196),
        "history": (8, 5832, 1568),
        "history + current frame": (9, 6561, 1764),
        "history + window": (16, 11664, 3136),
    }
    current = rows["history + current frame"]
    assert current.attention_ratio == pytest.approx(13.8, abs=0.05)
    assert current.megabytes(feature_bytes(1152)) == pytest.approx((15.1, 4.1), abs=0.05)
    assert current.megabytes(feature_bytes(3584)) == pytest.approx((47.0, 12.6), abs=0.05)
    unpooled, pooled = current.megabytes(feature_bytes(1152), batch=96)
    assert (unpooled - pooled) / 1e3 == pytest.approx(1.05, abs=0.015), "GB"


def test_kv_bytes_of_qwen2_7b():
    config = StreamVLNConfig.full_size()
    assert kv_bytes(config) == 2 * 28 * 4 * 128 * 2 == 57_344
    assert kv_bytes(config, 4) == 2 * kv_bytes(config)


def test_strategies():
    rows = {row.strategy: row for row in strategy_budget(StreamVLNConfig.full_size())}
    assert {name: (row.memory, row.current) for name, row in rows.items()} == {
        "none": (0, 196),
        "pooled": (1568, 196),
        "full": (5832, 196),
        "temporal_pool": (2916, 196),
        "voxel": (1568, 196),
    }
    assert [name for name, row in rows.items() if row.prunes] == ["voxel"]
    assert {row.window for row in rows.values()} == {1568}
    assert rows["temporal_pool"].first_call == 3112
    with pytest.raises(ValueError, match="memory_strategy must be one of"):
        strategy_budget(StreamVLNConfig.full_size(), ["all"])


def test_the_command_prints_the_published_table(capsys):
    main(["budget", "--batch", "96"])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "27x27 patches, bilinear pooling to 14x14 tokens; batch 96" in lines[0]
    assert "saves 1.06 GB at width 1152, 3.30 GB at width 3584" in printed
    main(["budget"])
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert lines["history + current frame"][4:] == [
        *("9", "6,561", "/", "1,764", "13.8x", "15.1", "/", "4.1", "47.0", "/", "12.6", "376.2", "/", "101.2")
    ]
    assert lines["temporal_pool"] == ["temporal_pool", "2,916", "+", "196", "3,112", "3.11x", "22.3", "4,484", "257.1"]
    assert {"none", "pooled", "full", "voxel"} <= set(lines)


def test_the_command_reads_any_configuration(tmp_path, capsys):
    StreamVLNConfig.tiny(num_history=4, window_steps=16).save_pretrained(tmp_path / "ours")
    main(["budget", "--config", str(tmp_path / "ours"), "--strategy", "temporal_pool"])
    printed = capsys.readouterr().out
    assert "8x8 patches, bilinear pooling to 4x4 tokens" in printed
    assert "128 + 16" in printed
    assert "voxel  " not in printed
    main(["budget", "--config", str(tmp_path / "ours" / "config.json")])
    assert "history + window              8  512 / 128" in capsys.readouterr().out


def test_published_configurations_are_read(tmp_path):
    values = {
        "model_type": "llava_qwen",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "rope_theta": 1000000.0,
        "mm_spatial_pool_mode": "average",
        "num_history": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert [row.pooled for row in token_budget(read_budget_config(tmp_path))] == [169, 676, 845, 2028]


def test_what_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="pass a checkpoint folder"):
        read_budget_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no valid JSON"):
        read_budget_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="'llama'"):
        read_budget_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "streamvln", "num_history": -1}')
    with pytest.raises(SystemExit, match="no usable configuration"):
        main(["budget", "--config", str(tmp_path)])
    with pytest.raises(ValueError, match="batch must be at least 1"):
        format_budget(StreamVLNConfig.tiny(), batch=0)
