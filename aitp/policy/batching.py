"""How much one provider call takes: how many tasks, and how much of a text that is longer than its model reads. Pure.

Such a text is cut where EMBEDDING_OVERFLOW says `truncate`. Tokens are the model's to count, and counting them here
would take its tokenizer. So the text is cut where the server's own numbers say, if it names any, and else by a quarter,
again and again, until it fits.
"""

from __future__ import annotations

from collections.abc import Iterable


def fair_share(claimable: int, workers: int, batch_size: int) -> int:
    """Tasks that one worker may claim, so that no worker takes what would keep its idle siblings busy.

    `claimable`: tasks of the kind that could be claimed now, bounded by the room in the limits.
    At least 1, at most `batch_size`. None is left to be the last one alone: should it fail, nobody would be served
    after it, and nothing would tell whose fault that is.
    """
    share = max(1, min(batch_size, -(-claimable // max(1, workers))))
    if claimable - share != 1 or batch_size < 2:
        return share
    return share + 1 if share < batch_size else max(1, share - 1)


# OpenAI API reference, embeddings: an array of up to 2,048 inputs, 300,000 tokens in a request. A byte-level
# tokenizer makes at most one token of a byte of UTF-8, and a text's JSON is never shorter than its UTF-8: a batch
# whose stored contents have 300,000 bytes or less cannot exceed the tokens, whatever language they are in.
MAX_BATCH_TEXTS = 2_048
MAX_BATCH_BYTES = 300_000


def fitting(content_sizes: Iterable[int]) -> int:
    """How many of the first contents, of these sizes in bytes of JSON, one embedding call may take. At least 1."""
    texts, taken_bytes = 0, 0
    for size in content_sizes:
        taken_bytes += size
        if texts and (taken_bytes > MAX_BATCH_BYTES or texts == MAX_BATCH_TEXTS):
            break
        texts += 1
    return max(1, texts)


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
