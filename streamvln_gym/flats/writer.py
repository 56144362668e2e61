"""Puts an instruction's clauses into words."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from streamvln_gym.flats import phrases
from streamvln_gym.flats.ambiguity import ambiguities
from streamvln_gym.flats.clauses import (
    HALLWAY,
    Clause,
    Cue,
    Orient,
    PassBy,
    ReturnToStart,
    Standpoint,
    Stop,
    TakeDoor,
    Visit,
)
from streamvln_gym.flats.composer import STYLES, Style, compose
from streamvln_gym.flats.files import MAX_INSTRUCTION_LENGTH
from streamvln_gym.flats.landmarks import needs_mark
from streamvln_gym.flats.phrases import draw, expand
from streamvln_gym.flats.routes import Leg
from streamvln_gym.flats.task import Task
from streamvln_gym.scene_graph import Door, Room, SceneGraph, SceneObject

_TRIES = 6


@dataclass(frozen=True)
class Written:
    """An instruction: its text, what it claims, and the style it is written in."""

    text: str
    clauses: tuple[Clause, ...]
    style: str


def write_instructions(
    graph: SceneGraph, task: Task, count: int, rng: np.random.Generator, seen: Container[int] | None = None
) -> list[Written] | None:
    """Writes `count` different instructions for one task, in turn terse, plain and detailed.

    Args:
        graph: the flat.
        task: what is asked.
        count: how many instructions.
        rng: draws contents and words.
        seen: ids of the objects that come into sight on the way, the only ones to tell it by; None: all.

    Returns:
        None if one of them cannot be written without ambiguity.
    """
    if seen is None:
        seen = range(len(graph.objects))
    order = rng.permutation(len(STYLES))
    written: list[Written] = []
    for k in range(count):
        style = STYLES[order[k % len(STYLES)]]
        instruction = _write_one(graph, task, style, rng, {w.text for w in written}, seen)
        if instruction is None:
            return None
        written.append(instruction)
    return written


def _write_one(
    graph: SceneGraph, task: Task, style: Style, rng: np.random.Generator, taken: set[str], seen: Container[int]
) -> Written | None:
    start = Standpoint.of_leg(task.route.legs[0])
    for _ in range(_TRIES):
        told = compose(graph, task, style, rng, seen)
        if told is None:
            return None
        clauses = tuple(clause for leg in told for clause in leg)
        if ambiguities(graph, start, clauses, task.route.legs[task.told_legs - 1].room.id):
            continue
        text = _Voice(graph, task, style, rng).tell(told)
        if text not in taken and len(text) <= MAX_INSTRUCTION_LENGTH:
            return Written(text, clauses, style.name)
    return None


@dataclass
class _Step:
    """A piece of a sentence: an imperative in lower case, or (`whole`) a sentence of its own."""

    text: str
    whole: bool = False
    opens: bool = False  # starts a new sentence


class _Voice:
    """One author: keeps to one word for a room and an object, and to one style, through one instruction."""

    def __init__(self, graph: SceneGraph, task: Task, style: Style, rng: np.random.Generator) -> None:
        self._graph = graph
        self._task = task
        self._style = style
        self._rng = rng
        self._room_words: dict[str, str] = {}
        self._object_words: dict[str, str] = {}
        self._named_leg = -1  # the leg whose room the words before have just named

    def tell(self, told: Sequence[Sequence[Clause]]) -> str:
        """The text of all legs."""
        opening = self._opening()
        steps: list[_Step] = []
        for index, clauses in enumerate(told):
            steps += self._leg(index, clauses, opening)
        text = self._join(steps)
        if opening.endswith(", ") and self._room(self._task.route.legs[0].room.type) in text.split(".")[0]:
            return text  # not "From the kitchen, leave the kitchen"
        return opening + (_lower(text) if opening.endswith(", ") else text)

    # ------------------------------------------------------------------------------------------------------ nouns

    def _room(self, room_type: str) -> str:
        if room_type not in self._room_words:
            self._room_words[room_type] = draw(phrases.ROOM_WORDS.get(room_type, (room_type,)), self._rng)
        return self._room_words[room_type]

    def _the_room(self, room: Room, index: int) -> str:
        """The room of leg `index`; an unnamed start is "the room"."""
        if index == 0 and self._start_is_secret:
            return draw(("the room", "this room"), self._rng)
        return f"the {self._room(room.type)}"

    @property
    def _start_is_secret(self) -> bool:
        return self._task.kind == "return"

    def _noun(self, item: SceneObject, with_mark: bool) -> str:
        if item.category not in self._object_words:
            words = phrases.OBJECT_WORDS.get(item.category, (item.category,))
            self._object_words[item.category] = draw(words, self._rng)
        noun = self._object_words[item.category]
        if item.category == "picture":
            return phrases.picture_noun(noun, item.material) if with_mark and item.material else noun
        adjectives = []
        if with_mark and item.colour is not None:
            adjectives.append(item.colour)
        if item.material is not None and self._rng.random() < self._style.colour * 0.5:
            adjectives.append(item.material)
        return " ".join([*adjectives, noun])

    def _the(self, object_id: int, with_mark: bool) -> str:
        return f"the {self._noun(self._graph.objects[object_id], with_mark)}"

    def _door_noun(self, claim: TakeDoor, door: Door, room: Room) -> str | None:
        """A noun phrase for a door told by side, number, place or frame; None if only the room behind it is told."""
        rng = self._rng
        word = "archway" if door.kind == "archway" else draw(("door", "door", "doorway"), rng)
        if claim.frame is not None and word != "archway":
            word = draw((f"{claim.frame} {word}", f"{word} with the {claim.frame} frame"), rng)
        if claim.at_end:
            hall = self._room(room.type)
            end = draw(
                (f"at the end of the {hall}", f"at the far end of the {hall}", f"at the end of this {hall}"), rng
            )
            return f"the {word} {end}"
        if claim.ordinal is not None and claim.side is not None:
            number = phrases.ORDINALS[claim.ordinal - 1]
            return expand(f"the {number} {word} on [your|the] <side>", rng, {"side": claim.side})
        beside = None
        if claim.beside is not None:
            item = self._graph.objects[claim.beside]
            words = (
                ("next to", "beside", "near") if claim.side == "right" else ("next to", "beside", "right by", "near")
            )
            beside = f"{draw(words, rng)} {self._the(item.id, needs_mark(self._graph, item))}"
        place = None
        if claim.side == "ahead":
            place = draw(("straight ahead", "in front of you", "ahead of you", "directly opposite"), rng)
        elif claim.side is not None:
            place = expand("[on|to] [your|the] <side>", rng, {"side": claim.side})
        if beside is None and place is None:
            return f"the {word}" if claim.frame is not None else None
        return " ".join(part for part in (f"the {word}", place, beside) if part)

    # ----------------------------------------------------------------------------------------------------- sentences

    def _opening(self) -> str:
        if self._style.name == "terse" or self._start_is_secret or self._rng.random() > 0.2:
            return ""
        room = self._room(self._task.route.legs[0].room.type)
        article = "an" if room[0] in "aeiou" else "a"
        return (
            expand(draw(phrases.OPENINGS, self._rng), self._rng, {"start": room, "start_a": f"{article} {room}"}) + " "
        )

    def _join(self, steps: Sequence[_Step]) -> str:
        """Groups the pieces into sentences."""
        longest = {"terse": 4, "plain": 2, "detailed": 2}[self._style.name]
        sentences: list[str] = []
        group: list[str] = []

        def close(last: bool = False) -> None:
            if group:
                openers = phrases.LAST_OPENERS if last and len(group) == 1 else phrases.SENTENCE_OPENERS
                openers = tuple(o for o in openers if not o or not any(s.startswith(o) for s in sentences))
                if group[0].startswith(_FINISHING):
                    openers = tuple(o for o in openers if o != "To finish, ")
                opener = draw(openers, self._rng) if sentences and not group[0].startswith(_NO_OPENER) else ""
                sentences.append(_capitalised(opener + self._conjoin(group)) + ".")
                group.clear()

        for k, step in enumerate(steps):
            last = k == len(steps) - 1
            if step.whole:
                close()
                sentences.append(_capitalised(step.text))
                continue
            if step.opens or len(group) >= longest or (group and self._rng.random() < 0.3 and not last):
                close()
            group.append(step.text)
        close(last=True)
        return " ".join(sentences)

    def _conjoin(self, parts: Sequence[str]) -> str:
        text = parts[0]
        for k, part in enumerate(parts[1:], start=1):
            if k == len(parts) - 1:
                joiner = draw((", then ", " and ", ", and then ", " and then "), self._rng)
            else:
                joiner = draw((", ", ", then "), self._rng)
            if " and " in part and joiner == " and ":
                joiner = ", then "
            text += joiner + part
        return text

    # ---------------------------------------------------------------------------------------------------------- legs

    def _leg(self, index: int, clauses: Sequence[Clause], opening: str) -> list[_Step]:
        leg = self._task.route.legs[index]
        steps: list[_Step] = [] if index == 0 and opening else self._surroundings(index, leg)
        passes = [c for c in clauses if isinstance(c, PassBy)]
        for clause in clauses:
            if isinstance(clause, Orient):
                steps.append(_Step(expand(draw(phrases.ORIENT[clause.turn], self._rng), self._rng, {})))
            elif isinstance(clause, Visit):
                steps += self._passed(passes, steps)
                passes = []
                steps.append(self._visit(clause))
            elif isinstance(clause, TakeDoor):
                steps += self._door(index, leg, clause, passes, index in self._task.visits)
                passes = []
            elif isinstance(clause, Stop):
                steps += self._passed(passes, steps)
                steps.append(self._stop(clause, leg))
            elif isinstance(clause, ReturnToStart):
                steps.append(
                    _Step(expand(draw(phrases.RETURN, self._rng), self._rng, {}), opens=self._rng.random() < 0.5)
                )
                stop = expand(draw(phrases.RETURN_STOP, self._rng), self._rng, {})
                steps += [_Step(stop)] if stop else []
        return steps

    def _surroundings(self, index: int, leg: Leg) -> list[_Step]:
        """A detailed author now and then says what the room looks like (not where looks must be remembered)."""
        if self._style.name != "detailed" or self._task.kind is not None or leg.room.type == HALLWAY:
            return []
        if self._rng.random() > 0.22:
            return []
        room = f"{self._room(leg.room.type)}"
        looks = f"{leg.room.wall_colour} walls and a {leg.room.floor} floor"
        article = "an" if room[0] in "aeiou" else "a"
        templates = phrases.SURROUNDINGS_START if index == 0 else phrases.SURROUNDINGS
        text = expand(
            draw(templates, self._rng), self._rng, {"room": room, "room_a": f"{article} {room}", "looks": looks}
        )
        return [_Step(text, whole=True)]

    def _passed(self, passes: Sequence[PassBy], before: list[_Step]) -> list[_Step]:
        """Landmarks told on their own (no walk through the room to hang them on)."""
        steps = []
        for clause in passes:
            slots = self._pass_slots(clause)
            if self._style.name == "detailed" and self._rng.random() < 0.35 and before:
                steps.append(_Step(expand(draw(phrases.SEE_SENTENCE, self._rng), self._rng, slots), whole=True))
            else:
                steps.append(_Step(expand(draw(phrases.PASS_CLAUSE, self._rng), self._rng, slots)))
        return steps

    def _pass_slots(self, clause: PassBy) -> dict[str, str]:
        noun = self._noun(self._graph.objects[clause.object_id], clause.with_mark)
        article = "an" if noun[0] in "aeiou" else "a"
        return {"it": f"the {noun}", "It": f"The {noun}", "it_a": f"{article} {noun}", "side": clause.side}

    def _with_passes(self, text: str, passes: Sequence[PassBy]) -> list[_Step]:
        """Hangs the first landmark on the walk (", passing the sofa on your left"), tells the others on their own."""
        if not passes:
            return [_Step(text)]
        slots = self._pass_slots(passes[0])
        hung = f"{text}, {expand(draw(phrases.PASS, self._rng), self._rng, slots)}"
        return [_Step(hung), *self._passed(passes[1:], [_Step(hung)])]

    def _visit(self, clause: Visit) -> _Step:
        it = self._the(clause.object_id, clause.with_mark)
        if clause.side is not None:
            it += f" on the {clause.side}"
        return _Step(expand(draw(phrases.VISIT, self._rng), self._rng, {"it": it}))

    def _stop(self, clause: Stop, leg: Leg) -> _Step:
        rng = self._rng
        named = self._task.kind is None  # else the room's type may be what tells it from the others
        here = f"the {self._room(leg.room.type)}" if named else "the room"
        if clause.object_id is None:
            return _Step(expand(draw(phrases.STOP_MIDDLE, rng), rng, {"here": here}))
        slots = {"it": self._the(clause.object_id, clause.with_mark), "side": clause.side or "", "here": here}
        templates = phrases.STOP if clause.side is None else phrases.STOP_SIDE
        text = expand(draw(templates, rng), rng, slots)
        if named and rng.random() < 0.12:
            text += f" in {here}"
        opens = text.startswith(_DECLARATIVE)
        if not opens and rng.random() < 0.12:
            text = _lower(expand(draw(phrases.INSIDE, rng), rng, slots)) + " " + text
            opens = True
        return _Step(text, opens=opens)

    def _door(self, index: int, leg: Leg, claim: TakeDoor, passes: Sequence[PassBy], visited: bool) -> list[_Step]:
        assert leg.exit is not None
        rng = self._rng
        just_named = self._named_leg == index
        self._named_leg = index + 1 if claim.to_type is not None else -1
        behind = self._graph.rooms[leg.exit.other(leg.room.id)]
        slots = {
            "here": self._the_room(leg.room, index),
            "there": f"the {self._room(behind.type)}",
            "hall": self._room(HALLWAY),
            "side": claim.side or "",
        }
        if claim.back:
            return [*self._passed(passes, []), _Step(expand(draw(phrases.GO_BACK, rng), rng, slots))]
        if claim.other_than is not None:
            slots["there"] = expand(draw(phrases.OTHER_ROOM, rng), rng, {"room": self._room(behind.type)})
            return [*self._passed(passes, []), _Step(expand(draw(phrases.HALL_TO, rng), rng, slots))]
        noun = self._door_noun(claim, leg.exit, leg.room)
        if noun is not None:
            slots["door"] = noun
        if leg.room.type == HALLWAY:
            return self._hall_door(leg, claim, passes, behind, slots, just_named)
        if visited or index == 0 or rng.random() < (0.7 if passes or self._style.name == "detailed" else 0.25):
            here = "it" if just_named and rng.random() < 0.6 else slots["here"]
            through = {**slots, "here": here}
            walk = expand(draw(phrases.THROUGH_ROOM, rng), rng, through) if index and not visited else None
        else:
            walk = None
        if walk is None:
            text = self._leave(claim, slots, noun)
            return self._with_passes(text, passes) if passes else [_Step(text)]
        return [*self._with_passes(walk, passes), _Step(self._go_in(claim, slots, noun))]

    def _leave(self, claim: TakeDoor, slots: dict[str, str], noun: str | None) -> str:
        if noun is None:
            templates = phrases.LEAVE_ROOM if claim.only or claim.to_type is None else phrases.LEAVE_ROOM_TO
        else:
            templates = phrases.LEAVE_ROOM_BY if claim.to_type is None else phrases.LEAVE_ROOM_BY_TO
        return expand(draw(templates, self._rng), self._rng, slots)

    def _go_in(self, claim: TakeDoor, slots: dict[str, str], noun: str | None) -> str:
        if noun is None:
            return expand(draw(phrases.HALL_TO if claim.to_type else phrases.LEAVE_ROOM, self._rng), self._rng, slots)
        templates = phrases.HALL_DOOR_TO if claim.to_type else phrases.HALL_DOOR
        return expand(draw(templates, self._rng), self._rng, slots)

    def _hall_door(
        self,
        leg: Leg,
        claim: TakeDoor,
        passes: Sequence[PassBy],
        behind: Room,
        slots: dict[str, str],
        just_named: bool,
    ) -> list[_Step]:
        rng = self._rng
        steps: list[_Step] = []
        if claim.walk is not None:
            turns = phrases.HALL_TURN_ON if just_named else phrases.HALL_TURN
            walk = expand(draw(turns[claim.walk], rng), rng, slots) + self._distance(leg)
            steps += self._with_passes(walk, passes)
        else:
            steps += self._passed(passes, [])
        if claim.cue is not None:
            slots["there"] = self._cue_room(claim.cue, behind)
            return [*steps, _Step(expand("[enter|go into|walk into|step into|find] <there>", rng, slots))]
        if behind.type == HALLWAY:
            return [*steps, _Step(expand(draw(phrases.ON_HALL, rng), rng, slots))]
        if "door" in slots:
            if claim.ordinal is None and claim.to_type is not None and claim.side in ("left", "right"):
                return [*steps, _Step(expand(draw(phrases.HALL_TO_SIDE, rng), rng, slots))]
            templates = phrases.HALL_DOOR_TO if claim.to_type else phrases.HALL_DOOR
            return [*steps, _Step(expand(draw(templates, rng), rng, slots))]
        return [*steps, _Step(expand(draw(phrases.HALL_TO, rng), rng, slots))]

    def _distance(self, leg: Leg) -> str:
        """How far to go along a hallway, now and then (not where doors must be counted)."""
        metres = round(len(leg.points) * 0.1)
        if self._task.kind is not None or not 2 <= metres < len(phrases.NUMBERS) or self._rng.random() > 0.3:
            return ""
        return " " + expand(draw(phrases.DISTANCE, self._rng), self._rng, {"metres": phrases.NUMBERS[metres]})

    def _cue_room(self, cue: Cue, room: Room) -> str:
        if cue.kind == "start_walls":
            return expand(draw(phrases.CUE_WALLS, self._rng), self._rng, {})
        assert cue.object_id is not None
        shown = "walls" if cue.shown_by == "walls" else self._category_word(cue.shown_by)
        slots = {
            "room": self._room(room.type),
            "shown": shown,
            "cue": self._category_word(self._graph.objects[cue.object_id].category),
        }
        return expand(draw(phrases.CUE_OBJECT, self._rng), self._rng, slots)

    def _category_word(self, category: str) -> str:
        if category not in self._object_words:
            self._object_words[category] = draw(phrases.OBJECT_WORDS.get(category, (category,)), self._rng)
        return self._object_words[category]


_DECLARATIVE = ("your destination", "the goal", "the target", "your goal", "you are done", "you have")
_FINISHING = ("finish", "end")
_NO_OPENER = (*_DECLARATIVE, "once", "upon", "when", "in ", "inside", "entering")


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
