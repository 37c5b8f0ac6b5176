"""US addresses to JSON: trained on machine-labelled ones, examined on messy ones that people labelled.

Both come from the training folder of usaddress (MIT). Training rows are put together: number, street and unit from
addresses that were labelled by the rule that made them (OpenStreetMap, OpenAddresses), a place from the list below,
written in one of several styles. The exam takes people's labels as they are; its streets are left out of training.
"""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from experiments.frontier.domains.rows import Domain, Row
from temper.data import fetch

SHA256 = "f7e614e2489c159cf85be1b6f86edbfaf329dbeedef4d002a025757afd1ec6c6"
FOLDER = "usaddress-0.5.16/training"
MACHINE = ("synthetic_osm_data_xml.xml", "openaddress_us_ia_linn.xml")
PEOPLE = ("labeled.xml", "us50_train_tagged.xml", "us50_messiest_manual_label.xml")
TRAIN_ROWS, EXAM_ROWS = 520, 240
FIELDS: Mapping[str, str] = MappingProxyType({
    "AddressNumber": "number", "AddressNumberSuffix": "number",
    **dict.fromkeys(
        (
            "StreetNamePreModifier", "StreetNamePreDirectional", "StreetNamePreType", "StreetName",
            "StreetNamePostType", "StreetNamePostDirectional",
        ),
        "street",
    ),
    "OccupancyType": "unit", "OccupancyIdentifier": "unit", "PlaceName": "city", "StateName": "state", "ZipCode": "zip",
})  # fmt: skip
"""Label -> key of the answer; an address with any other label is left out."""
ORDER = ("number", "street", "unit", "city", "state", "zip")
PLACES = (
    ("Albany", "NY", "New York", "122"), ("Albuquerque", "NM", "New Mexico", "871"), ("Ames", "IA", "Iowa", "500"),
    ("Ann Arbor", "MI", "Michigan", "481"), ("Bangor", "ME", "Maine", "044"),
    ("Baton Rouge", "LA", "Louisiana", "708"), ("Bend", "OR", "Oregon", "977"), ("Boise", "ID", "Idaho", "837"),
    ("Bozeman", "MT", "Montana", "597"), ("Cedar Falls", "IA", "Iowa", "506"),
    ("Chattanooga", "TN", "Tennessee", "374"), ("Dayton", "OH", "Ohio", "454"),
    ("Durham", "NC", "North Carolina", "277"), ("El Paso", "TX", "Texas", "799"),
    ("Erie", "PA", "Pennsylvania", "165"), ("Fargo", "ND", "North Dakota", "581"),
    ("Fort Wayne", "IN", "Indiana", "468"), ("Green Bay", "WI", "Wisconsin", "543"),
    ("Gulfport", "MS", "Mississippi", "395"), ("Hartford", "CT", "Connecticut", "061"),
    ("Las Cruces", "NM", "New Mexico", "880"), ("Lincoln", "NE", "Nebraska", "685"),
    ("Little Rock", "AR", "Arkansas", "722"), ("Mobile", "AL", "Alabama", "366"),
    ("Norfolk", "VA", "Virginia", "235"), ("Provo", "UT", "Utah", "846"), ("Rapid City", "SD", "South Dakota", "577"),
    ("Reno", "NV", "Nevada", "895"), ("Rockford", "IL", "Illinois", "611"), ("Santa Rosa", "CA", "California", "954"),
    ("Savannah", "GA", "Georgia", "314"), ("Sioux Falls", "SD", "South Dakota", "571"),
    ("Spokane", "WA", "Washington", "992"), ("Springfield", "MO", "Missouri", "658"),
    ("St. Augustine", "FL", "Florida", "320"), ("Tucson", "AZ", "Arizona", "857"), ("Tulsa", "OK", "Oklahoma", "741"),
    ("Wichita", "KS", "Kansas", "672"), ("Worcester", "MA", "Massachusetts", "016"),
)  # fmt: skip
"""City, state in short and in full, and how its zip codes begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One address and its parts."""

    text: str
    parts: Mapping[str, str]

    @property
    def street(self) -> str:
        """The street as a key: what both sides must not share."""
        return " ".join(re.sub(r"[^a-z0-9 ]", " ", self.parts["street"].lower()).split())


