"""Regions of the floor: the watershed's, without those that are too small and with small ones merged (Recast)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamvln_gym.simulators.embedded.recast.compact import CompactField, distance_field
from streamvln_gym.simulators.embedded.recast.settings import NavMeshSettings
from streamvln_gym.simulators.embedded.recast.watershed import watershed

MAX_WALK = 40_000  # Recast gives up on longer outlines
_HUGE = 0xFFFFFFF


def build_regions(floor: CompactField, settings: NavMeshSettings) -> tuple[NDArray[np.int32], int]:
    """Region of each span, int32 (N,), 0 for none, and the number of regions."""
    distance, greatest = distance_field(floor.links, floor.walkable)
    labels, count = watershed(floor.links, floor.walkable, distance, greatest)
    regions = _describe(floor, labels, count)
    _drop_small(regions, int(np.float32(settings.region_min_size) ** 2))
    _merge_small(regions, int(np.float32(settings.region_merge_size) ** 2))
    new_numbers: dict[int, int] = {0: 0}
    for region in regions:
        new_numbers.setdefault(region.id, len(new_numbers))
    table = np.array([new_numbers[region.id] for region in regions], np.int32)
    return table[labels], len(new_numbers) - 1


@dataclass
class _Region:
    """A region on its way to the mesh.

    Attributes:
        id: its number, another region's after a merge, 0 once dropped.
        spans: its size.
        connections: regions along its outline, 0 for walls, without repetitions in a row.
        floors: regions above or below it.
        overlaps: it lies above itself.
    """

    id: int
    spans: int = 0
    connections: list[int] = field(default_factory=list)
    floors: set[int] = field(default_factory=set)
    overlaps: bool = False


def _describe(floor: CompactField, labels: NDArray[np.int32], count: int) -> list[_Region]:
    """The regions 0 to `count`, number 0 being no region."""
    spans, border, above = _survey(floor.start, floor.links, labels, count + 1)
    regions = [_Region(i, int(spans[i])) for i in range(count + 1)]
    for pair in np.unique(above).tolist():
        r, other = divmod(pair, count + 1)
        regions[r].floors.add(other)
        regions[r].overlaps |= r == other
    for r in range(1, count + 1):
        if border[r, 0] >= 0:
            regions[r].connections = _walk_around(floor.links, labels, border[r, 0], border[r, 1]).tolist()
            _drop_repetitions(regions[r].connections)
    return regions


@njit(cache=True, nogil=True)
def _survey(start, links, labels, count):
    """Sizes (count,), first border span and its direction (count, 2), pairs (K,) of regions in one column, as one
    number each: region * count + other."""
    spans, border = np.zeros(count, np.int32), np.full((count, 2), -1, np.int32)
    n = 0
    for column in range(len(start) - 1):
        n += (start[column + 1] - start[column]) * (start[column + 1] - start[column] - 1)
    above = np.empty(n, np.int64)
    n = 0
    for column in range(len(start) - 1):
        for i in range(start[column], start[column + 1]):
            r = labels[i]
            if r == 0:
                continue
            spans[r] += 1
            for j in range(start[column], start[column + 1]):
                if j != i and labels[j] != 0:
                    above[n] = np.int64(r) * count + labels[j]
                    n += 1
            if border[r, 0] < 0:
                for direction in range(4):
                    if _label_beyond(links, labels, i, direction) != r:
                        border[r, 0], border[r, 1] = i, direction
                        break
    return spans, border, above[:n]


@njit(cache=True, nogil=True)
def _label_beyond(links, labels, i, direction):
    return labels[links[i, direction]] if links[i, direction] >= 0 else 0


@njit(cache=True, nogil=True)
def _walk_around(links, labels, i, direction):
    """Regions met along the outline that begins at span i's side `direction`."""
    first, first_direction = i, direction
    current = _label_beyond(links, labels, i, direction)
    met = np.empty(MAX_WALK + 1, np.int32)
    met[0] = current
    count = 1
    for _ in range(MAX_WALK - 1):
        beyond = _label_beyond(links, labels, i, direction)
        if beyond != labels[i]:
            if beyond != current:
                current = beyond
                met[count] = current
                count += 1
            direction = (direction + 1) & 3
        else:
            i = links[i, direction]
            if i < 0:
                break
            direction = (direction + 3) & 3
        if i == first and direction == first_direction:
            break
    return met[:count].copy()


