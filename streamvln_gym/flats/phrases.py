"""The words of the instruction writer: templates and synonyms, nothing about geometry.

A template holds choices `[a|b|c]` (nested as needed; an empty choice is allowed) and slots `<name>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"<(\w+)>")


def expand(template: str, rng: np.random.Generator, slots: Mapping[str, str]) -> str:
    """Draws every choice of a template and fills its slots.

    Raises:
        KeyError: a slot has no value.
    """
    while True:
        drawn = _CHOICE.sub(lambda m: _draw(m.group(1).split("|"), rng), template)
        if drawn == template:
            break
        template = drawn
    text = _SLOT.sub(lambda m: slots[m.group(1)], template)
    return re.sub(r" +", " ", text).replace(" ,", ",").replace(" .", ".").strip()


def _draw(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def draw(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of several templates."""
    return _draw(options, rng)


ROOM_WORDS: dict[str, tuple[str, ...]] = {
    "hallway": ("hallway", "hall", "corridor", "hallway", "passage"),
    "living room": ("living room", "lounge", "sitting room", "living room"),
    "office": ("office", "study", "home office"),
    "bathroom": ("bathroom", "washroom", "bathroom"),
    "storage room": ("storage room", "storeroom", "box room"),
    "laundry room": ("laundry room", "utility room", "laundry"),
    "library": ("library", "reading room"),
    "gym": ("gym", "exercise room", "fitness room"),
    "nursery": ("nursery", "baby's room"),
    "children's room": ("children's room", "kids' room", "child's bedroom"),
    "playroom": ("playroom", "games room"),
    "music room": ("music room", "piano room"),
    "dining room": ("dining room", "dining area", "dining room"),
    "dressing room": ("dressing room", "walk-in closet"),
    "art studio": ("art studio", "studio", "painting studio"),
    "guest room": ("guest room", "spare room"),
}

OBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "aquarium": ("aquarium", "fish tank"),
    "armchair": ("armchair", "easy chair"),
    "bathtub": ("bathtub", "tub", "bath"),
    "bin": ("bin", "waste bin", "trash can", "wastebasket"),
    "bookshelf": ("bookshelf", "bookcase", "shelf full of books"),
    "box": ("box", "storage box", "crate"),
    "cabinet": ("cabinet", "cupboard"),
    "chess table": ("chess table", "chessboard"),
    "clock": ("clock", "wall clock"),
    "coat rack": ("coat rack", "coat stand", "clothes stand"),
    "coffee table": ("coffee table", "low table"),
    "computer monitor": ("computer", "monitor", "computer screen"),
    "crib": ("crib", "cot"),
    "dartboard": ("dartboard", "dart board"),
    "desk": ("desk", "writing desk"),
    "dresser": ("dresser", "chest of drawers"),
    "drum kit": ("drum kit", "drums", "drum set"),
    "dryer": ("dryer", "tumble dryer"),
    "dumbbell rack": ("dumbbell rack", "rack of dumbbells", "rack with weights"),
    "easel": ("easel", "painter's easel"),
    "exercise ball": ("exercise ball", "gym ball"),
    "exercise bike": ("exercise bike", "stationary bike"),
    "fireplace": ("fireplace", "hearth"),
    "floor lamp": ("floor lamp", "standing lamp", "tall lamp"),
    "fridge": ("fridge", "refrigerator"),
    "kitchen counter": ("kitchen counter", "counter", "worktop"),
    "laundry basket": ("laundry basket", "hamper"),
    "mirror": ("mirror", "looking glass"),
    "nightstand": ("nightstand", "bedside table"),
    "office chair": ("office chair", "desk chair", "swivel chair"),
    "picture": ("picture", "painting"),
    "plant": ("plant", "potted plant", "houseplant"),
    "play table": ("play table", "children's table"),
    "range hood": ("range hood", "extractor hood"),
    "rug": ("rug", "carpet", "mat"),
    "shelf": ("shelf", "shelving unit"),
    "shoe cabinet": ("shoe cabinet", "shoe cupboard"),
    "shower": ("shower", "shower cabin"),
    "sideboard": ("sideboard", "low cabinet"),
    "sink": ("sink", "kitchen sink"),
    "sofa": ("sofa", "couch", "sofa", "settee"),
    "speaker": ("speaker", "loudspeaker"),
    "statue": ("statue", "sculpture"),
    "stove": ("stove", "cooker", "oven"),
    "table lamp": ("table lamp", "small lamp"),
    "television": ("television", "tv", "tv set"),
    "toilet": ("toilet", "lavatory"),
    "toy blocks": ("toy blocks", "building blocks"),
    "toy chest": ("toy chest", "toy box"),
    "treadmill": ("treadmill", "running machine"),
    "tv stand": ("tv stand", "television stand"),
    "wall cabinet": ("wall cabinet", "hanging cupboard"),
    "wardrobe": ("wardrobe", "closet", "wardrobe"),
    "washbasin": ("washbasin", "basin", "handbasin"),
    "washing machine": ("washing machine", "washer"),
    "weight bench": ("weight bench", "bench press"),
}

