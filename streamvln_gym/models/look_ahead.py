"""All sequences of moves that may come next, as a tree that goes through the network together with the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamvln_gym.models.decoding import with_noise

# What a node sees of the tree is a mask of 64 bits with a sign.
MOST_NODES = 62


@dataclass(frozen=True)
class MoveTree:
    """Every sequence of up to `depth` moves.

    A pass that has the tree behind its prompt says what follows each of these sequences, so it decides `depth + 1`
    actions. Node 0 is the prompt's last token; the children of node n are the nodes `moves * n + 1 + move`. Only nodes
    from 1 on take embeddings. Three moves and depth 3 take 39 embeddings, less time than reading the weights of a large
    network once more.

    Attributes:
        moves: to choose from at each place.
        depth: length of the longest sequence; 0 is no tree.

    Raises:
        ValueError: the tree has more nodes than a 64-bit mask has bits.
    """

    moves: int
    depth: int

    def __post_init__(self) -> None:
        if self.nodes > MOST_NODES:
            raise ValueError(
                f"a tree of {self.moves} moves and depth {self.depth} has {self.nodes} nodes: {MOST_NODES} at most"
            )

    @property
    def nodes(self) -> int:
        """Embeddings that the tree takes."""
        return sum(self.moves**level for level in range(1, self.depth + 1))

    def levels(self) -> list[int]:
        """(nodes,) length of the sequence that ends at each node."""
        return [level for level in range(1, self.depth + 1) for _ in range(self.moves**level)]

    def ids(self, move_ids: Sequence[int]) -> list[int]:
        """(nodes,) token of each node."""
        return [move_ids[(node - 1) % self.moves] for node in range(1, self.nodes + 1)]

    def ancestors(self) -> list[int]:
        """(nodes,) what each node sees of the tree: bit n - 1 stands for node n; itself is included."""
        masks = [0]
        for node in range(1, self.nodes + 1):
            masks.append(masks[(node - 1) // self.moves] | 1 << (node - 1))
        return masks[1:]

    def child(self, node: Tensor, move: Tensor) -> Tensor:
        """The node that follows; both int64 of one shape. Anything but a move gives a node of no meaning."""
        return self.moves * node + 1 + move


def deepest_tree(moves: int) -> int:
    """The largest depth of a tree; 0 where there are too many moves for any."""
    depth, nodes = 0, moves
    while nodes <= MOST_NODES:
        depth += 1
        nodes += moves ** (depth + 1)
    return depth


@dataclass(frozen=True)
class Walk:
    """Actions that one pass has decided.

    Attributes:
        choices: (rows, levels) int64, place of each chosen token among the allowed ones, the last being STOP.
        nodes: (rows, levels - 1) int64 the node that stands for each action but the last.
        fed: (rows,) int64 how many of these are part of the answer and were followed by another decision.
        done: (rows,) bool, STOP has come.
        seen: (rows, choices) bool, tokens that the answer has.
    """

    choices: Tensor
    nodes: Tensor
    fed: Tensor
    done: Tensor
    seen: Tensor


def walk(
    tree: MoveTree, scores: Tensor, levels: int, done: Tensor, seen: Tensor, penalty: float, drawn: bool = False
) -> Walk:
    """Decides actions from the scores at every node, without waiting for the device.

    Args:
        tree: what was looked ahead to.
        scores: (rows, 1 + nodes, moves + 1) of the allowed tokens: the moves, then STOP.
        levels: actions to decide, at most depth + 1.
        done: (rows,) bool, answers that STOP has ended before; they get STOP.
        seen: (rows, moves + 1) bool, tokens that the answer has.
        penalty: transformers' repetition penalty.
        drawn: draw the actions from the scores' softmax.
    """
    rows = torch.arange(len(scores), device=scores.device)
    node = torch.zeros_like(rows)
    fed = torch.zeros_like(rows)
    stop = tree.moves
    choices: list[Tensor] = []
    nodes: list[Tensor] = []
    for level in range(levels):
        here = scores[rows, node]
        if penalty != 1.0:
            here = torch.where(seen, torch.where(here < 0, here * penalty, here / penalty), here)
        if drawn:
            here = with_noise(here)
        choice = here.argmax(1).masked_fill(done, stop)
        seen = seen | torch.nn.functional.one_hot(choice, stop + 1).bool()
        done = done | (choice == stop)
        choices.append(choice)
        if level < levels - 1:
            fed = fed + ~done
            node = tree.child(node, choice.clamp(max=stop - 1))
            nodes.append(node)
    none = rows.new_empty((len(rows), 0))
    return Walk(torch.stack(choices, 1), torch.stack(nodes, 1) if nodes else none, fed, done, seen)
