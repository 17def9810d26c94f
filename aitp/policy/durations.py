"""Durations as OpenAI writes them in its `x-ratelimit-reset-*` headers: `6m0s`, `1s`, `20ms`, `1h2m3.5s`. Pure."""

from __future__ import annotations

import re

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000_001, "µs": 0.000_001}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|us|µs|d|h|m|s)")


def parse_duration(text: str | None) -> float | None:
    """Seconds in `text`, None where it is no duration. A plain number counts as seconds."""
    text = (text or "").strip()
    if re.fullmatch(r"\d{1,12}(?:\.\d{1,12})?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