_CONTENTS = {
    "abstract": "abstract {}",
    "boat": "{} of a boat",
    "city": "{} of a city",
    "flowers": "{} of flowers",
    "forest": "{} of a forest",
    "mountains": "{} of mountains",
    "portrait": "portrait",
    "sea": "{} of the sea",
    "sunset": "{} of a sunset",
}


def picture_noun(noun: str, content: str) -> str:
    """A picture called by what it shows: "painting of a sunset"."""
    return _CONTENTS.get(content, content + " {}").format(noun)


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen"),
)
DISTANCE: tuple[str, ...] = (
    "for [about|around|roughly|approximately|some] <metres> [metres|meters]",
    "[about|around|roughly] <metres> [metres|meters]",
)

ORIENT: dict[str, tuple[str, ...]] = {
    "around": (
        "turn around",
        "turn all the way around",
        "make a [u-turn|180 degree turn|half turn]",
        "[face the other way|about-face]",
        "turn so that you face [the opposite direction|the other way]",
        "turn around [so you face the opposite way|completely|on the spot]",
        "[spin|swing|pivot] around",
        "reverse your direction",
    ),
    "left": (
        "turn [|to your |to the ]left",
        "make a left [turn|]",
        "rotate left",
        "take a left [turn|]",
        "[face|pivot|swing] left",
    ),
    "right": (
        "turn [|to your |to the ]right",
        "make a right [turn|]",
        "rotate right",
        "take a right [turn|]",
        "[face|pivot|swing] right",
    ),
    "slightly left": ("[turn slightly|bear|veer|angle|turn a bit|turn a little] [left|to the left|to your left]",),
    "slightly right": ("[turn slightly|bear|veer|angle|turn a bit|turn a little] [right|to the right|to your right]",),
    "straight": (
        "[go|walk|head|move] [straight|forward|straight ahead]",
        "[keep|continue] straight",
        "start [off|] by [going|walking|heading] [straight|forward]",
    ),
}

