"""What settings tell only together, or only to someone who knows how they come about: missing, odd, contradictory.

Pure: values in, lines for the operator out. `missing_together` is of problems, the others warn. Called by the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise

EXAMPLES = {
    "ory_project_slug": "your-project-slug",
    "oauth2_client_id": "your-client-id",
    "oauth2_client_secret": "your-client-secret",
}


def missing_together(values: Mapping[str, str], placeholder_key: str) -> list[str]:
    """Judged on the raw values by lower-case name, so that it is listed with all the rest."""
    problems = []
    if "ory_project_slug" not in values and "oauth2_token_url" not in values:
        problems.append(
            "ORY_PROJECT_SLUG, OAUTH2_TOKEN_URL: neither is set; set ORY_PROJECT_SLUG to your Ory project's slug, or "
            "OAUTH2_TOKEN_URL to the address of the token endpoint"
        )
    if values.get("processing_mode", "").lower() == "openai" and "openai_api_key" not in values:
        problems.append(
            "OPENAI_API_KEY: not set; PROCESSING_MODE=openai needs a key, or the placeholder "
            f"{placeholder_key} for mock mode (invented results, no calls)"
        )
    for name in ("budget_per_day", "budget_per_month"):
        if "prices" not in values and values.get(name, "").strip("0."):
            problems.append(
                f"{name.upper()}={values[name]}: PRICES is not set, and without prices nothing can be kept within a "
                "budget; set PRICES to a file of prices (etc/prices.example.toml is one to copy)"
            )
    return problems


def left_as_in_the_example(values: Mapping[str, str]) -> list[str]:
    """Values that .env.example has where everyone needs one of his own."""
    return [
        f"{name.upper()} still has the example's value {value}; set your own"
        for name, value in EXAMPLES.items()
        if values.get(name) == value
    ]


def quoted(values: Mapping[str, str]) -> list[str]:
    """docker's --env-file keeps the quotes that a shell, or our own reading of a file, takes off."""
    return [
        f"{name.upper()} begins and ends with a quote, part of its value; take the quotes off unless that is meant"
        for name, value in values.items()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    ]


def unreachable_limits(limits: Mapping[str, int]) -> list[str]:
    """Limits by period, shortest first, that a longer period's limit keeps from ever being reached."""
    return [
        f"RATE_LIMIT_PER_{longer.upper()}={more} is below RATE_LIMIT_PER_{shorter.upper()}={less}: "
        f"the {shorter} limit can never be reached; raise one or set it to 0"
        for (shorter, less), (longer, more) in pairwise(limits.items())
        if more < less
    ]


def unreachable_budget(per_day: Decimal, per_month: Decimal) -> list[str]:
    """A month's budget that is below a day's."""
    if not 0 < per_month < per_day:
        return []
    return [
        f"BUDGET_PER_MONTH={per_month} is below BUDGET_PER_DAY={per_day}: the day's budget can never be reached; "
        "raise one or set it to 0"
    ]
