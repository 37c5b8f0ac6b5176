"""Writes the smart-home demo data: spoken commands and the JSON calls they mean, split by sentence template.

The phrasings are the English sentence templates of the package `home-assistant-intents` (Apache-2.0), read at run time
from the installed package; rooms, devices, titles and numbers are the lists below. A row is drawn by walking through
one template, so the call is known by construction, and `hassil`, the parser Home Assistant itself uses, has to read
the same call out of the sentence or the row is dropped.

A template is either in train or in exam, never in both. An exam sentence cannot be produced by any train template of
its intent, its template has at least one sibling of the same meaning in train, and every word of it apart from slot
values occurs in train under the same intent: the phrasing is new, the vocabulary is not. (An intent that
would have no exam rows by that rule would be asked for in a new word; none of these is.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

try:
    from hassil import Intents, recognize_best
    from hassil import expression as ex
    from hassil.recognize import recognize_all
    from home_assistant_intents import get_intents
except ImportError as error:
    raise SystemExit(f"make_data.py: {error}; run: pip install 'temper-llm[demo]'") from error

Value = str | int
Call = dict[str, Value]
Rules = dict[str, ex.Sentence]

SWITCH = ("area_domain", "domain_only", "name_only", "name_area")
PLACE = ("default", "area_only", "name_only")
MEANINGS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "HassTurnOn": SWITCH,
        "HassTurnOff": SWITCH,
        "HassLightSet": ("area_brightness", "area_color", "name_brightness", "name_color"),
        "HassClimateSetTemperature": ("area_temperature", "name_temperature", "temperature_only"),
        "HassClimateGetTemperature": PLACE,
        "HassFanSetSpeed": PLACE,
        "HassSetPosition": ("area_device_class", "device_class", "name_only"),
        "HassMediaNext": PLACE,
        "HassSetVolume": PLACE,
        "HassStartTimer": ("hours_only", "minutes_only", "seconds_only", "name_minutes"),
        "HassCancelTimer": ("default", "area_only", "name_only", "minutes_only"),
        "HassDecreaseTimer": ("hours_only", "minutes_only", "seconds_only"),
    }
)
"""Intent -> the slot combinations that are used; what needs a list that is not below drops out by itself."""

PERCENT = tuple(range(5, 101, 5))
LISTS: Mapping[str, Sequence[Value]] = MappingProxyType({
    "area": (
        "kitchen", "bedroom", "living room", "bathroom", "office", "hallway", "dining room", "basement", "nursery",
        "attic", "guest room", "laundry room", "playroom", "library", "workshop", "conservatory",
    ),
    **dict.fromkeys(("brightness", "volume", "position"), PERCENT),
    "fan_speed": tuple(range(10, 101, 10)),
    "temperature": tuple(range(15, 28)),
    "color": ("white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "turquoise"),
    "timer_hours": tuple(range(2, 9)),
    "timer_minutes": (2, 3, 4, 5, 7, 8, 10, 12, 15, 18, 20, 25, 30, 35, 40, 45, 50, 55),
    "timer_seconds": (5, 10, 15, 20, 30, 40, 45, 50, 75, 90),
    "timer_name": ("pizza", "pasta", "egg", "laundry", "homework", "tea", "bread", "workout", "nap", "cookie", "yoga"),
})  # fmt: skip
FORMS: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "cover_classes": {
        "blinds": "blind", "curtains": "curtain", "shades": "shade", "shutters": "shutter", "awning": "awning",
        "blind": "blind", "curtain": "curtain", "shade": "shade", "shutter": "shutter",
    },
    "on_off_states": {"on": "on", "off": "off"},
    "cover_states": {"open": "open", "closed": "closed", "shut": "closed"},
    "volume_step": {"up": "up", "increase": "up", "down": "down", "decrease": "down"},
})  # fmt: skip
"""Lists whose spoken form differs from the value in the call."""

NAMES: Mapping[str, Sequence[str]] = MappingProxyType({
    "light": ("desk lamp", "reading lamp", "floor lamp", "night light", "chandelier", "lava lamp", "string lights"),
    "switch": ("coffee maker", "space heater", "christmas tree", "humidifier", "air purifier", "kettle", "aquarium"),
    "fan": ("ceiling fan", "tower fan", "exhaust fan", "desk fan"),
    "media_player": ("tv", "radio", "soundbar", "record player", "smart speaker", "projector"),
    "cover": ("garage door", "skylight", "driveway gate", "roller door"),
    "lock": ("front door", "back door", "side door", "wall safe"),
    "climate": ("thermostat", "heat pump", "air conditioner"),
})  # fmt: skip
KEYS = (
    "intent", "name", "area", "domain", "device_class", "state", "media_class", "search_query", "item", "color",
    "brightness", "temperature", "percentage", "position", "volume_level", "volume_step", "start_hours",
    "start_minutes", "start_seconds", "hours", "minutes", "seconds",
)  # fmt: skip
"""Order of the keys in every call."""

BARE_NAME, LIGHT_AFTER_NAME = "[<the>] {name}", "{name} <light>"
"""Templates left out: a device without a verb (on or off?), and `desk lamp lamp`, as names here say what it is."""
CLUMSY = re.compile(
    r"\b(the|my|our|every|each|single) (the|my|our)\b|\b(the|my|our|there) (on|off|open|closed|shut)\b"
    r"|\b(every|each)( single| and every)? [a-z ]*(lights|lamps|fans|switches)\b|\b(at|across|around|throughout)\b"
    r"|\b(all|any|some|many)( of)? [a-z ]*(light|lamp|fan|switch|blind|curtain|shade|shutter)\b"
    r"|(lights|lamps|fans|switches|blinds|curtains|shades|shutters) is\b|(light|lamp|fan|lighting|shade|blind) are\b"
    r"|\b(is|are) (there )?(the |my |our )?(all|every|each)\b|\bare (the |my |our )?[a-z ]+ (lamp|fan|light|door)\b"
    r"|\b\d+[ -](hour|minute|second)s timer\b|\b\d+[ -](hour|minute|second)\b(?! timer)|\b\d+-(hour|minute|second)s\b"
    r"|\b\d+ (degree\b|[^a-z0-9 ])|^(shut|close|lower|raise|lift) (up|down)\b"
    r"|^bring\b|^change (?!.*\bto\b)|^turn (in|de)crease\b|volume (in|de)crease\b|^(up|down)\b"
)
"""What the optional parts of the templates allow and nobody says; a sentence that matches is drawn again."""
TRIES, LARGEST_INTENT = 60, 0.11
SPEAKER_AREA = "where the speaker stands"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One sentence template of one intent."""

    id: str
    intent: str
    meaning: str
    """Templates with the same intent, slots and kind of device share it; every exam meaning has a train sibling."""
    text: str
    sentence: ex.Sentence
    block: Mapping[str, Any]
    """Fixed slots and required context, as the package has them."""
    names: tuple[str, ...]
    """What `{name}` may be here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One command and its call."""

    prompt: str
    call: Call
    template: str
    words: frozenset[str]
    """Words of the sentence that are not slot values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a sentence: literal text, or a slot with its value."""

    text: str
    slot: str = ""
    value: Value = ""