LEAVE_ROOM: tuple[str, ...] = (
    "[leave|exit] <here>",
    "[walk|go|head|step|come|move] out of <here>",
    "make your way out of <here>",
    "[get|find your way|proceed|move] out of <here>",
    "[emerge|depart] from <here>",
)
LEAVE_ROOM_BY: tuple[str, ...] = (
    "[leave|exit] <here> [through|by|via|using] <door>",
    "[walk|go|head|step] out of <here> [through|by] <door>",
    "[take|use|go through|walk through] <door> [out of <here>|to leave <here>]",
    "[take|use|go through|walk through|pass through|step through] <door>",
)
LEAVE_ROOM_TO: tuple[str, ...] = (
    "[walk|go|head|step|move|cross|continue] from <here> [into|to] <there>",
    "[leave|exit] <here> [and enter|for] <there>",
    "[go|walk|head|step|move] [out|] into <there>",
    "[walk|go|head|step] out [of <here>|] [into|to] <there>",
    "[enter|head for|make for|proceed to|move on to] <there>",
    "[proceed|advance|walk over] from <here> into <there>",
)
LEAVE_ROOM_BY_TO: tuple[str, ...] = (
    "[take|use|go through|walk through|head through] <door> [into|to|leading to|that leads to] <there>",
    "[leave|exit] <here> [through|by|via] <door> and [enter|go into|step into|walk into] <there>",
    "[go|walk|head|step|pass] through <door> [into|to] <there>",
    "[enter|go into] <there> [through|by|via] <door>",
)
THROUGH_ROOM: tuple[str, ...] = (
    "[go|walk|pass|move|cut|head|keep going|continue] [straight|] through <here>",
    "[cross|traverse] <here>",
    "walk [across|through] <here>",
    "[proceed|advance|stroll] [straight|directly|] [through|across] <here>",
    "make your way [through|across] <here>",
)
HALL_TURN_ON: dict[str, tuple[str, ...]] = {
    "left": ("[turn|go|head|bear] left", "[hang|take|make] a left", "turn left [there|and walk along it|]"),
    "right": ("[turn|go|head|bear] right", "[hang|take|make] a right", "turn right [there|and walk along it|]"),
    "straight": (
        "[go|walk|continue|carry on|keep going] straight [on|ahead|down it]",
        "[follow it|walk along it|walk down it]",
    ),
}
"""The way along a hallway that the words before have just named."""
HALL_TURN: dict[str, tuple[str, ...]] = {
    "left": (
        "[turn|go|head|take a] left [in|into|down|along] <here>",
        "[turn|go|bear|hang a] left",
        "[once in|in|when you are in|upon entering|entering] <here>, [turn|go|head] left",
        "follow <here> to the left",
    ),
    "right": (
        "[turn|go|head|take a] right [in|into|down|along] <here>",
        "[turn|go|bear|hang a] right",
        "[once in|in|when you are in|upon entering|entering] <here>, [turn|go|head] right",
        "follow <here> to the right",
    ),
    "straight": (
        "[go|walk|continue|head|carry on|keep going] [straight|] [down|along] <here>",
        "[follow|walk the length of|walk down|proceed along] <here>",
        "go straight [on|ahead|] [down|along] <here>",
    ),
}
HALL_DOOR: tuple[str, ...] = (
    "[take|go through|enter|walk through|use] <door>",
    "[walk|go|continue|carry on|keep going] [until you reach|to|as far as|up to] <door> and [go through it|go in|walk in|enter]",
    "[go|turn|step|walk] [in|] through <door>",
)
HALL_DOOR_TO: tuple[str, ...] = (
    "[take|go through|walk through|use] <door> [into|to|, which leads to|that leads to] <there>",
    "[enter|go into|walk into|step into|turn into] <there> [through|by|via] <door>",
    "[walk|continue|carry on|keep going|go] [until you reach|to|as far as|up to] <door> and [enter|go into|step into] <there>",
)
HALL_TO: tuple[str, ...] = (
    "[enter|go into|walk into|turn into|step into|head into|make your way into|proceed into|slip into] <there>",
    "[walk|continue|go|keep going|carry on] [until you reach|to|up to|as far as] <there> and [go in|enter|step inside|walk in]",
)
HALL_TO_SIDE: tuple[str, ...] = (
    "[enter|go into|walk into|turn into|step into|head into] <there> [on|to] [your|the] <side>",
    "[walk|continue|go|carry on] [until you reach|to|as far as] <there> on [your|the] <side> and [go in|enter|step inside]",
    "turn <side> into <there>",
)
GO_BACK: tuple[str, ...] = (
    "[go|walk|head|come|step] back out [of <here>|] [the way you came|through the same door|]",
    "[leave|exit] <here> [again|the way you came in|by the door you came in through]",
    "turn around and [leave|exit|walk out of|go out of] <here> [again|]",
    "[return|go back|walk back|come back] [out|] [to|into] <there>",
)
ON_HALL: tuple[str, ...] = (
    "[follow|continue along|stay in] the <hall> [into its next part|as it continues|around the corner]",
    "[carry on|keep going|continue|go on] into the [other|next|second|far] part of the <hall>",
)

PASS: tuple[str, ...] = (
    "[passing|walking past|going past|moving past] <it> on [your|the] <side>",
    "[past|by] <it> on [your|the] <side>",
    "[keeping|leaving|with] <it> [on|to] your <side>",
)
PASS_CLAUSE: tuple[str, ...] = (
    "[walk|go|move|continue|head|proceed] past <it> on [your|the] <side>",
    "pass <it> on [your|the] <side>",
    "keep <it> [on|to] your <side>",
)
SEE_SENTENCE: tuple[str, ...] = (
    "You will [pass|walk past|go by|see|notice] <it> on [your|the] <side>.",
    "<It> [will be|is|should be] on [your|the] <side> [as you go|as you walk|along the way|at that point].",
    "There is <it_a> on [your|the] <side> [as you go|on the way|].",
)

