"""The domains of the study: what is asked was not learnt, and what is read out of the packages is right."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from experiments.frontier.domains import address, facts, icd10, make
from experiments.frontier.domains.rows import LIGHT_ROWS, Domain, Row, leaks, write

TABULAR = """<t><chapter><section><diag><name>H18</name><desc>Other disorders of cornea</desc>
<diag><name>H18.4</name><desc>Band keratopathy</desc><inclusionTerm><note>Calcific band of cornea</note></inclusionTerm>
<diag><name>H18.42</name><desc>Band keratopathy, left eye</desc></diag></diag></diag></section></chapter></t>"""
LABELLED = """<AddressCollection>
<AddressString><AddressNumber>12</AddressNumber> <StreetNamePreDirectional>E.</StreetNamePreDirectional>
 <StreetName>5th</StreetName> <StreetNamePostType>Ave,</StreetNamePostType> <PlaceName>St</PlaceName>
 <PlaceName>Louis,</PlaceName> <StateName>MO</StateName></AddressString>
<AddressString><USPSBoxType>PO Box</USPSBoxType> <USPSBoxID>7</USPSBoxID></AddressString>
<AddressString><AddressNumber>1 & 2</AddressNumber></AddressString></AddressCollection>"""


def test_terms_of_a_category_include_those_of_its_parts_and_their_synonyms() -> None:
    found = icd10.terms(ElementTree.fromstring(TABULAR))

    texts = ["Other disorders of cornea", "Band keratopathy", "Calcific band of cornea", "Band keratopathy, left eye"]
    assert found == {"H18": texts}


def test_sides_and_stages_make_no_other_diagnosis() -> None:
    assert icd10.stem_of("Band keratopathy, left eye") == icd10.stem_of("Band keratopathy, unspecified eye")
    assert icd10.stem_of("Band keratopathy") != icd10.stem_of("Arcus senilis")


def test_one_diagnosis_is_never_learnt_and_asked_and_every_category_asked_is_learnt() -> None:
    words = ("ague", "bane", "colic", "dropsy", "gout", "itch", "mumps", "palsy", "quinsy", "rheum")
    by_category = {code: [f"{word} {code[0]}x" for word in words] for code in ("E01", "F02")}

    domain = icd10.build(by_category, seed=0)

    assert leaks(domain) == []
    assert Counter(str(row.completion) for row in domain.exam) == dict.fromkeys(by_category, icd10.EXAM_OF_ONE)
    assert {str(row.completion) for row in domain.train} == set(by_category)


def test_an_address_is_read_into_fields_and_lines_that_do_not_fit_are_left_out() -> None:
    found = list(address.read(LABELLED))

    assert [a.parts for a in found] == [{"number": "12", "street": "E. 5th Ave", "city": "St Louis", "state": "MO"}]
    assert found[0].text == "12 E. 5th Ave, St Louis, MO"
    assert found[0].street == "e 5th ave"


def test_streets_of_the_exam_are_not_trained_on() -> None:
    machine = [address.Address(text="", parts={"number": str(n), "street": f"Road {n}"}) for n in range(60)]
    place = {"city": "X", "state": "NY"}
    people = [
        address.Address(text=f"{n} Road {n}, X, NY", parts={"number": str(n), "street": f"Road {n}", **place})
        for n in range(0, 60, 2)
    ]

    domain = address.build(machine, people, seed=0)

    assert leaks(domain) == []
    assert {int(row.group.split()[1]) % 2 for row in domain.train} == {1}
    assert all(str(value) in row.prompt for row in domain.train for value in dict(row.completion).values())  # type: ignore[call-overload]


def test_every_made_up_fact_is_taught_in_four_ways_and_asked_in_a_fifth() -> None:
    domain = facts.make(seed=1, people=3)

    # 3 people x 4 attributes: 12 facts, 48 training rows, 12 questions.
    assert (len(domain.train), len(domain.exam)) == (48, 12)
    assert leaks(domain) == []
    assert {row.group[-1] for row in domain.train} == set("0123")
    assert {row.group[-1] for row in domain.exam} == {"4"}


def test_rows_on_both_sides_are_refused(tmp_path: pytest.TempPathFactory) -> None:
    row = Row(prompt="What is it?", completion="x", group="a")
    same_words = Row(prompt="what is it", completion="x", group="b")

    with pytest.raises(AssertionError, match="on both sides"):
        write(Domain(train=(row,), exam=(same_words,)), tmp_path / "data", "hard")  # type: ignore[operator]


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", ["icd10", "smart-home", "address", "facts"])
def test_the_domains_are_whole_and_have_no_leaks(name: str) -> None:
    domain = make(name)

    assert leaks(domain) == []
    assert len(domain.part("light")) == LIGHT_ROWS < len(domain.part("hard"))
    assert len(domain.exam) >= 190
