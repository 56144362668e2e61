"""StreamVLN as an actor-critic policy of stable-baselines3."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from streamvln_gym.agents.streamvln import StreamVLNAgent
from streamvln_gym.errors import TrainingError
from streamvln_gym.models.dialogue import SYSTEM_PROMPT, TURN_END, TURN_START
from streamvln_gym.models.memory_strategies import make_strategy
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.models.saving import changed
from streamvln_gym.rl.chunk_distribution import STOP, choose, chosen_before, chunk_log_probs, penalise
from streamvln_gym.rl.dialogue_cache import DialogueCache
from streamvln_gym.rl.embedding import Context, ContextEmbedder, vision_parameters
from streamvln_gym.rl.layout import ContextLayout, read_layout
from streamvln_gym.rl.network import prepare_network, write_adapter
from streamvln_gym.rl.optimizer import ScaledRates
from streamvln_gym.rl.shared_windows import SharedWindows
from streamvln_gym.training.adapters import write_context
from streamvln_gym.training.config import LoraSettings, Part
from streamvln_gym.wrappers import PAD

LANGUAGE: tuple[Part, ...] = ("language",)


class StreamVLNActorCriticPolicy(ActorCriticPolicy):
    """Actor: the checkpoint's own action tokens. Critic: a small head on the state that decides the first of them.

    The log-probability of a chunk is the sum of the log-probabilities of its tokens, each after those before it, up to
    and with STOP; each token is one of the four actions, as in the agent's constrained decoding. Greedy, it does what
    `StreamVLNAgent` does.

        agent = StreamVLNAgent.from_pretrained(folder)
        flats = partial(VLNEnv, "flats", split="train", sensors=("rgb", "instruction"))
        envs = make_vec_env(lambda: SlowFastObservation(flats(), agent.processor), 4)
        policy = {"checkpoint": folder, "lora": {"rank": 16}}
        ppo = PPO(StreamVLNActorCriticPolicy, envs, learning_rate=1e-5, n_steps=64, n_epochs=3, policy_kwargs=policy)
        ppo.learn(100_000)
        ppo.policy.save_checkpoint("finetuned")  # StreamVLNAgent.from_pretrained("finetuned")

    Args:
        observation_space: of `SlowFastObservation` (or `PooledFeatures` around it).
        action_space: `MultiDiscrete([4] * chunk_size)`.
        lr_schedule: learning rate, given by the algorithm.
        use_sde: not supported; the algorithm passes it.
        checkpoint: folder or hub id as of `StreamVLNAgent.from_pretrained`; None means the package's own.
        parts: of the network that learn: "vision", "projector", "language".
        lora: learn adapters in these parts, and nothing else of the network; None learns their weights.
        adapter: folder of an adapter to go on from (with `lora`), see `save_adapter`.
        memory_strategy: in place of the checkpoint's.
        dtype: of the network: "float32", "bfloat16" (saves memory where only adapters learn), or "auto", as stored. The
            value head always is float32.
        value_hidden: width of the value head.
        value_gradient: let the value's error change the network, and not only the value head.
        value_lr_scale: learning rate of the value head, as a multiple of the network's.
        share_windows: evaluate decisions of one window in one sequence where a minibatch holds several of them.
        gradient_checkpointing: less memory for a third more time in training.
        optimizer_class: of torch; gets two groups, the actor's weights and the value head's.
        optimizer_kwargs: its further arguments.
        normalize_images: must stay False: the network normalises its pictures itself.

    Attributes:
        layout: the observation's sizes.
        processor: pictures, tokenizer and actions of the checkpoint.
        rates: the optimizer's learning rates, see `ScaledRates`.

    Raises:
        CheckpointError: the checkpoint cannot be read, or the adapter is not one of it.
        ValueError: the spaces do not fit the checkpoint, or the settings each other.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Any,
        use_sde: bool = False,
        *,
        checkpoint: str | Path | None = None,
        parts: Collection[Part] = LANGUAGE,
        lora: LoraSettings | Mapping[str, Any] | None = None,
        adapter: str | Path | None = None,
        memory_strategy: str | None = None,
        dtype: str = "float32",
        value_hidden: int = 256,
        value_gradient: bool = False,
        value_lr_scale: float = 100.0,
        share_windows: bool = True,
        gradient_checkpointing: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = False,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde explores with Gaussian noise, which tokens cannot have: leave it False")
        if normalize_images:
            raise ValueError("normalize_images must be False: StreamVLN normalises its pictures itself")
        self._arguments: dict[str, Any] = {
            "checkpoint": checkpoint,
            "parts": parts if isinstance(parts, str) else tuple(parts),
            "lora": lora,
            "adapter": adapter,
            "memory_strategy": memory_strategy,
            "dtype": dtype,
            "value_hidden": value_hidden,
            "value_gradient": value_gradient,
            "value_lr_scale": value_lr_scale,
            "share_windows": share_windows,
            "gradient_checkpointing": gradient_checkpointing,
        }
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            ortho_init=False,
            normalize_images=False,
            optimizer_class=optimizer_class,
            optimizer_kwargs=dict(optimizer_kwargs or {}),
        )

    def _build(self, lr_schedule: Any) -> None:
        """Network, value head and optimizer."""
        given = self._arguments
        ready = prepare_network(given["checkpoint"], given["parts"], given["lora"], given["adapter"], given["dtype"])
        self.processor = ready.processor
        config = self.processor.config
        strategy = make_strategy(given["memory_strategy"] or config.memory_strategy)
        side, pooled = config.image_size, (config.tokens_per_frame, config.text_config.hidden_size)
        self.layout: ContextLayout = read_layout(
            self.observation_space, _chunk_length(self.action_space, config.chunk_size), (side, side, 3), pooled
        )
        if bool(self.layout.num_history) and not strategy.shows_memory:
            raise ValueError(
                "the observation holds history frames, but memory_strategy='none' shows none: pass the same"
            )
        if self.layout.features and type(strategy).__name__ not in ("PooledMemory", "NoMemory"):
            raise ValueError("pooled features are what the memory strategy 'pooled' shows; use pictures for others")
        self.trunk = ready.trunk
        self._adapted = ready.adapted
        self._fingerprint = ready.fingerprint
        if given["gradient_checkpointing"]:
            renamed = getattr(self.network, "activation_checkpointing_enable", None)  # by transformers 5.17
            (renamed or self.network.gradient_checkpointing_enable)()
            self.network.enable_input_require_grads()
        hidden = config.text_config.hidden_size
        last = nn.Linear(given["value_hidden"], 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.value_head = nn.Sequential(nn.Linear(hidden, given["value_hidden"]), nn.Tanh(), last)
        self.embedder = ContextEmbedder(self.network, strategy, self.layout)
        self.dialogues = DialogueCache(self.embedder)
        self._action_ids: Tensor
        self._opening: Tensor
        ids = torch.tensor(self.processor.action_ids)
        self.register_buffer("_action_ids", ids, persistent=False)
        encode = self.processor.tokenizer.encode
        opening = encode(f"{TURN_START}system\n{SYSTEM_PROMPT}{TURN_END}", add_special_tokens=False)
        self.register_buffer("_opening", torch.tensor(opening), persistent=False)
        self._check_frozen()
        learned = [weight for weight in self.network.parameters() if weight.requires_grad]
        groups = [{"params": learned}, {"params": list(self.value_head.parameters())}]
        self.optimizer = self.optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.rates = ScaledRates(self.optimizer, (1.0, given["value_lr_scale"]))

    @property
    def network(self) -> StreamVLNForConditionalGeneration:
        """StreamVLN; with adapters in its layers, where there are any."""
        return self.trunk.base_model.model if self._adapted else self.trunk

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Decides for a rollout; no gradients.

        Row i of consecutive calls should be the same environment: what its window has in common with the last call's
        is not computed again (and everything is, where it differs).

        Args:
            obs: the observation's tensors.
            deterministic: the best action at each place, as the agent does; otherwise drawn.

        Returns:
            actions (batch, chunk) int64, filled up with STOP; values (batch, 1); log-probabilities (batch,).

        Raises:
            ValueError: the observation was made with another tokenizer.
            TrainingError: the network's output is not finite.
        """
        context = self._context(obs)
        with torch.no_grad():
            hidden = self.dialogues.prefill(context)
            values = self._value(hidden)
            actions, scores = self._decide(hidden, deterministic)
            log_prob, _ = chunk_log_probs(scores, actions)
        if not bool(torch.isfinite(log_prob).all() & torch.isfinite(values).all()):
            raise TrainingError(
                "the network's output is NaN or infinite: its weights are broken; go back to the last good checkpoint "
                "and lower the learning rate"
            )
        return actions, values, log_prob

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-probabilities and entropies of chunks, in one pass over the batch.

        Args:
            obs: the observation's tensors.
            actions: (batch, chunk).

        Returns:
            (batch, 1), (batch,), (batch,); the entropy as in `chunk_log_probs`.

        Raises:
            ValueError: the actions are no chunks of this policy's, or the observation is another tokenizer's.
        """
        self._check_frozen()
        context = self._context(obs)
        actions = self._checked(actions, len(context))
        hidden = self._deciding_states(context, actions)
        scores = penalise(self._scores(hidden), chosen_before(actions), self._penalty)
        log_prob, entropy = chunk_log_probs(scores, actions)
        return self._value(hidden[:, 0]), log_prob, entropy

    def predict_values(self, obs: Any) -> Tensor:
        """(batch, 1) values."""
        context = self._context(obs)
        embeddings, lengths = self.embedder.embed(
            context.dialogue, context, context.window_shown, context.history_shown
        )
        output = self._run(embeddings)
        return self._value(output[torch.arange(len(context), device=output.device), lengths - 1])

    def get_distribution(self, obs: Any) -> Any:
        """Not to be had: each action's distribution depends on the actions before it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "a chunk's actions depend on each other, so there is no distribution apart from the actions: use forward() "
            "to draw them and evaluate_actions() for their log-probability and entropy"
        )

    def agent(self, **settings: Any) -> StreamVLNAgent:
        """A streaming agent that shares this policy's weights, and is shown what this policy is.

        Args:
            **settings: fields of `StreamVLNAgentConfig`. What the observation does not tell has to be repeated:
                `prompt_style`, `memory_prompt` and `conjunctions`, where `SlowFastObservation` was given them.
        """
        self.set_training_mode(False)
        return StreamVLNAgent(self.network, self.processor, **{**self._shown_context, **settings})

    def save_checkpoint(self, folder: str | Path) -> None:
        """Writes the actor as a StreamVLN checkpoint, adapters merged, which `StreamVLNAgent.from_pretrained` reads.

        Its configuration has the memory and the window that the policy was shown; what the observation does not tell
        (see `agent`) is not in it.
        """
        network = self.network
        if self._adapted:
            merged: StreamVLNForConditionalGeneration = copy.deepcopy(self.trunk).merge_and_unload()
            network = merged
        with changed(network.config, **self._shown_context, trained=True):
            network.save_pretrained(str(folder))
        self.processor.save_pretrained(folder)

    def set_training_mode(self, mode: bool) -> None:
        """As in stable-baselines3; training frees the rollout's keys and values, and the next rollout a held actor."""
        if mode:
            self.dialogues.clear()
        else:
            self.rates.actor_held = False
        super().set_training_mode(mode)

    def load_from_vector(self, vector: NDArray[Any]) -> None:
        """As in stable-baselines3."""
        self.dialogues.clear()  # weights that are written so do not count as changed
        super().load_from_vector(vector)

    def save_adapter(self, folder: str | Path) -> None:
        """Writes the adapters alone, which weights they belong to, and with which memory and window they were trained.

        Raises:
            ValueError: the policy has none.
        """
        if not self._adapted:
            raise ValueError("this policy has no adapters: pass lora= to it, or use save_checkpoint")
        write_adapter(self.trunk, folder, self._fingerprint)
        with changed(self.network.config, **self._shown_context):
            write_context(self.network.config, Path(folder))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self._arguments,
        }

    @property
    def _shown_context(self) -> dict[str, Any]:
        """Memory and window as the observation holds them, in the configuration's terms."""
        config, chunk = self.processor.config, self.layout.chunk_size
        turns = self.layout.turns
        return {
            "memory_strategy": self._arguments["memory_strategy"] or config.memory_strategy,
            "num_history": self.layout.num_history,
            "window_steps": config.window_steps if turns == -(-config.window_steps // chunk) else turns * chunk,
        }

    @property
    def _penalty(self) -> float:
        return float(getattr(self.network.generation_config, "repetition_penalty", None) or 1.0)

    def _context(self, obs: Mapping[str, Tensor]) -> Context:
        if obs["dialogue"].is_floating_point():
            raise ValueError(
                "the observation's ids are no whole numbers: something normalises them. VecNormalize(envs, "
                "norm_obs=False) leaves observations as they are"
            )
        context = Context.read(obs, self.layout)
        opening = context.dialogue[:, : len(self._opening)]
        size = self.processor.config.text_config.vocab_size
        if opening.shape[1] < len(self._opening) or bool(
            (opening != self._opening).any() | (context.dialogue >= size).any()
        ):
            raise ValueError(
                "the observation's dialogue does not begin as this checkpoint's tokenizer writes it: make it with "
                "SlowFastObservation(env, agent.processor) of the same checkpoint, and leave out what changes it "
                "afterwards, such as VecFrameStack"
            )
        return context

    def _decide(self, hidden: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
        """Actions (batch, chunk), and the scores (batch, chunk, 4) that decided them."""
        rows, chunk = len(hidden), self.layout.chunk_size
        actions = torch.full((rows, chunk), STOP, device=hidden.device)
        scores = torch.zeros(rows, chunk, 4, device=hidden.device)
        going = torch.arange(rows, device=hidden.device)
        for place in range(chunk):
            before = torch.nn.functional.one_hot(actions[going, :place], 4).sum(1) > 0
            now = penalise(self._scores(hidden), before, self._penalty)
            scores[going, place] = now
            chosen = choose(now.nan_to_num(0.0), deterministic)
            actions[going, place] = chosen
            moving = chosen != STOP
            going = going[moving]
            if place + 1 == chunk or not len(going):
                break
            hidden = self.dialogues.feed(self._action_ids[chosen[moving]], going)
        return actions, scores

    def _deciding_states(self, context: Context, actions: Tensor) -> Tensor:
        """(batch, chunk, hidden): the language model's output from which each action's token is chosen."""
        chunk = self.layout.chunk_size
        shared = SharedWindows.find(context, self._action_ids[actions]) if self._arguments["share_windows"] else None
        rows = torch.arange(len(context), device=actions.device) if shared is None else shared.longest
        part = context if shared is None else context.rows(rows)
        # The dialogue, and the chunk's tokens behind it but for the last, which decides nothing.
        ids = torch.nn.functional.pad(part.dialogue, (0, chunk), value=PAD)
        places = part.lengths[:, None] + torch.arange(chunk - 1, device=ids.device)
        ids = ids.scatter(1, places, self._action_ids[actions[rows, : chunk - 1]])
        embeddings, lengths = self.embedder.embed(ids, part, part.window_shown, part.history_shown)
        output = self._run(embeddings)
        ends = lengths - (chunk - 1)
        if shared is None:
            first = ends - 1
            owner = rows
        else:
            first, owner = ends[shared.group] - shared.distance(self.embedder.tokens_per_frame) - 1, shared.group
        steps = first[:, None] + torch.arange(chunk, device=ids.device)
        return output[owner[:, None], steps]

    def _run(self, embeddings: Tensor) -> Tensor:
        """(batch, length, hidden); padding is behind a row's end, where causal attention does not see it."""
        return self.network.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state

    def _scores(self, hidden: Tensor) -> Tensor:
        """(..., hidden) to (..., 4) logits of the action tokens, float32."""
        return self.network.lm_head(hidden)[..., self._action_ids].float()

    def _value(self, hidden: Tensor) -> Tensor:
        state = hidden if self._arguments["value_gradient"] else hidden.detach()
        return self.value_head(state.float())

    def _checked(self, actions: Tensor, rows: int) -> Tensor:
        expected = (rows, self.layout.chunk_size)
        if tuple(actions.shape) != expected:
            raise ValueError(f"actions must have shape {expected}, one chunk per row, got {tuple(actions.shape)}")
        actions = actions.long()
        if bool(((actions < 0) | (actions > 3)).any()):
            raise ValueError("actions must lie in 0..3 (STOP, FORWARD, LEFT, RIGHT)")
        return actions

    def _check_frozen(self) -> None:
        if self.layout.features and any(weight.requires_grad for weight in vision_parameters(self.network)):
            raise ValueError(
                "the observation holds pooled features, but vision tower or projector learn, so that the features in "
                "the rollout buffer are not those of the present weights: leave PooledFeatures out (pictures go into "
                "the buffer then), or learn parts=('language',) only"
            )


def _chunk_length(space: spaces.Space, chunk_size: int) -> int:
    """`chunk_size`, where the action space has it.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(space, spaces.MultiDiscrete) or space.nvec.ndim != 1 or not (space.nvec == 4).all():
        raise ValueError(
            f"the action space must be MultiDiscrete([4] * {chunk_size}), one chunk, got {space}: wrap the environment "
            "in SlowFastObservation"
        )
    if len(space.nvec) != chunk_size:
        raise ValueError(
            f"the environment takes chunks of {len(space.nvec)} actions, but this checkpoint decides {chunk_size}: "
            "wrap the environment in SlowFastObservation with this checkpoint's processor"
        )
    return chunk_size
