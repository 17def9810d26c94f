"""The world that the demo's Wikidata knows: some forty people, institutions and topics, in Portuguese and English.

The numbers from Q990000000 up are the demo's own, all others Wikidata's; the counts are made up, but stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

HUMAN, COMPANY, NEWSPAPER = "Q5", "Q891723", "Q1153191"
NAME, FICTION, ORGANIZATION, FIELD, COUNTRY, CITY, CONCEPT = (
    *("Q101352", "Q15632617", "Q484652", "Q11862829", "Q6256", "Q515", "Q151885"),
)
OWN = 990_000_000


@dataclass(frozen=True, slots=True)
class Thing:
    """One item. Texts by language; a count of None is a property that the item does not have."""

    id: str
    classes: tuple[str, ...]
    labels: dict[str, str]
    descriptions: dict[str, str]
    aliases: dict[str, tuple[str, ...]]
    sitelinks: int
    statements: int
    links: int
    views: int | None
    followers: int | None = None
    positions: int | None = None
    awards: int | None = None


# Number, class, Portuguese name, English name, Portuguese and English description of people, other names
_PEOPLE: tuple[tuple[int, str, str, str, str, tuple[str, ...]], ...] = (
    (937, "Albert Einstein", "Albert Einstein", "físico teórico", "theoretical physicist", ("Einstein",)),
    (7186, "Marie Curie", "Marie Curie", "física e química", "physicist and chemist", ("Maria Skłodowska-Curie",)),
    (1035, "Charles Darwin", "Charles Darwin", "naturalista britânico", "British naturalist", ("Darwin",)),
    (935, "Isaac Newton", "Isaac Newton", "físico e matemático inglês", "English physicist and mathematician", ()),
    (762, "Leonardo da Vinci", "Leonardo da Vinci", "polímata italiano", "Italian polymath", ("Leonardo",)),
    (517, "Napoleão Bonaparte", "Napoleon", "imperador dos franceses", "Emperor of the French", ("Napoleão I",)),
    (91, "Abraham Lincoln", "Abraham Lincoln", "presidente dos Estados Unidos", "President of the United States", ()),
    (1001, "Mahatma Gandhi", "Mahatma Gandhi", "líder da independência da Índia", "leader of India's independence", ()),
    (8023, "Nelson Mandela", "Nelson Mandela", "presidente da África do Sul", "President of South Africa", ("Madiba",)),
    (7259, "Ada Lovelace", "Ada Lovelace", "matemática e escritora inglesa", "English mathematician and writer", ()),
    (7251, "Alan Turing", "Alan Turing", "matemático e cientista da computação", "computer scientist", ("Turing",)),
    (692, "William Shakespeare", "William Shakespeare", "dramaturgo e poeta inglês", "English playwright and poet", ()),
    (42, "Douglas Adams", "Douglas Adams", "escritor britânico", "British science fiction writer", ()),
    (311145, "Machado de Assis", "Machado de Assis", "escritor brasileiro", "Brazilian writer", ()),
    (173481, "Fernando Pessoa", "Fernando Pessoa", "poeta português", "Portuguese poet", ("Álvaro de Campos",)),
    (OWN + 1, "Santos Dumont", "Santos-Dumont", "aeronauta e inventor brasileiro", "Brazilian aviation pioneer", ()),
    (OWN + 2, "Oswaldo Cruz", "Oswaldo Cruz", "médico e sanitarista brasileiro", "Brazilian physician", ()),
    (OWN + 3, "Bertha Lutz", "Bertha Lutz", "bióloga e política brasileira", "Brazilian biologist and politician", ()),
)
_INSTITUTIONS: tuple[tuple[int, str, str, str, tuple[str, ...]], ...] = (
    (7817, ORGANIZATION, "Organização Mundial da Saúde", "World Health Organization", ("OMS", "WHO")),
    (1065, ORGANIZATION, "Organização das Nações Unidas", "United Nations", ("ONU", "UN", "Nações Unidas")),
    (7809, ORGANIZATION, "UNESCO", "UNESCO", ()),
    (95, COMPANY, "Google", "Google", ("Google LLC",)),
    (2283, COMPANY, "Microsoft", "Microsoft", ()),
    (312, COMPANY, "Apple", "Apple Inc.", ("Apple Computer",)),
    (OWN + 11, COMPANY, "Companhia das Águas Claras", "Clear Waters Company", ()),
    (OWN + 12, NEWSPAPER, "Diário do Fato", "Diário do Fato", ("O Fato",)),
    (OWN + 13, ORGANIZATION, "Tribunal Superior Eleitoral", "Superior Electoral Court", ("TSE",)),
)
_TOPICS: tuple[tuple[int, str, str, str, tuple[str, ...]], ...] = (
    (134808, CONCEPT, "vacina", "vaccine", ("vacinação", "vaccination")),
    (84263196, CONCEPT, "COVID-19", "COVID-19", ("doença por coronavírus 2019",)),
    (125928, CONCEPT, "mudança climática", "climate change", ("mudanças climáticas",)),
    (12147, CONCEPT, "saúde", "health", ("saúde pública", "public health")),
    (7163, FIELD, "política", "politics", ()),
    (8134, FIELD, "economia", "economics", ()),
    (8434, FIELD, "educação", "education", ()),
    (336, FIELD, "ciência", "science", ()),
    (40231, CONCEPT, "eleição", "election", ("eleições", "elections")),
    (7174, CONCEPT, "democracia", "democracy", ()),
    (283, CONCEPT, "água", "water", ()),
    (155, COUNTRY, "Brasil", "Brazil", ("República Federativa do Brasil",)),
    (45, COUNTRY, "Portugal", "Portugal", ()),
    (2844, CITY, "Brasília", "Brasília", ()),
    (597, CITY, "Lisboa", "Lisbon", ()),
)
_TRAPS = (
    (OWN + 21, NAME, "Einstein", "Einstein", ("sobrenome", "family name")),
    (OWN + 22, FICTION, "Napoleão", "Napoleon (pig)", ("porco de um romance", "pig in a novel")),
)


def things() -> Iterator[Thing]:
    """All of them."""
    for number, pt, en, pt_text, en_text, others in _PEOPLE:
        yield _thing(number, HUMAN, pt, en, (pt_text, en_text), others, person=True)
    for number, class_, pt, en, others in _INSTITUTIONS:
        yield _thing(number, class_, pt, en, ("instituição", "institution"), others)
    for number, class_, pt, en, others in _TOPICS:
        yield _thing(number, class_, pt, en, ("assunto", "subject"), others)
    for number, class_, pt, en, texts in _TRAPS:
        yield _thing(number, class_, pt, en, texts, ())


def strangers(count: int, first: int = OWN + 1_000) -> Iterator[Thing]:
    """People whom nobody knows, for calls about many."""
    for number in range(first, first + count):
        yield _thing(number, HUMAN, f"Fulana {number}", f"Jane Doe {number}", ("pessoa", "person"), (), person=True)


def _thing(
    number: int, class_: str, pt: str, en: str, texts: tuple[str, str], others: tuple[str, ...], person: bool = False
) -> Thing:
    dice = blake2b(str(number).encode(), digest_size=8).digest()
    known = number < OWN
    return Thing(
        f"Q{number}",
        (class_,),
        {"pt": pt, "en": en},
        dict(zip(("pt", "en"), texts, strict=True)),
        {"pt": others, "en": others},
        sitelinks=dice[0] + 1 if known else dice[0] % 3,
        statements=dice[1] + 8,
        links=dice[2] * 8 if known else dice[2] % 12,
        views=dice[3] * 500 if known else None,
        followers=dice[4] * 10_000 if person and dice[4] % 3 else None,
        positions=dice[5] % 5 + 1 if person and dice[5] % 2 else None,
        awards=dice[6] % 9 + 1 if person and dice[6] % 2 else None,
    )
