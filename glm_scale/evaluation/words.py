"""Words, names and sentences that texts are made of where no data are at hand."""

from __future__ import annotations

from random import Random

__all__ = ["ADJECTIVES", "NAMES", "NOUNS", "paragraph"]


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


NOUNS = _listed(
    """
    apple arrow badge basin beacon bell blanket boat bottle branch brick bridge bronze brush bucket butter
    button cabin cable candle canvas carpet castle chain chalk cherry circle clay clock cloud coat coin copper
    coral corn cotton cradle crown crystal cup curtain desk diamond dish door drum eagle engine falcon feather
    fence field fire flag flour flower forest fork fountain fox garden garlic gate glass glove gold grain hammer
    harbor hat hill honey horn horse house island ivory jacket jar jewel kettle key kite knife ladder lake lamp
    lantern leaf lemon letter lion lock maple marble market meadow melon milk mill mirror moon mountain needle
    nest oak ocean olive onion orange oven owl paint palace paper pearl pencil pepper piano pillow pine planet
    plate pocket pond potato quilt rabbit raven ribbon rice ring river road robe rocket roof rope rose saddle
    salt sand scarf shell shield ship shoe silk silver spider spoon spring stable star station stone sugar table
    tailor tea temple thread tiger tower train tree trumpet tunnel turtle valley velvet village violin wagon
    wall water wheel willow window wine wolf wood wool
    """
)
ADJECTIVES = _listed(
    """
    amber ancient big bitter black blue brave bright broken brown calm careful cheap clean clever cold crooked
    dark deep distant dry dusty early empty faint famous fast final flat fresh gentle golden grand gray green
    happy hard heavy hidden high hollow honest hot humble joyful large late lazy light little lonely long loud
    low lucky narrow new noisy old open pale patient plain polite poor proud pure quick quiet rare red rich
    rough round royal sad secret sharp short simple sleepy slow small smooth soft solid sour square steep
    strange strong sweet tall thick thin tiny warm weak wet white wide wild wise wooden yellow young
    """
)
NAMES = _listed(
    """
    Adam Alice Amy Anna Arthur Bella Ben Carl Clara Daniel David Diana Edgar Ella Emma Felix Frank Fred George
    Grace Hanna Harry Helen Henry Ida Iris Jack James Jane John Julia Karl Kate Laura Leo Lily Lucy Mark Martha
    Mary Max Mila Nina Noah Nora Oliver Olga Oscar Paul Peter Rosa Ruth Sam Sara Simon Sofia Thomas Victor Vera
    William
    """
)
_VERBS = _listed("saw found carried painted moved bought sold lost cleaned forgot kept opened wanted watched hid")
_PLACES = _listed("behind near under above beside inside before")
_TIMES = ("In the morning", "Later", "One day", "After the rain", "At noon", "In winter", "Last week", "Before dinner")


def paragraph(draw: Random, sentences: int) -> list[str]:
    """So many plain sentences, which name no fact that is asked for."""
    return [_sentence(draw) for _ in range(sentences)]


def _sentence(draw: Random) -> str:
    def thing() -> str:
        return f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"

    text = f"{draw.choice(NAMES)} {draw.choice(_VERBS)} {thing()} {draw.choice(_PLACES)} {thing()}."
    return f"{draw.choice(_TIMES)} {text}" if draw.random() < 0.3 else text
