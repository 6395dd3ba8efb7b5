"""The shapes of what the API answers, for OpenAPI; the answers themselves are written by `screening`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

OutcomeWord = Literal["accept", "challenge", "refuse"]


class Reason(BaseModel):
    """Why: a stable code, the rule that determined it (null when none did) and its sentence."""

    code: str
    rule: str | None
    message: str


class EntryOfMatch(BaseModel):
    """The list entry that held the value: where it is kept (a rule file with its line, or `run-time`) and why."""

    model_config = ConfigDict(extra="forbid")

    list: str
    id: int | None = None
    value: str
    source: str
    scope: str | None = None
    reason: str | None = None
    ticket: str | None = None
    author: str | None = None
    added: str | None = None
    expires: str | None = None


class BecauseAnswer(BaseModel):
    """One test that made a rule match; of a list, with the entry that held the value."""

    fact: str
    value: str
    test: str
    entry: EntryOfMatch | None = None


class MatchAnswer(BaseModel):
    """A rule whose condition held; one in mode `shadow` decided nothing."""

    rule: str
    outcome: OutcomeWord
    code: str
    mode: Literal["live", "shadow"]
    because: list[BecauseAnswer]


class Challenge(BaseModel):
    """What to ask of 3-D Secure."""

    challenge_indicator: Annotated[str | None, Field(description="EMV 3-D Secure: 03 preferred, 04 mandated.")]


class Indicators(BaseModel):
    """What is known of the transaction; null is unknown."""

    card_country: str | None
    ip_country: str | None
    card_blacklisted: bool
    three_ds: str


class DataVersions(BaseModel):
    """The dates of the data that decided."""

    model_config = ConfigDict(extra="allow")

    ip_country: str | None = None
    bins: str | None = None


class ScreeningAnswer(BaseModel):
    """The decision; it was durable before it was sent. `three_ds` accompanies a challenge."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "screening_id": "01KAR3GQZJ5X7W9V2M4N6P8Q0S",
                    "decision": "challenge",
                    "reason": {
                        "code": "AMOUNT_NEEDS_3DS",
                        "rule": "challenge-above",
                        "message": "The amount is above what the merchant takes without 3-D Secure.",
                    },
                    "matches": [
                        {
                            "rule": "challenge-above",
                            "outcome": "challenge",
                            "code": "AMOUNT_NEEDS_3DS",
                            "mode": "live",
                            "because": [{"fact": "amount", "value": "450.000 TND", "test": "over 300.000 TND"}],
                        }
                    ],
                    "three_ds": {"challenge_indicator": "04"},
                    "indicators": {
                        "card_country": "FR",
                        "ip_country": "TN",
                        "card_blacklisted": False,
                        "three_ds": "none",
                    },
                    "revision": "9f2c…",
                    "data": {"ip_country": "2026-06-25", "bins": "2026-11-01"},
                    "elapsed_us": 84,
                }
            ]
        }
    )

    screening_id: str
    decision: OutcomeWord
    reason: Reason
    matches: list[MatchAnswer]
    three_ds: Challenge | None = None
    indicators: Indicators
    revision: str
    data: DataVersions
    elapsed_us: int


class FieldError(BaseModel):
    """One wrong field, by its dotted name, and what is wrong with it."""

    field: str
    problem: str


class ProblemDocument(BaseModel):
    """RFC 9457. `type` is stable and leads to what it means; `errors` names every wrong field."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/invalid-transaction",
                    "title": "The transaction is not valid",
                    "status": 422,
                    "detail": "amount: TND has 3 decimals, not 4",
                    "errors": [{"field": "amount", "problem": "TND has 3 decimals, not 4"}],
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class ProblemKind(BaseModel):
    """A kind of problem and what to do about it."""

    type: str
    status: int
    title: str
    help: str


class Health(BaseModel):
    status: Literal["up"]


class Workers(BaseModel):
    """How many worker processes there should be, how many serve, and how often one was started anew."""

    wanted: int
    ready: int
    restarts: int


class Readiness(BaseModel):
    """Whether screenings are answered. `problems` may stand beside `ready: true`: older rules or data serve on."""

    ready: bool
    problems: list[str]
    workers: Workers | None = None  # with one process there is nobody who counts them


class RuleAnswer(BaseModel):
    """One rule of the effective rule set; `origin` is the rule set that brought it."""

    id: str
    description: str
    mode: Literal["live", "shadow", "off"]
    off_because: str | None
    origin: str
    then: OutcomeWord
    if_unknown: OutcomeWord | None
    final: bool
    reason: str
    challenge_indicator: str | None
    reads: list[str]
    file: str
    line: int


class SettingAnswer(BaseModel):
    """A setting; `value` is null when nobody gave one, else text, a number, or a figure per currency."""

    type: str
    help: str
    value: Any
    declared_in: str
    given_in: str | None


class ListAnswer(BaseModel):
    """A list; its entries are counted, not shown."""

    of: str
    help: str
    entries: int
    origin: str


class RuleSetAnswer(BaseModel):
    """The effective rule set of a merchant: its own file over what it extends."""

    merchant: str
    rule_set: str
    description: str
    revision: str
    otherwise: OutcomeWord
    challenge: dict[str, OutcomeWord]
    timezone: str
    rules: list[RuleAnswer]
    settings: dict[str, SettingAnswer]
    lists: dict[str, ListAnswer]
    metadata: dict[str, str]
    reads: list[str]
    sources: dict[str, str]