VISIT: tuple[str, ...] = (
    "[walk|go|head|step] [over|up|] to <it>",
    "go [as far as|up to] <it>",
    "[visit|approach|touch|check|look at|take a look at] <it>",
    "[pause|stop briefly|halt for a moment] [at|by|next to|in front of] <it>",
)
STOP: tuple[str, ...] = (
    "[stop|wait|halt|stop and wait|come to a stop|stand still|pause there and wait] [next to|near|beside|by|close to|at] <it>",
    "[stop|wait|halt|stand] [in front of|right by|just before|alongside] <it>",
    "[walk|go|head|move|come] [over|up|] to <it> and [stop|wait|halt|stay there|stop there|wait there]",
    "[stop|halt|wait] [when you reach|once you reach|as soon as you get to|when you get to|after reaching|once you are near] <it>",
    "[your destination|the goal|the target|your goal] is <it>",
    "[end|finish] [next to|beside|by|near|at] <it>",
    "[approach|reach|find|locate|look for] <it> and [stop|wait|halt|remain there]",
    "[you are done|you have arrived|you have reached your goal] when you [are|stand] [next to|beside|in front of] <it>",
)
STOP_SIDE: tuple[str, ...] = (
    "[stop|wait|halt] [next to|near|beside|by|at] <it> on [your|the] <side>",
    "[turn|go] <side> and [stop|wait|halt] [next to|near|beside|by|at] <it>",
    "[walk|go|head] [over|up|] to <it> on [your|the] <side> and [stop|wait]",
)
STOP_MIDDLE: tuple[str, ...] = (
    "[stop|wait|halt|stand] in the [middle|centre|center] of <here>",
    "[walk|go|move] to the [middle|centre] of [the room|<here>] and [stop|wait]",
    "[stop|wait|halt] [once you are well inside|when you are in the middle of] <here>",
)
RETURN: tuple[str, ...] = (
    "[go|walk|head|make your way|come|find your way] back to [the room where you started|the room you started in|where you began|the place where you set off|the room you came from in the beginning|your starting point]",
    "return to [the room where you started|the room you started in|where you began|the place you set out from|your starting place|the room you were in at the beginning]",
    "retrace your steps to [the room where you began|where you started out|the very first room]",
    "turn back and [walk|go|head] [all the way|] to [where you started|the room you were in at first|the first room]",
)
RETURN_STOP: tuple[str, ...] = (
    "[stop|wait|halt] there",
    "stop",
    "wait [there|inside]",
    "[stop|wait] once you are [there|inside|back]",
    "",
)

OPENINGS: tuple[str, ...] = (
    "You are [standing|] in <start_a>. ",
    "You [start|begin] in <start_a>. ",
    "[Starting|Beginning] in the <start>, ",
    "From the <start>, ",
)
SENTENCE_OPENERS: tuple[str, ...] = (
    "",
    "",
    "",
    "",
    "Then ",
    "Next, ",
    "After that, ",
    "From there, ",
    "Now ",
    "Afterwards, ",
)
LAST_OPENERS: tuple[str, ...] = ("", "", "", "Finally, ", "Then ", "Lastly, ", "Eventually, ", "To finish, ")
SURROUNDINGS_START: tuple[str, ...] = (
    "You [start|begin|are standing] in <room_a> with <looks>.",
    "The [room around you|<room> you are in] has <looks>.",
)
SURROUNDINGS: tuple[str, ...] = (
    "[Now you are|You are now|You should now be] in <room_a> with <looks>.",
    "The <room> has <looks>.",
    "You will [find yourself|be] in <room_a> with <looks>.",
    "This <room> [is the one with|has] <looks>.",
)
INSIDE: tuple[str, ...] = ("Inside, ", "Once inside, ", "In there, ", "When you are inside, ", "In <here>, ")

OTHER_ROOM: tuple[str, ...] = (
    "the other <room>",
    "the second <room>",
    "the <room> [that|which] you [have not been in|have not visited|did not visit before]",
)
CUE_WALLS: tuple[str, ...] = (
    "the room [whose walls have|that has walls of|with walls of] the same colour as [the walls of the room you started in|those of the room where you started|the walls around you at the start]",
    "the room [painted in|whose walls are painted in] the [same colour as|colour of] [the room where you began|the room you set off from]",
)
CUE_OBJECT: tuple[str, ...] = (
    "the <room> [whose|where the] <shown> [has the same colour as|is the same colour as|matches the colour of] the [first <cue> you passed|<cue> you passed first|first <cue> that you walked past]",
    "the <room> with the <shown> in the [same colour as|colour of] the [first <cue> on your way|<cue> that you walked past first]",
)