def _drop_repetitions(connections: list[int]) -> None:
    """Removes equal neighbours from a ring of numbers, in place."""
    i = 0
    while len(connections) > 1 and i < len(connections):
        if connections[i] == connections[(i + 1) % len(connections)]:
            del connections[i]
        else:
            i += 1


def _drop_small(regions: list[_Region], min_spans: int) -> None:
    """Drops groups of connected regions that are smaller together than `min_spans`."""
    visited = [False] * len(regions)
    for first in regions[1:]:
        if visited[first.id] or first.spans == 0:
            continue
        visited[first.id] = True
        waiting, group = [first], []
        while waiting:
            region = waiting.pop()
            group.append(region)
            for number in region.connections:
                if number and not visited[number]:
                    visited[number] = True
                    waiting.append(regions[number])
        if sum(region.spans for region in group) < min_spans:
            for region in group:
                region.id = region.spans = 0


def _merge_small(regions: list[_Region], merge_spans: int) -> None:
    """Merges small regions, and those that no wall bounds, into their smallest neighbour, again and again."""
    members = {region.id: [region] for region in regions[1:]}  # regions that have taken this number
    mentions: dict[int, set[int]] = {}  # indices of the regions that have this number among connections or floors
    for index, region in enumerate(regions):
        for number in region.floors.union(region.connections):
            mentions.setdefault(number, set()).add(index)
    merged = True
    while merged:
        merged = False
        for region in regions[1:]:
            if region.id == 0 or region.overlaps or region.spans == 0:
                continue
            if region.spans > merge_spans and 0 in region.connections:
                continue
            target = _merge_target(regions, region)
            if target is None or target is region or not _join(target, region):
                continue
            merged = True
            old, new = region.id, target.id
            for member in members.pop(old, []):
                member.id = new
                members[new].append(member)
            for index in mentions.pop(old, set()):
                _rename(regions[index], old, new)
                mentions.setdefault(new, set()).add(index)
            for number in target.floors.union(target.connections):
                mentions.setdefault(number, set()).add(new)


def _merge_target(regions: list[_Region], region: _Region) -> _Region | None:
    """The smallest neighbour that a region can be merged into, or None."""
    smallest, target = _HUGE, None
    for number in region.connections:
        other = regions[number]
        if other.id == 0 or other.overlaps or other.spans >= smallest:
            continue
        if _can_merge(region, other) and _can_merge(other, region):
            smallest, target = other.spans, other
    return target


def _can_merge(region: _Region, other: _Region) -> bool:
    """Whether the two touch along one stretch only and do not lie above each other."""
    return region.connections.count(other.id) <= 1 and other.id not in region.floors


def _join(target: _Region, region: _Region) -> bool:
    """Takes `region` into `target`, joining their rings of neighbours; False if they do not touch."""
    if region.id not in target.connections or target.id not in region.connections:
        return False
    a, b = target.connections.index(region.id), region.connections.index(target.id)
    target.connections = (
        target.connections[a + 1 :] + target.connections[:a] + region.connections[b + 1 :] + region.connections[:b]
    )
    _drop_repetitions(target.connections)
    target.floors |= region.floors
    target.spans += region.spans
    region.spans = 0
    region.connections = []
    return True


def _rename(region: _Region, old: int, new: int) -> None:
    """Replaces a number among a region's neighbours and floors."""
    if region.id == 0:
        return
    if old in region.connections:
        region.connections = [new if number == old else number for number in region.connections]
        _drop_repetitions(region.connections)
    if old in region.floors:
        region.floors.remove(old)
        region.floors.add(new)