def choices(list_name: str) -> list[tuple[str, Value]]:
    """Spoken form and value of everything a list may be."""
    if list_name in FORMS:
        return list(FORMS[list_name].items())
    return [(str(value), value) for value in LISTS[list_name]]


def read_templates(package: Mapping[str, Any]) -> tuple[list[Template], Rules]:
    """The templates of `MEANINGS` that can be filled from the lists, and the expansion rules they refer to."""
    intents = Intents.from_dict(dict(package))
    rules, templates = intents.expansion_rules, {}
    for intent, combinations in MEANINGS.items():
        for block, data in zip(package["intents"][intent]["data"], intents.intents[intent].data, strict=True):
            if block["metadata"]["slot_combination"] not in combinations:
                continue
            context = block.get("requires_context") or {}
            names = tuple(n for domain in context.get("domain", ()) for n in NAMES.get(domain, ()))
            for sentence in data.sentences:
                text = str(sentence.text)
                known = {*LISTS, *FORMS, *(["name"] if names else [])}
                if not set(sentence.list_names(rules)) <= known or text == BARE_NAME or LIGHT_AFTER_NAME in text:
                    continue
                meaning = json.dumps([intent, block["metadata"]["slot_combination"], block.get("slots"), names])
                digest = hashlib.sha256((meaning + text).encode()).hexdigest()[:6]
                templates.setdefault((intent, text, names), Template(
                    id=f"{intent}/{block['metadata']['slot_combination']}/{digest}", intent=intent, meaning=meaning,
                    text=text, sentence=sentence, block=block, names=names,
                ))  # fmt: skip
    return list(templates.values()), rules


