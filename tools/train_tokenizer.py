"""Trains the small tokenizer that ships with the package, in the folder of its checkpoint.

A byte-level BPE on the instructions of generated flats (train) and on navigation sentences that this script makes up:
any text round-trips, the words of instructions are mostly one token each, and so are the dialogue's markers and its
fixed sentences, which every prompt repeats.

    python tools/train_tokenizer.py
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from streamvln_gym.flats.dataset import FlatsDataset
from streamvln_gym.models.dialogue import (
    CONJUNCTIONS,
    MEMORY_PROMPTS,
    SYSTEM_PROMPT,
    TURN_END,
    TURN_START,
    USER_PROMPT,
)
from streamvln_gym.models.shipped import SHIPPED_FOLDER

VOCAB_SIZE = 1344
FLATS = 60
REPEATS = 60  # of a flat's instructions, so that their words weigh as much as the made-up ones'
SENTENCES = 60_000
PADDING = "<|endoftext|>"
ACTIONS = ["↑", "←", "→", "STOP"]
OPENING, CLOSING = USER_PROMPT.split("<instruction>.")
PHRASES = [
    f"system\n{SYSTEM_PROMPT}",
    f"user\n{OPENING}",
    CLOSING,
    *(text.partition("<memory>")[0] for text in MEMORY_PROMPTS.values()),
    *CONJUNCTIONS,
    *(f" {conjunction}" for conjunction in CONJUNCTIONS),
    "user\n",
    "assistant\n",
]
"""The dialogue's fixed sentences, each between two markers, frames or the instruction."""
# Words with their leading space, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def words(text: str) -> list[str]:
    return text.split(",")


ROOMS = words(
    "bedroom,bathroom,kitchen,living room,dining room,hallway,corridor,office,study,laundry room,lounge,library,"
    "entrance,entryway,foyer,gym,garage,balcony,closet,walk-in closet,pantry,nursery,playroom,guest room,toilet,"
    "staircase,stairs,landing,patio,porch,family room,master bedroom,storage room,utility room,sitting area,room"
)
OBJECTS = words(
    "sofa,couch,chair,armchair,table,dining table,coffee table,side table,bed,nightstand,wardrobe,dresser,desk,"
    "bookshelf,shelf,shelves,cabinet,counter,sink,fridge,refrigerator,oven,stove,microwave,dishwasher,bathtub,shower,"
    "mirror,toilet,washing machine,dryer,lamp,plant,painting,picture,rug,carpet,curtain,window,fireplace,television,"
    "tv stand,tv,piano,bench,stool,box,basket,clock,vase,statue,door,doorway,double doors,glass door,archway,arch,"
    "wall,column,pillar,railing,treadmill,shoe cabinet,sideboard,island,pool table,cushion,pillow,ottoman,computer,"
    "exit,opening,step,steps,floor,corner,end"
)
COLOURS = words("red,blue,green,yellow,white,black,brown,grey,gray,orange,purple,pink,beige,wooden,dark,light,teal")
ORDINALS = words("first,second,third,fourth,fifth,last,next,other,nearest")
NUMBERS = words("one,two,three,four,five,six")
TEMPLATES = (
    "{leave} the {room}",
    "{leave} the {room} {through} the {colour} {object}",
    "{go} {direction} the {room}",
    "{go} {direction} the {room} and turn {side}",
    "turn {side}",
    "turn {turn} {side} {at} the {object}",
    "turn around and {go} back to the {room}",
    "make a {side} at the {object}",
    "{pass} the {colour} {object} on your {side}",
    "keeping the {object} on the {side}",
    "take the {ordinal} door on the {side}",
    "enter the {ordinal} {room} on your {side}",
    "{go} straight until you {reach} the {colour} {object}",
    "you will see a {colour} {object} {near} the {object}",
    "{stop} {near} the {colour} {object}",
    "{stop} {near} the {object} in the {room}",
    "{stop} when you {reach} the {room}",
    "then {go} {number} metres and {stop}",
    "go back to the room where you started",
    "stop by the {object} with the colour of the {object} that you passed {ordinal}",
    "the {room} is {near} the {room}, so {go} {direction} it",
)
SLOTS = {
    "room": ROOMS,
    "object": OBJECTS,
    "colour": [*COLOURS, "", "", "large", "small", "big", "little", "long", "round", "tall", "open"],
    "side": ["left", "right"],
    "ordinal": ORDINALS,
    "number": NUMBERS,
    "turn": ["", "slightly", "sharply", "to the", "to your", "hard"],
    "leave": ["leave", "exit", "walk out of", "go out of", "head out of", "step out of", "start in", "from"],
    "through": ["through", "by", "via", "using"],
    "go": ["go", "walk", "head", "move", "continue", "proceed", "keep going", "walk straight", "go straight ahead"],
    "direction": ["through", "across", "into", "past", "toward", "towards", "along", "down", "up", "over to", "around"],
    "at": ["at", "before", "after", "past", "between", "near", "once you reach", "when you see"],
    "pass": ["pass", "walk past", "go past", "pass by", "walk between", "go around", "walk along"],
    "reach": ["reach", "get to", "see", "are near", "come to", "arrive at", "enter", "are facing", "have passed"],
    "stop": ["stop", "wait", "halt", "stand", "stop and wait", "pause", "finish", "stop there", "wait there", "end"],
    "near": ["near", "next to", "beside", "in front of", "by", "close to", "at", "behind", "on", "under", "inside",
             "outside", "opposite", "between", "just past", "to the left of", "to the right of"],
}  # fmt: skip
JOINTS = [", ", ". ", ", then ", " and ", " and then ", ". Then ", ". Next, ", "; ", ". Finally, ", " until you "]


