"""Re-walks the scene graph by an instruction's clauses alone and lists where a reader could go wrong."""

from __future__ import annotations

from collections.abc import Sequence

from streamvln_gym.flats.clauses import Clause, Standpoint, Stop, TakeDoor, Visit, doors_meant
from streamvln_gym.flats.landmarks import objects_meant
from streamvln_gym.flats.routes import entry_heading
from streamvln_gym.scene_graph import SceneGraph


def ambiguities(
    graph: SceneGraph, start: Standpoint, clauses: Sequence[Clause], last_room: int | None = None
) -> list[str]:
    """Walks as a reader would who knows the clauses and the flat but not the path.

    Args:
        graph: the flat.
        start: where and how the reader stands at first.
        clauses: in order; `PassBy` and `Orient` describe but decide nothing.
        last_room: id of the room in which the walk has to end, if that is to be checked.

    Returns:
        One sentence for the first clause that could be understood in more than one way (or in none); empty if the
        instruction is clear.
    """
    stand = start
    for clause in clauses:
        if isinstance(clause, TakeDoor):
            doors = doors_meant(graph, stand, clause)
            if len(doors) != 1:
                return [f"{len(doors)} doors of the {stand.room.type} fit {clause}"]
            room = graph.rooms[doors[0].other(stand.room.id)]
            stand = Standpoint(room, doors[0], doors[0].position, entry_heading(doors[0], room))
        elif isinstance(clause, (Visit, Stop)) and clause.object_id is not None:
            item = graph.objects[clause.object_id]
            if item.room != stand.room.id:
                return [f"the reader is in the {stand.room.type} {stand.room.id}, the {item.category} is elsewhere"]
            meant = objects_meant(graph, stand, item, clause.with_mark, clause.side)
            if [o.id for o in meant] != [item.id]:
                return [f"objects {[o.id for o in meant]} of the {stand.room.type} fit the {item.category} {item.id}"]
    if last_room is not None and stand.room.id != last_room:
        return [f"the walk ends in the {stand.room.type} {stand.room.id}, not in room {last_room}"]
    return []
