"""Two dozen texts, half Portuguese and half English, and what a good model would answer to each question about them.

Institutions, events and long-dead historic figures only. `answer_to` is what both providers' servers say: the script's
answer where the text is one of these, whatever number stands behind it, else one invented to fit the schema.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from aitp.providers import Question
from aitp.providers.mock import fake_answer, text_of


@dataclass(frozen=True, slots=True)
class Script:
    """A text, and the answers. `people`: full name → the text's words for it."""

    language: str
    text: str
    people: dict[str, str]
    topics: tuple[str, ...]
    area: str
    severity: str


AREAS = {
    "pt": ("Saúde", "Educação", "Economia", "Política", "Meio ambiente", "Ciência e tecnologia", "Cultura"),
    "en": ("Health", "Education", "Economy", "Politics", "Environment", "Science and technology", "Culture"),
}

SCRIPTS = (
    Script("pt", "Oswaldo Cruz comandou a campanha de vacinação contra a varíola que levou à revolta de 1904 no Rio.",
           {"Oswaldo Cruz": "Oswaldo Cruz"}, ("Vacinação", "Varíola", "Revolta da Vacina"), "Saúde", "medium_2"),
    Script("en", "Edward Jenner tested his smallpox vaccine in 1796, long before anybody had seen a virus.",
           {"Edward Jenner": "Edward Jenner"}, ("Smallpox vaccine", "Virus"), "Health", "low_2"),
    Script("pt", "Circula um áudio segundo o qual água fervida com sal cura a dengue; o Ministério da Saúde nega.",
           {}, ("Dengue", "Desinformação"), "Saúde", "high_3"),
    Script("en", "A message claims that drinking bleach protects against cholera. The World Health Organization warns.",
           {}, ("Cholera", "Misinformation"), "Health", "critical"),
    Script("pt", "Santos Dumont voou com o 14-bis em Paris em 1906, três anos depois do voo dos irmãos Wright.",
           {"Alberto Santos-Dumont": "Santos Dumont"}, ("Aviação", "14-bis"), "Ciência e tecnologia", "low_1"),
    Script("en", "Ada Lovelace published the first algorithm meant for a machine, in her notes on Babbage's engine.",
           {"Ada Lovelace": "Ada Lovelace", "Charles Babbage": "Babbage"}, ("Algorithm", "Analytical Engine"),
           "Science and technology", "low_1"),
    Script("pt", "Machado de Assis fundou a Academia Brasileira de Letras e foi o seu primeiro presidente.",
           {"Machado de Assis": "Machado de Assis"}, ("Literatura", "Academia Brasileira de Letras"), "Cultura",
           "low_1"),
    Script("en", "William Shakespeare never went to university, and some doubt that he wrote all of his plays.",
           {"William Shakespeare": "William Shakespeare"}, ("Drama", "Shakespeare authorship question"), "Culture",
           "low_1"),
    Script("pt", "A Petrobras vai congelar o preço da gasolina por dez anos, garante uma corrente no WhatsApp.",
           {"Petrobras": "Petrobras"}, ("Gasolina", "Preço dos combustíveis"), "Economia", "medium_3"),
    Script("en", "A post says that the Bank of England will abolish cash on Monday and that savings are at risk.",
           {}, ("Cash", "Bank run"), "Economy", "high_1"),
    Script("pt", "A princesa Isabel assinou a Lei Áurea em 13 de maio de 1888, e o Brasil foi o último das Américas.",
           {"Isabel, Princesa Imperial do Brasil": "princesa Isabel"}, ("Lei Áurea", "Escravidão"), "Política",
           "low_2"),
    Script("en", "Abraham Lincoln wrote the Gettysburg Address on the back of an envelope while he sat in the train.",
           {"Abraham Lincoln": "Abraham Lincoln"}, ("Gettysburg Address", "American Civil War"), "Politics", "low_1"),
    Script("pt", "As urnas eletrônicas transmitem os votos pela internet durante a votação, afirma um vídeo antigo.",
           {}, ("Urna eletrônica", "Eleições"), "Política", "high_3"),
    Script("en", "The election has been moved to Wednesday in three counties, according to a fake notice on paper.",
           {}, ("Election", "Disinformation"), "Politics", "critical"),
    Script("pt", "Carlos Chagas descreveu sozinho uma doença inteira: o agente, o vetor e o ciclo da doença de Chagas.",
           {"Carlos Chagas": "Carlos Chagas"}, ("Doença de Chagas", "Parasitologia"), "Saúde", "low_2"),
    Script("en", "Florence Nightingale proved with diagrams that more soldiers died of disease than of their wounds.",
           {"Florence Nightingale": "Florence Nightingale"}, ("Nursing", "Statistics"), "Health", "low_2"),
    Script("pt", "O desmatamento na Amazônia caiu pela metade em um ano, segundo os satélites do INPE.",
           {}, ("Desmatamento", "Floresta Amazônica"), "Meio ambiente", "medium_2"),
    Script("en", "Charles Darwin changed his mind on his deathbed, a story says that his children always denied.",
           {"Charles Darwin": "Charles Darwin"}, ("Evolution", "Hoax"), "Science and technology", "low_2"),
    Script("pt", "Dom Pedro II viu o telefone de Alexander Graham Bell na Filadélfia e disse: meu Deus, isto fala!",
           {"Pedro II do Brasil": "Dom Pedro II", "Alexander Graham Bell": "Alexander Graham Bell"},
           ("Telefone", "Invenção"), "Ciência e tecnologia", "low_1"),
    Script("en", "Marie Curie's notebooks are still radioactive and lie in boxes lined with lead in a Paris library.",
           {"Marie Curie": "Marie Curie"}, ("Radioactivity", "Radium"), "Science and technology", "low_1"),
    Script("pt", "Juscelino Kubitschek prometeu cinquenta anos de progresso em cinco e inaugurou Brasília em 1960.",
           {"Juscelino Kubitschek": "Juscelino Kubitschek"}, ("Brasília", "Plano de Metas"), "Política", "low_2"),
    Script("en", "Scientists agree that the present warming of the climate is caused by people, NASA's pages say.",
           {}, ("Climate change", "Scientific consensus"), "Environment", "medium_3"),
    Script("pt", "Todas as escolas públicas vão fechar em novembro por falta de verba, diz mensagem sem fonte.",
           {}, ("Escola pública", "Orçamento público"), "Educação", "medium_3"),
    Script("en", "Finland has abolished school subjects altogether, a headline says; the curriculum still has them.",
           {}, ("Curriculum", "Education in Finland"), "Education", "low_3"),
)  # fmt: skip