def sentence(rng: random.Random) -> str:
    """One made-up instruction of one to six clauses."""
    text = ""
    for _ in range(rng.randint(1, 6)):
        clause = rng.choice(TEMPLATES)
        for slot, choices in SLOTS.items():
            while "{" + slot + "}" in clause:
                clause = clause.replace("{" + slot + "}", rng.choice(choices), 1)
        clause = " ".join(clause.split())
        joint = rng.choice(JOINTS) if text else ""
        text += joint + (clause.capitalize() if not text or joint == ". " else clause)
    return text + "."


def corpus(seed: int = 0) -> Iterator[str]:
    """Instructions of flats, made-up ones, and now and then the dialogue's own sentences."""
    rng = random.Random(seed)
    flats = FlatsDataset("train", scenes=FLATS)
    flats.build()
    texts = [flats.episode(episode_id).instruction.text for episode_id in flats.episode_ids]
    for _ in range(REPEATS):
        yield from texts
    for index in range(SENTENCES):
        yield sentence(rng)
        if index % 10 == 0:
            yield USER_PROMPT.replace("<instruction>", "").replace("STOP", "")
            yield f"system\n{SYSTEM_PROMPT}\nuser\n{rng.choice(CONJUNCTIONS)}.\nassistant\n"
            yield from (text.replace("<memory>", "") for text in MEMORY_PROMPTS.values())
            yield from " ".join(sorted(rng.sample(ROOMS + OBJECTS + COLOURS + ORDINALS + NUMBERS, 20))).title().split()


def train() -> PreTrainedTokenizerFast:
    """Trains the tokenizer; the same script always gives the same file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PADDING, TURN_START, TURN_END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(ACTIONS) - len(PHRASES),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*ACTIONS, *PHRASES)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PADDING,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def main() -> None:
    tokenizer = train()
    for word in (*ACTIONS, TURN_START, TURN_END, *PHRASES, "\n"):
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            raise SystemExit(f"{word!r} is no single token: {ids}; put it into the corpus more often")
    tokenizer.save_pretrained(str(SHIPPED_FOLDER))
    print(f"{len(tokenizer)} tokens in {SHIPPED_FOLDER}: the weights beside it have to be trained anew")


if __name__ == "__main__":
    main()
