"""What a server serves, to whom, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# A frame has to get through beside its envelope.
_SMALLEST_MESSAGE = 4096
_LONGEST_INSTRUCTION = 4000  # `models.dialogue.MAX_INSTRUCTION`, without importing torch


@dataclass(frozen=True)
class ServeConfig:
    """What `serve` does.

    Attributes:
        agent: folder (or hub id) of a StreamVLN checkpoint; default: "streamvln-tiny", which ships in the package.
        host: address to listen on. The default can be reached from this machine only; any other needs a token.
        port: 0 takes a free one.
        token_file: file with the token that clients must show; default: what the environment variable
            STREAMVLN_GYM_TOKEN holds, else none.
        insecure: listen beyond this machine without a token: whoever reaches the port can use the agent.
        constrained: hold answers to the action grammar: as many moves as a chunk has, or fewer and STOP. Otherwise they
            are as the checkpoint was published to answer, up to 64 tokens.
        device: of the network, "auto", "cpu" or "cuda".
        max_streams: robots at once; the KV cache has a row for each.
        max_message_bytes: of one message of a client.
        max_frame_pixels: of one frame, as it is declared and as it is encoded.
        max_instruction: characters of an instruction, 4000 at most.
        messages_per_second: of one client; what comes faster waits.
        resume_seconds: how long the state of a stream whose connection is lost is kept for `resume`.
        idle_seconds: a client that says nothing for so long is dropped.
        hello_seconds: time from the connection to the client's hello.
    """

    agent: str | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    token_file: Path | None = None
    insecure: bool = False
    constrained: bool = True
    device: str = "auto"
    max_streams: int = 16
    max_message_bytes: int = 8 * 2**20
    max_frame_pixels: int = 2 * 2**20
    max_instruction: int = _LONGEST_INSTRUCTION
    messages_per_second: float = 50.0
    resume_seconds: float = 60.0
    idle_seconds: float = 600.0
    hello_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie between 0 and 65535, got {self.port}")
        if self.max_message_bytes < _SMALLEST_MESSAGE:
            raise ValueError(f"max_message_bytes must be at least {_SMALLEST_MESSAGE}, got {self.max_message_bytes}")
        for name in ("max_streams", "max_frame_pixels", "max_instruction"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_instruction > _LONGEST_INSTRUCTION:
            raise ValueError(f"max_instruction must be {_LONGEST_INSTRUCTION} at most, got {self.max_instruction}")
        for name in ("messages_per_second", "resume_seconds", "idle_seconds", "hello_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
