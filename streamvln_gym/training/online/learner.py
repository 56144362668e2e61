"""One update of online DAgger: the loss of a batch of episodes, and the optimizer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional

from streamvln_gym.models.configuration_streamvln import IGNORE_LABEL
from streamvln_gym.models.modeling_streamvln import StreamVLNForConditionalGeneration
from streamvln_gym.training.auxiliary import AuxiliaryHeads
from streamvln_gym.training.muon import Muon
from streamvln_gym.training.online.batches import BatchPlan, WindowRows
from streamvln_gym.training.online.config import OptimizeConfig, ReinforceConfig, TeachConfig
from streamvln_gym.training.online.forward import FrameTokens, answer_states, compile_layers, to_pixels
from streamvln_gym.training.online.layout import DialogueLayout
from streamvln_gym.training.online.mirroring import mirror_patches, mirror_pictures, mirror_pose
from streamvln_gym.training.online.reinforce import PARTS, ChunkDecisions, Experience, ValueHead, proximal_loss
from streamvln_gym.training.online.replay import FrameBuffer
from streamvln_gym.training.online.teachers import Teachers, divergence
from streamvln_gym.training.privileged import AuxiliaryConfig

_PARTS = ("action_loss", "accuracy", "vision_loss", "pose_loss")


class Learner:
    """The network that is trained, its averaged copy, auxiliary heads and optimizer.

    Args:
        model: the network, on the training device.
        layout: of its dialogue.
        config: how to learn.
        auxiliary: weights of the auxiliary losses.
        reinforce: learning from success.
        teach: learning from the answers of several networks.
        taught_by: those of them that do not change.

    Attributes:
        value: what free streams expect to earn; None if there are none.
        average: exponential average of the weights; what is evaluated and saved.
        updates: optimizer steps taken.
        learning_rate: of the last one.
        recorded: whether a batch runs from a recorded CUDA graph.
    """

    def __init__(
        self,
        model: StreamVLNForConditionalGeneration,
        layout: DialogueLayout,
        config: OptimizeConfig,
        auxiliary: AuxiliaryConfig,
        reinforce: ReinforceConfig | None = None,
        teach: TeachConfig | None = None,
        taught_by: Sequence[StreamVLNForConditionalGeneration] = (),
    ) -> None:
        self.model = model
        self.layout = layout
        self.config = config
        self.auxiliary = auxiliary
        self.device = model.lm_head.weight.device
        self.heads = AuxiliaryHeads(model.config).to(self.device)
        self.reinforce = reinforce if reinforce is not None and reinforce.wanted else None
        hidden = model.config.text_config.hidden_size
        informed = self.reinforce is not None and self.reinforce.informed_value
        self.value = None if self.reinforce is None else ValueHead(hidden, informed).to(self.device)
        self._policy_scale = torch.ones((), device=self.device)
        self._heads_scale = torch.ones((), device=self.device)  # of the heads' gradient where it enters the network
        self._experience: Experience | None = None
        taught = ("teacher_divergence",) if teach is not None and teach.wanted else ()
        self._names = ("loss", *_PARTS, *(PARTS if self.reinforce else ()), *taught, "gradient_norm")
        self.average = copy.deepcopy(model).eval()
        self._teachers: Teachers | None = None
        if teach is not None and teach.wanted:
            moving = [self.average] if teach.average else []
            self._teachers = Teachers(taught_by, moving, layout, teach, config.compiled_on(self.device.type))
        self.updates = self._resumed_at = 0
        self.learning_rate = 0.0
        heads = [self.heads] if self.value is None else [self.heads, self.value]
        self._untried = [p for head in heads for p in head.parameters()]
        self._trained: list[nn.Parameter] = [*model.parameters(), *self._untried]
        self.optimizers = self._make_optimizers()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._statistics: list[Tensor] = []
        self._filled: list[float] = []
        cuda = self.device.type == "cuda"
        self.recorded = cuda if config.record is None else config.record
        if config.compiled_on(self.device.type):
            compile_layers(model)

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the network, AdamW for embeddings, heads, norms and biases.

        On a fixed buffer of 96,000 frames, Muon was after 150 updates where AdamW was after more than 200.
        """
        config, model = self.config, self.model
        inside = (model.vision_tower.encoder, model.projector, model.language_model.layers)
        matrices = [p for part in inside for p in part.parameters() if p.ndim == 2]
        taken = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in taken]
        muon = Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay)
        adam = torch.optim.AdamW(
            [
                {"params": [p for p in part if (p.ndim > 1) == decayed], "weight_decay": decay, "scale": scale}
                for part, scale in ((others, 1.0), (self._untried, config.head_rate))
                for decayed, decay in ((True, config.weight_decay), (False, 0.0))
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=self.device.type == "cuda",
        )
        return [muon, adam]

    def plan(
        self, buffer: FrameBuffer, drawn: NDArray[np.int64], longest: int, experience: Experience | None = None
    ) -> None:
        """Suits the batches' shapes to the episodes; call before the first update, and now and then.

        Args:
            buffer: what is learned from.
            drawn: rows of the buffer's table, some hundreds as `update` is given them.
            longest: tokens of an instruction at most.
            experience: what free streams did and earned.
        """
        config = self.config
        self._experience = experience
        reflected = self._teachers is not None and self._teachers.mirrored
        self._plan = BatchPlan.for_buffer(
            buffer, self.layout, drawn, config.frames_per_update, longest, config.mirrored, reflected
        )
        self._buffer = buffer
        self._packed = torch.zeros(self._plan.size, dtype=torch.int64, device=self.device)
        self._graph = None

    def update(self, episodes: NDArray[np.int64], rng: np.random.Generator, decayed: float | None = None) -> None:
        """One optimizer step.

        Args:
            episodes: rows of the buffer's table, in the order in which they are taken until the batch is full.
            rng: draws what is random in the batch.
            decayed: share of the learning rate's decay that is over, in a call that goes by the clock and warms up
                anew; default: as the configuration says.
        """
        if self.reinforce is not None:
            self._policy_scale.fill_(float(self.updates >= self.reinforce.value_updates))
        self._heads_scale.fill_(float(self.updates >= self.config.head_updates))
        packed = torch.from_numpy(self._plan.fill(episodes, self._buffer, self.layout, rng))
        self._filled.append(int(packed[0]) / self._plan.frames)
        self._packed.copy_(packed.pin_memory() if self.device.type == "cuda" else packed, non_blocking=True)
        if self.recorded:
            if self._graph is None:
                self._record()
            assert self._graph is not None
            self._graph.replay()
        else:
            self._differentiate()
        self._reduce_gradients()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        # The heads apart, whose gradients are many times as large at first; where theirs is no number, that shows too.
        norm = norm + 0.0 * nn.utils.clip_grad_norm_(self._untried, self.config.clip)
        begun = 0 if decayed is None else self._resumed_at
        self.learning_rate = self.config.rate(self.updates - begun, decayed)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * group.get("scale", 1.0)
            optimizer.step()
        self.updates += 1
        decay = min(self.config.ema, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1.0 - decay)
        self._statistics.append(torch.cat([self._outputs, norm.detach()[None]]))

    def _record(self) -> None:
        """Records the network's work on a batch as a CUDA graph: thousands of launches become one."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # kernels are compiled and memory is found before
                self._differentiate()
        torch.cuda.current_stream().wait_stream(stream)
        self._forget_gradients()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads (NCCL's) may use the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._differentiate(keep=True)

    def _differentiate(self, keep: bool = False) -> None:
        """Loss and gradients of the packed batch; `keep` leaves the gradients' memory as it is."""
        self.model.train()
        if not keep:
            self._forget_gradients()
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda, cache_enabled=False):
            loss, parts = self.loss(self._packed)
        loss.backward()
        self._outputs = torch.stack([loss.detach(), *parts])

    def _forget_gradients(self) -> None:
        for parameter in self._trained:
            parameter.grad = None

    @property
    def last_update(self) -> tuple[float, float]:
        """Loss and norm of the gradient of the last update, 0 before the first; waits for the device.

        The gradient is that of all processes of a distributed training, so its norm is the same in each of them.
        """
        if not self._statistics:
            return 0.0, 0.0
        last = dict(zip(self._names, self._statistics[-1].tolist(), strict=True))
        return last["loss"], last["gradient_norm"]

    def statistics(self) -> dict[str, float]:
        """Means since the last call, with the share of the batches' frames that was used; waits for the device."""
        if not self._statistics:
            return {}
        means = torch.stack(self._statistics).mean(0).tolist()
        filled = sum(self._filled) / len(self._filled)
        self._statistics.clear()
        self._filled.clear()
        return {**dict(zip(self._names, means, strict=True)), "filled": filled}

    def state(self) -> dict[str, Any]:
        """Everything that an interrupted training goes on from."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "updates": self.updates,
        }
        return state if self.value is None else {**state, "value": self.value.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.heads.load_state_dict(state["heads"])
        if self.value is not None:
            self.value.load_state_dict(state["value"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.updates = self._resumed_at = int(state["updates"])

    def loss(self, packed: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch that `BatchPlan.fill` packed, and its parts for the log."""
        model, buffer = self.model, self._buffer
        shown, windows = self._plan.gather(packed, buffer, self.layout)
        places, mirrored = shown.places, shown.mirrored
        taught = [] if self._teachers is None else self._teachers.log_probs(packed, self._plan, buffer)
        rgb = mirror_pictures(buffer.rgb[places], mirrored)
        features = model.vision_tower(pixel_values=to_pixels(rgb, torch.float32)).last_hidden_state
        tokens = FrameTokens.of(model, self.layout, model.projector(features))
        zero = torch.zeros((), device=self.device)
        action_sum, weight_sum, right, answered = zero, zero, zero, zero
        decisions: list[tuple[Tensor, Tensor]] = []
        chunks: list[ChunkDecisions] = []
        moves: list[Tensor] = []
        for rows in windows:
            hidden = answer_states(model, self.layout, rows, tokens)
            learned = rows.labels != IGNORE_LABEL
            logits = model.lm_head(hidden).float()
            losses = functional.cross_entropy(
                logits.flatten(0, 2), rows.labels.flatten(), ignore_index=IGNORE_LABEL, reduction="none"
            ).view(rows.labels.shape)
            weights = learned * (1.0 + rows.stops * (self.config.stop_weight - 1.0))
            if self.reinforce is not None or self._teachers is not None:
                moves.append(logits[..., :-1, :][..., self.layout.action_ids].log_softmax(-1))
            if self.reinforce is not None:
                chunks.append(self._judge(rows, moves[-1], hidden, places))
            action_sum = action_sum + (losses * weights).sum()
            weight_sum = weight_sum + weights.sum()
            acts = learned & (rows.labels != self.layout.end_id)
            right = right + ((logits.argmax(-1) == rows.labels) & acts).sum()
            answered = answered + acts.sum()
            decisions.append((hidden[:, :, 0].flatten(0, 1), rows.current.flatten()))
        action = action_sum / weight_sum.clamp(min=1.0)
        vision = pose = zero
        if self.auxiliary.vision > 0.0:
            patch_class = mirror_patches(buffer.patch_class[places], mirrored)
            patch_depth = mirror_patches(buffer.patch_depth[places], mirrored)
            seen = _scale_gradient(features, self._heads_scale)
            vision = self.heads.vision_loss(seen, patch_class, patch_depth, shown.counted)
        if self.auxiliary.pose > 0.0:
            states = _scale_gradient(torch.cat([states for states, _ in decisions]), self._heads_scale)
            frames = torch.cat([frames for _, frames in decisions])
            chosen = frames.clamp(min=0)
            ring = places[chosen]
            pose_targets = mirror_pose(buffer.pose[ring], mirrored[chosen])
            pose = self.heads.pose_loss(states, pose_targets, buffer.rooms[ring], (frames >= 0).float())
        labels_weight = 1.0 if self.reinforce is None else self.reinforce.labels_weight
        loss = labels_weight * action + self.auxiliary.vision * vision + self.auxiliary.pose * pose
        accuracy = (right / answered.clamp(min=1)).detach()
        parts = [action.detach(), accuracy, vision.detach(), pose.detach()]
        if self.reinforce is not None:
            assert self._experience is not None
            fields = zip(*(vars(chunk).values() for chunk in chunks), strict=True)
            joined = ChunkDecisions(*(torch.cat(field) for field in fields))
            reinforced, logged = proximal_loss(joined, self._experience, self.reinforce, self._policy_scale)
            loss, parts = loss + reinforced, parts + logged
        if self._teachers is not None:
            apart = divergence(moves, taught, [rows.windows.executed >= 0 for rows in windows])
            loss, parts = loss + self._teachers.weight * apart, [*parts, apart.detach()]
        return loss, parts

    def _judge(self, rows: WindowRows, moves: Tensor, hidden: Tensor, places: Tensor) -> ChunkDecisions:
        """How likely the executed chunks are now, and what is expected, window after window."""
        assert self.value is not None
        executed = rows.windows.executed.flatten(0, 1)
        drawn = executed >= 0
        scores = moves.flatten(0, 1)
        chosen = scores.gather(-1, executed.clamp(min=0)[..., None])[..., 0]
        entropies = -(scores.exp() * scores).sum(-1)
        current = rows.current.flatten()
        ring = places[current.clamp(min=0)]
        states = _scale_gradient(hidden[:, :, 0].flatten(0, 1), self._heads_scale)
        return ChunkDecisions(
            log_probs=(chosen * drawn).sum(-1),
            entropies=(entropies * drawn).sum(-1) / drawn.sum(-1).clamp(min=1),
            values=self.value(states, self._buffer.pose[ring]),
            places=ring,
            present=current >= 0,
            drawn=drawn,
        )

    def _reduce_gradients(self) -> None:
        """Averages the gradients over the processes of a distributed training."""
        if not distributed.is_initialized():
            return
        gradients = [p.grad for p in self._trained if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])


def _scale_gradient(x: Tensor, scale: Tensor) -> Tensor:
    """`x`, whose gradient will be `scale` times as large; a tensor, for a recorded graph reads it each time."""
    return x.detach() + scale * (x - x.detach())