def narrowed(package: Mapping[str, Any], templates: Sequence[Template]) -> Intents:
    """The grammar of these templates alone, with the lists of this file: what the recogniser checks rows against."""
    lists: dict[str, Any] = {
        name: {"values": [{"in": text, "out": value} for text, value in choices(name)]} for name in (*LISTS, *FORMS)
    }
    lists["name"] = {
        "values": [{"in": n, "out": n, "context": {"domain": domain}} for domain, ns in NAMES.items() for n in ns]
    }
    intents: dict[str, Any] = {}
    for template in templates:
        data = intents.setdefault(template.intent, {"data": []})["data"]
        data.append({**template.block, "sentences": [template.text]})
    return Intents.from_dict({**package, "intents": intents, "lists": lists})


def walk(expression: ex.Expression, template: Template, rules: Rules, rng: random.Random) -> list[Piece]:
    """One random sentence of an expression; of alternatives the one named first is the likeliest, as in speech."""
    if isinstance(expression, ex.TextChunk):
        return [Piece(text=expression.original_text)]
    if isinstance(expression, ex.RuleReference):
        return walk(rules[expression.rule_name].expression, template, rules, rng)
    if isinstance(expression, ex.ListReference):
        options = [(n, n) for n in template.names] if expression.list_name == "name" else choices(expression.list_name)
        text, value = rng.choice(options)
        return [Piece(text=text, slot=expression.slot_name, value=value)]
    assert isinstance(expression, ex.Group), expression
    items = list(expression.items)
    if isinstance(expression, ex.Alternative):
        optional = expression.is_optional and len(items) > 1
        weights = [1.0 / rank for rank in range(1, len(items) + (0 if optional else 1))]
        items = rng.choices(items, [*weights, sum(weights)] if optional else weights)
    elif isinstance(expression, ex.Permutation):
        rng.shuffle(items)
    return [piece for item in items for piece in walk(item, template, rules, rng)]


def draw(template: Template, rules: Rules, rng: random.Random) -> Row:
    """One random row of a template."""
    pieces = walk(template.sentence.expression, template, rules, rng)
    call: Call = {"intent": template.intent, **(template.block.get("slots") or {})}
    call |= {piece.slot: piece.value for piece in pieces if piece.slot}
    literal = " ".join("".join("\0" if p.slot else p.text for p in pieces).split())
    return Row(
        prompt=" ".join("".join(p.text for p in pieces).split()),
        call=in_order(call),
        template=template.id,
        words=frozenset(re.findall(r"[a-z']+", literal.lower())),
    )


def recognised(prompt: str, grammar: Intents) -> Call | None:
    """The call that hassil reads out of a sentence."""
    found = recognize_best(prompt, grammar, intent_context={"area": SPEAKER_AREA})
    if found is None:
        return None
    call: Call = {"intent": found.intent.name}
    call |= {name: e.value for name, e in found.entities.items() if e.value != SPEAKER_AREA}
    return in_order(call)


def in_order(call: Call) -> Call:
    """The call as it is written: keys in one order, and no domain beside a device class that implies it."""
    return {key: call[key] for key in KEYS if key in call and not (key == "domain" and "device_class" in call)}


