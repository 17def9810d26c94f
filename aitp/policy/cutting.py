"""How a text that is longer than its model reads is cut, where EMBEDDING_OVERFLOW says `truncate`. Pure.

Tokens are the model's to count, and counting them here would take its tokenizer. So the text is cut where the server's
own numbers say, if it names any, and else by a quarter, again and again, until it fits.
"""

from __future__ import annotations

SHORTEST = 32  # characters: if even these are too many, it is not the text's length
MARGIN = 0.95  # the part that is kept may have more tokens a character than the whole


def shortened(text: str, tokens: tuple[int, int] | None = None, around: int = 0) -> str | None:
    """As much of `text` as may fit, ended at a white space if one is near; None if it is too short to be the fault.

    `tokens`: how many the request had, and how many the model reads. `around`: what the request holds besides the
    text, in characters of it; that stays as it is.
    """
    if len(text) <= SHORTEST:
        return None
    end = len(text) * 3 // 4
    if tokens is not None and 0 < tokens[1] < tokens[0]:
        fitting = int((len(text) + around) * MARGIN * tokens[1] / tokens[0]) - around
        end = fitting if SHORTEST <= fitting < len(text) else end
    near = max(text.rfind(space, end - end // 10, end) for space in " \n\t")
    return text[: near if near > 0 else end].rstrip() or text[:end]