def make(*, seed: int = 0) -> Domain:
    """Both sides."""
    archive = fetch.fetch("usaddress", "0.5.16", SHA256, kind="sdist", size=915_000)

    def of(names: Sequence[str]) -> list[Address]:
        texts = (fetch.read_member(archive, f"{FOLDER}/{name}").decode() for name in names)
        return [address for text in texts for address in read(text)]

    return build(of(MACHINE), of(PEOPLE), seed=seed)


def read(text: str) -> Iterator[Address]:
    """The addresses of a labelled file that have a number, a street and no part but those of the answer.

    A line that is no XML is passed over (the package has one).
    """
    for found in re.finditer(r"<AddressString>.*?</AddressString>", text, re.DOTALL):
        try:
            address = _address(ElementTree.fromstring(found.group()))
        except ElementTree.ParseError:
            continue
        if address is not None:
            yield address


def build(machine: Sequence[Address], people: Sequence[Address], *, seed: int) -> Domain:
    """Training rows from `machine`, one a street and place; the exam from `people`."""
    rng = random.Random(seed)
    asked = {a.text: a for a in people if len(a.parts) >= 4}
    exam = rng.sample(sorted(asked), min(EXAM_ROWS, len(asked)))
    taken = {asked[text].street for text in exam}
    by_street: dict[str, list[Address]] = {}
    for address in machine:
        if address.street not in taken:
            by_street.setdefault(address.street, []).append(address)
    streets = sorted(by_street)
    train: dict[str, Address] = {}
    while len(train) < TRAIN_ROWS:
        made = _compose(rng.choice(by_street[rng.choice(streets)]), rng)
        train.setdefault(made.text, made)
    return Domain(train=tuple(_row(a) for a in train.values()), exam=tuple(_row(asked[text]) for text in exam))


def _compose(address: Address, rng: random.Random) -> Address:
    """Its number, street and unit with a place, in one of the ways in which people write addresses."""
    city, short, full, begin = rng.choice(PLACES)
    state = short if rng.random() < 0.85 else full
    code = f"{begin}{rng.randrange(100):02d}" + (f"-{rng.randrange(10_000):04d}" if rng.random() < 0.2 else "")
    unit = address.parts.get("unit") or (_unit(rng) if rng.random() < 0.25 else "")
    parts = {"number": address.parts["number"], "street": address.parts["street"], "unit": unit, "city": city}
    parts |= {"state": state if rng.random() < 0.9 else "", "zip": code if rng.random() < 0.85 else ""}
    case = rng.choices((str, str.upper, str.lower), (0.7, 0.2, 0.1))[0]
    parts = {key: case(value) for key, value in parts.items() if value}
    line = f"{parts['number']} {parts['street']}"
    comma = ", " if rng.random() < 0.6 else " "
    end = " ".join(parts[key] for key in ("state", "zip") if key in parts)
    text = comma.join(part for part in (line, parts.get("unit", ""), parts["city"], end) if part)
    return Address(text=text, parts=parts)


def _unit(rng: random.Random) -> str:
    kind = rng.choice(("Apt", "Suite", "Ste", "Unit", "Ste.", "Room", "Floor"))
    return f"{kind} {rng.choice((str(rng.randrange(1, 900)), rng.choice('ABCDEF'), f'{rng.randrange(1, 30)}B'))}"


def _address(labelled: ElementTree.Element) -> Address | None:
    parts: dict[str, list[str]] = {}
    runs: list[str] = []
    for token in labelled:
        key, word = FIELDS.get(token.tag), (token.text or "").strip(" ,;()")
        if key is None or not word:
            return None
        if not runs or runs[-1] != key:
            runs.append(key)
        parts.setdefault(key, []).append(word)
    in_pieces = len(runs) != len(parts)
    if in_pieces or not {"number", "street"} <= parts.keys():
        return None
    text = " ".join("".join(labelled.itertext()).split())
    return Address(text=text, parts={key: " ".join(parts[key]) for key in ORDER if key in parts})


def _row(address: Address) -> Row:
    return Row(prompt=f"Address to JSON: {address.text}", completion=address.parts, group=address.street)