def split(templates: Sequence[Template], rules: Rules, rng: random.Random) -> tuple[list[Template], list[Template]]:
    """Train and exam templates: at most two fifths of a meaning (one of two) go to the exam.

    Strictly first, where an exam template may need no word that train lacks; then one look at the intents left over.
    """
    train, exam = list(templates), []
    order = rng.sample(templates, len(templates))
    for strict in (True, False):
        missing = set(MEANINGS) - {t.intent for t in exam}
        for template in order:
            siblings = sum(t.meaning == template.meaning for t in templates)
            taken = sum(t.meaning == template.meaning for t in exam)
            if taken >= max(2 * siblings // 5, int(siblings > 1)) or not (strict or template.intent in missing):
                continue
            left = [t for t in train if t is not template]
            if not strict or not unknown_words([*exam, template], left, template.intent, rules):
                train, exam = left, [*exam, template]
    return train, exam


def unknown_words(exam: Sequence[Template], train: Sequence[Template], intent: str, rules: Rules) -> set[str]:
    """Words that exam templates of an intent cannot do without and that its train templates do not have."""
    needed, known = (
        [clause for t in side if t.intent == intent for clause in required(t.sentence.expression, rules)]
        for side in (exam, train)
    )
    words = {word for clause in known for word in clause}
    return {word for clause in needed if not clause & words for word in clause}


def required(expression: ex.Expression, rules: Rules) -> list[frozenset[str]]:
    """Sets of words, of each of which every sentence of an expression has one.

    As hassil's `get_required_clauses`, but of several words that an alternative cannot do without the last is taken,
    not any of them: the same data every time.
    """
    if isinstance(expression, ex.TextChunk):
        return [frozenset([word]) for word in re.findall(r"[a-z']+", expression.text.lower())]
    if isinstance(expression, ex.RuleReference):
        return required(rules[expression.rule_name].expression, rules)
    if not isinstance(expression, ex.Group) or (isinstance(expression, ex.Alternative) and expression.is_optional):
        return []
    parts = [required(item, rules) for item in expression.items]
    if not isinstance(expression, ex.Alternative):
        return [clause for part in parts for clause in part]
    return [frozenset().union(*(min(reversed(part), key=len) for part in parts))] if all(parts) else []


def stream(
    templates: Sequence[Template], rules: Rules, rng: random.Random, accept: Callable[[Row], bool]
) -> Iterator[Row]:
    """Accepted rows of one intent, its templates taking turns until none has a new sentence left."""
    alive = rng.sample(templates, len(templates))
    while alive:
        for template in tuple(alive):
            row = next((r for r in (draw(template, rules, rng) for _ in range(TRIES)) if accept(r)), None)
            if row is None:
                alive.remove(template)
            else:
                yield row


def fill(streams: Mapping[str, Iterator[Row]], weights: Mapping[str, float], total: int) -> list[Row]:
    """Rows from the streams in proportion to the weights, none above `LARGEST_INTENT`, until there are `total`."""
    rows: list[Row] = []
    taken: Counter[str] = Counter()
    open_intents = set(streams)
    while len(rows) < total and open_intents:
        intent = min(sorted(open_intents), key=lambda i: taken[i] / weights[i])
        row = next(streams[intent], None) if taken[intent] + 1 <= LARGEST_INTENT * total else None
        if row is None:
            open_intents.remove(intent)
            continue
        taken[intent] += 1
        rows.append(row)
    return rows


def make(*, train_rows: int, exam_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Both sides of the data."""
    package = get_intents("en")
    assert package is not None
    rng = random.Random(seed)
    templates, rules = read_templates(package)
    train_templates, exam_templates = split(templates, rules, rng)
    everything = narrowed(package, templates)
    calls: dict[str, Call] = {}

    def sound(row: Row) -> bool:
        if row.prompt in calls or CLUMSY.search(row.prompt) or recognised(row.prompt, everything) != row.call:
            return False
        calls[row.prompt] = row.call
        return True

    def side(chosen: Sequence[Template], total: int, accept: Callable[[Row], bool]) -> list[Row]:
        by_intent = {i: [t for t in chosen if t.intent == i] for i in MEANINGS if any(t.intent == i for t in chosen)}
        streams = {i: stream(ts, rules, rng, accept) for i, ts in by_intent.items()}
        rows = fill(streams, {i: len(ts) ** 0.5 for i, ts in by_intent.items()}, total)
        return rng.sample(rows, len(rows))

    train = side(train_templates, train_rows, sound)
    names = {t.id: t.intent for t in templates}
    words = {i: {w for r in train if names[r.template] == i for w in r.words} for i in MEANINGS}
    words = {i: ws | unknown_words(exam_templates, train_templates, i, rules) for i, ws in words.items()}
    seen = {i: narrowed(package, [t for t in train_templates if t.intent == i]) for i in MEANINGS}

    def unseen(row: Row) -> bool:
        intent = names[row.template]
        if not row.words <= words[intent]:
            return False
        context = {"area": SPEAKER_AREA}
        return next(iter(recognize_all(row.prompt, seen[intent], intent_context=context)), None) is None and sound(row)

    return train, side(exam_templates, exam_rows, unseen)


def main() -> None:
    """Writes `train.jsonl` and `exam.jsonl` and prints what is in them."""
    parser = argparse.ArgumentParser(description="Writes the smart-home demo data.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    for name, default in (("train", 1280), ("exam", 240), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    train, exam = make(train_rows=options.train, exam_rows=options.exam, seed=options.seed)
    sides = {"train": train, "exam": exam}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in sides.items():
        lines = (json.dumps({"prompt": r.prompt, "completion": r.call, "template": r.template}) + "\n" for r in rows)
        (options.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{options.out / name}.jsonl: {len(rows)} rows from {len({r.template for r in rows})} templates")
    for intent in MEANINGS:
        counts = [sum(r.call["intent"] == intent for r in rows) for rows in sides.values()]
        print(f"  {intent:28}{counts[0]:5} train{counts[1]:5} exam")


if __name__ == "__main__":
    main()