_BY_TEXT = {script.text: script for script in SCRIPTS}
_NUMBER = re.compile(r" \(\d+\)$")


def script_of(text: str) -> Script | None:
    """The script for a text, with a number behind it or without."""
    return _BY_TEXT.get(_NUMBER.sub("", text))


def answer_to(question: Question, seed: str = "") -> str:
    """What a good model answers, as JSON."""
    script = script_of(text_of(question))
    answer = None if script is None else _scripted(question, script)
    return fake_answer(question, seed) if answer is None else orjson.dumps(answer).decode()


def _scripted(question: Question, script: Script) -> object:
    properties = question.schema.get("properties", {})
    if "personalities" in properties:
        return {"personalities": [_person(name, said, script) for name, said in script.people.items()]}
    if "topics" in properties:
        return {"topics": [{"name": name} for name in script.topics]}
    if "severity" in properties:
        return {"severity": script.severity}
    if {"name", "description"} == set(properties):
        options = properties["name"].get("enum", [script.area])
        return {"name": script.area if script.area in options else options[0], "description": script.area}
    return None


def _person(name: str, said: str, script: Script) -> dict[str, object]:
    context = "Citado no texto." if script.language == "pt" else "Mentioned in the text."
    return {"name": name, "mentioned_as": said, "confidence": 0.9, "context": context}
