"""How long a rules-only decision takes, beside other rule engines and beside plain Python.

Run: `python -m tests.benchmarks.bench_engine`. 5, 20 and 100 rules of the platform's kinds (lists, countries, money
per currency, velocity, BINs, prefixes) on ordinary traffic, in which some facts are unknown. The same rules are
written in each peer's language with the guards that unknown facts need there (and only those), and compiled before
the clock starts; every answer of every engine is compared first. A peer gets its facts as the flat dictionary it
wants, made before; ours are timed from `Facts` to `Match`es.

Ours remembers what its C core answered for each set of properties that hold, and ordinary traffic repeats most of
them; so it is shown twice, as it runs and with the core asked about every transaction. How much the memory helps
depends on the traffic alone: the share of the transactions that repeat a set is printed below the table, and what
is remembered is forgotten whenever the transactions begin anew, so that none profits from an earlier run of itself.

zen-engine is shown in two forms: one expression for each rule, as a decision that reports its rules is written in
it, and all rules joined into one array expression, which spares it converting the facts for each rule.

Engines take turns; each turn runs the transactions that follow those of its last turn, and medians are shown.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any as Untyped
from typing import Final, TypeAlias, assert_never

import celpy
import rule_engine
import zen
from celpy.adapter import json_to_cel

from fraudengine.backends.online import FormCache, compile_rule_set
from fraudengine.diagnostics import Span
from fraudengine.facts import Facts, FactType, ListKind
from fraudengine.lists import ListsAsOf, build_indexes
from fraudengine.money import Money
from fraudengine.rules.ast import (
    All,
    Any,
    ChallengeOutcomes,
    Compare,
    Condition,
    DeclaredList,
    FactRef,
    InList,
    InNetworks,
    IsUnknown,
    ListEntry,
    ListName,
    Literal,
    MoneyFigures,
    Not,
    OneOf,
    Op,
    Outcome,
    Rule,
    RuleId,
    RuleSet,
    StartsWith,
)

SPAN: Final = Span("bench", 1, 1, 2)
COUNTRIES: Final = ("TN", "FR", "DE", "IT", "NG", "RU", "US", "DZ", "LY", "MA")
LISTS: Final = {
    "blacklist": (ListKind.CARD, tuple(f"fp_{n:04}" for n in range(20))),
    "blocked_ip_countries": (ListKind.COUNTRY, ("RU", "KP", "NG")),
    "blocked_card_countries": (ListKind.COUNTRY, ("NG", "RU")),
    "allowed_ip_countries": (ListKind.COUNTRY, ("TN", "FR", "DE", "IT", "DZ", "LY", "MA", "US")),
    "trusted_customers": (ListKind.CUSTOMER, ("c-1", "c-2", "c-3")),
    "blocked_domains": (ListKind.EMAIL_DOMAIN, ("mailinator.com", "tempmail.dev")),
}

Answer: TypeAlias = list[str]
Flat: TypeAlias = dict[str, str | int | bool | None]


# ---- the rules --------------------------------------------------------------------------------------


def compare(fact: str, fact_type: FactType, op: Op, value: str | int | bool) -> Compare:
    return Compare(fact, fact_type, op, Literal(value), SPAN)


def word(fact: str, value: str) -> Compare:
    return compare(fact, FactType.WORD, Op.EQUALS, value)


def at_least(fact: str, number: int) -> Compare:
    return compare(fact, FactType.INTEGER, Op.AT_LEAST, number)


def over(tnd: int) -> Compare:
    figures = MoneyFigures((("EUR", tnd * 30), ("TND", tnd * 1000), ("USD", tnd * 33)))
    return Compare("amount", FactType.MONEY, Op.OVER, figures, SPAN)


def differ(one: str, other: str) -> Not:
    return Not(Compare(one, FactType.COUNTRY, Op.EQUALS, FactRef(other), SPAN), SPAN)


def in_list(fact: str, name: str) -> InList:
    return InList(fact, ListName(name), SPAN)


def twenty(step: int) -> list[Condition]:
    """The kinds of rule that a platform holds; `step` varies the constants."""
    return [
        in_list("card", "blacklist"),
        in_list("ip_country", "blocked_ip_countries"),
        in_list("card_country", "blocked_card_countries"),
        Not(in_list("ip_country", "allowed_ip_countries"), SPAN),
        over(300 + step),
        differ("ip_country", "card_country"),
        at_least("attempts_per_card_1h", 5 + step),
        All((at_least("cards_per_email_24h", 3 + step), Not(in_list("customer", "trusted_customers"), SPAN)), SPAN),
        All((word("card_type", "prepaid"), over(100 + step)), SPAN),
        in_list("email_domain", "blocked_domains"),
        All((Not(at_least("hour", 6), SPAN), over(200 + step)), SPAN),
        compare("card_expired", FactType.BOOLEAN, Op.EQUALS, True),
        All((word("channel", "moto"), over(150 + step)), SPAN),
        All((differ("shipping_country", "billing_country"), over(120 + step)), SPAN),
        compare("card_bin", FactType.BIN, Op.EQUALS, f"40702{step % 10}"),
        Any((at_least("attempts_per_ip_1h", 8 + step), at_least("attempts_per_device_1h", 6 + step)), SPAN),
        OneOf("card_brand", FactType.WORD, ("diners", "unionpay", "maestro"), SPAN),
        StartsWith("email", Literal(f"test{step}"), SPAN),
        All(
            (
                word("weekday", "sunday"),
                Any((differ("ip_country", "billing_country"), at_least("cards_per_ip_24h", 2 + step)), SPAN),
                over(80 + step),
            ),
            SPAN,
        ),
        over(3000 + step),
    ]


def make_rules(count: int) -> RuleSet:
    conditions = [condition for step in range((count + 19) // 20) for condition in twenty(step)][:count]
    rules = tuple(
        Rule(RuleId(f"rule-{number:03}"), when, Outcome.CHALLENGE, "BENCH", origin="platform")
        for number, when in enumerate(conditions)
    )
    lists = {
        ListName(name): DeclaredList(ListName(name), kind, entries=tuple(map(ListEntry, values)))
        for name, (kind, values) in LISTS.items()
    }
    return RuleSet(
        "bench", "", "", Outcome.ACCEPT, ChallengeOutcomes(), "Africa/Tunis", rules, lists, {}, {}, frozenset()
    )


def make_transactions(count: int) -> list[dict[str, str | int | bool | Money]]:
    """Ordinary traffic: most payments are small and domestic, and much is not known of many of them."""
    dice = random.Random(1107)

    def country(usual: str, how_often: float) -> str:
        return usual if dice.random() < how_often else dice.choice(COUNTRIES)

    def transaction() -> dict[str, str | int | bool | Money]:
        card_country = country("TN", 0.85)
        currency = "TND" if dice.random() < 0.85 else "EUR"
        amount = int(dice.lognormvariate(4.0, 1.1) * (1000 if currency == "TND" else 30))
        all_known: dict[str, str | int | bool | Money] = {
            "amount": Money(amount, currency),
            "card": f"fp_{dice.randrange(15, 4000):04}",
            "card_bin": dice.choice(["407024", "404383", "543210", "412545"]),
            "card_brand": dice.choice(["visa", "visa", "mastercard"]) if dice.random() < 0.97 else "diners",
            "card_type": dice.choice(["credit", "debit", "debit"]) if dice.random() < 0.9 else "prepaid",
            "card_expired": dice.random() < 0.01,
            "card_country": card_country,
            "ip_country": country(card_country, 0.92),
            "billing_country": country(card_country, 0.95),
            "shipping_country": country(card_country, 0.95),
            "channel": "moto" if dice.random() < 0.05 else "ecommerce",
            "customer": f"c-{dice.randrange(4000)}",
            "email": dice.choice(["amal@topnet.tn", "test0@mailinator.com", "sami@gmail.com"]),
            "email_domain": "gmail.com" if dice.random() < 0.98 else "mailinator.com",
            "hour": dice.randrange(24),
            "weekday": dice.choice(["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]),
            "attempts_per_card_1h": min(9, int(dice.expovariate(1.5))),
            "attempts_per_ip_1h": min(12, int(dice.expovariate(1.0))),
            "attempts_per_device_1h": min(9, int(dice.expovariate(1.0))),
            "cards_per_email_24h": min(6, int(dice.expovariate(1.5))),
            "cards_per_ip_24h": min(6, int(dice.expovariate(1.5))),
        }
        return {name: value for name, value in all_known.items() if dice.random() >= SHARE_UNKNOWN.get(name, 0.0)}

    return [transaction() for _ in range(count)]


# How often a gateway does not know a fact; a counter is unknown together with what it counts by.
SHARE_UNKNOWN: Final = {
    "card": 0.05,
    "card_type": 0.05,
    "card_expired": 0.2,
    "card_country": 0.03,
    "ip_country": 0.04,
    "billing_country": 0.3,
    "shipping_country": 0.4,
    "customer": 0.5,
    "email": 0.15,
    "email_domain": 0.15,
    "attempts_per_card_1h": 0.05,
    "attempts_per_device_1h": 0.5,
    "cards_per_email_24h": 0.15,
}


def flatten(facts: Facts) -> Flat:
    """The facts as peers take them: an amount is its minor units beside its currency, an unknown fact is null."""
    flat: Flat = dict.fromkeys(FACT_NAMES)
    for name, value in facts.items():
        if isinstance(value, Money):
            flat |= {name: value.minor, "currency": value.currency}
        else:
            flat[name] = value
    return flat


FACT_NAMES: Final = [
    "card",
    "card_bin",
    "card_brand",
    "card_type",
    "card_expired",
    "card_country",
    "ip_country",
    "billing_country",
    "shipping_country",
    "channel",
    "customer",
    "email",
    "email_domain",
    "hour",
    "weekday",
    "attempts_per_card_1h",
    "attempts_per_ip_1h",
    "attempts_per_device_1h",
    "cards_per_email_24h",
    "cards_per_ip_24h",
]


# ---- the same rules in other languages --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a language writes what these rules need; `{0}` and `{1}` are the operands."""

    both: str = " and "
    either: str = " or "
    negated: str = "not ({0})"
    starts_with: str = "{0}.startswith({1})"
    truth: tuple[str, str] = ("false", "true")
    fact: str = "{0}"
    known: str = "{0} != null"

    def write(self, condition: Condition, wanted: bool = True) -> str:
        """An expression that is true just when the condition is (or is false, unless `wanted`): unknown is neither.

        A guard stands only where the language would otherwise answer differently or fail.
        """
        match condition:
            case All(conditions=inner) if wanted:
                return "(" + self.both.join(self.write(part) for part in inner) + ")"
            case Any(conditions=inner) if not wanted:
                return "(" + self.both.join(self.write(part, False) for part in inner) + ")"
            case All(conditions=inner) | Any(conditions=inner):
                return "(" + self.either.join(self.write(part, wanted) for part in inner) + ")"
            case Not(condition=inner_one):
                return self.write(inner_one, not wanted)
            case Compare() | InList() | OneOf() | StartsWith():
                said = self.leaf(condition)
                guards = [self.known.format(self.fact.format(fact)) for fact in self.guarded(condition, wanted)]
                return "(" + self.both.join([*guards, said if wanted else self.negated.format(said)]) + ")"
            case InNetworks() | IsUnknown():
                raise AssertionError("no rule of this benchmark")
            case _:
                assert_never(condition)

    def guarded(self, leaf: Compare | InList | OneOf | StartsWith, wanted: bool) -> list[str]:
        """The facts that must be known before the test is tried."""
        match leaf:
            case Compare(fact="amount"):
                return []
            case Compare(fact=fact, operand=FactRef(fact=other)):
                return [fact, other]
            case Compare(op=Op.EQUALS) | InList() | OneOf() if wanted and leaf.fact != "card_bin":
                return []
            case _:
                return [leaf.fact]

    def leaf(self, condition: Compare | InList | OneOf | StartsWith) -> str:
        match condition:
            case InList(fact=fact, list_name=name):
                return self.one_of(fact, LISTS[name][1])
            case OneOf(fact=fact, values=values):
                return self.one_of(fact, values)
            case StartsWith(fact=fact, prefix=Literal(value=prefix)):
                return self.starts_with.format(self.fact.format(fact), self.literal(prefix))
            case Compare(fact=fact, type=FactType.BIN, operand=Literal(value=digits)):
                return self.starts_with.format(self.fact.format(fact), self.literal(digits))
            case Compare(fact=fact, op=op, operand=Literal(value=value)):
                return f"{self.fact.format(fact)} {SIGNS[op]} {self.literal(value)}"
            case Compare(fact=fact, op=op, operand=FactRef(fact=other)):
                return f"{self.fact.format(fact)} {SIGNS[op]} {self.fact.format(other)}"
            case Compare(fact=fact, op=op, operand=MoneyFigures(figures=figures)):
                currency = self.fact.format("currency")
                cases = [
                    f"({currency} == {self.literal(code)}{self.both}{self.fact.format(fact)} {SIGNS[op]} {minor})"
                    for code, minor in figures
                ]
                return "(" + self.either.join(cases) + ")"
            case Compare() | StartsWith():
                raise AssertionError("no rule of this benchmark")
            case _:
                assert_never(condition)

    def one_of(self, fact: str, values: Sequence[str | int]) -> str:
        return f"({self.fact.format(fact)} in [{', '.join(map(self.literal, values))}])"

    def literal(self, value: str | int | bool) -> str:
        return (
            self.truth[value] if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)
        )


SIGNS: Final = {Op.EQUALS: "==", Op.OVER: ">", Op.AT_LEAST: ">=", Op.UNDER: "<", Op.AT_MOST: "<="}


class PlainPython(Dialect):
    """Lists as frozen sets and facts as dictionary look-ups: what a programmer would write by hand."""

    def one_of(self, fact: str, values: Sequence[str | int]) -> str:
        return f"({self.fact.format(fact)} in {{{', '.join(map(repr, values))}}})"


# ---- engines ----------------------------------------------------------------------------------------

Engine: TypeAlias = Callable[[int], Answer]
"""Decides the transaction of that number; the ids of the rules that match."""


def ours(rule_set: RuleSet, transactions: Sequence[Facts]) -> Engine:
    compiled = compile_rule_set(rule_set, FormCache())
    lists = ListsAsOf(build_indexes(rule_set.lists), 0)
    find_matches = compiled.find_matches

    def decide(number: int) -> Answer:
        if number == 0:
            for form in compiled.forms:
                form.answers.clear()
        return [match.rule.id for match in find_matches(transactions[number], lists)]

    return decide


def ours_asking(rule_set: RuleSet, transactions: Sequence[Facts]) -> Engine:
    find_matches = compile_rule_set(rule_set, FormCache()).find_matches
    lists = ListsAsOf(build_indexes(rule_set.lists), 0)

    def decide(number: int) -> Answer:
        return [match.rule.id for match in find_matches(transactions[number], lists, ask=True)]

    return decide


def share_repeated(rule_set: RuleSet, transactions: Sequence[Facts]) -> float:
    """The share of the transactions, taken once each, for which the core need not be asked."""
    compiled = compile_rule_set(rule_set, FormCache())
    lists = ListsAsOf(build_indexes(rule_set.lists), 0)
    asked = 0
    for facts in transactions:
        before = [form.answers.copy() for form in compiled.forms]
        compiled.find_matches(facts, lists)
        asked += any(form.answers != known for form, known in zip(compiled.forms, before, strict=True))
    return 1 - asked / len(transactions)


def plain_python(rule_set: RuleSet, transactions: Sequence[Flat]) -> Engine:
    dialect = PlainPython(fact="t['{0}']", truth=("False", "True"), known="{0} is not None")
    lines = [f" if {dialect.write(rule.when)}: found.append({str(rule.id)!r})" for rule in rule_set.rules]
    namespace: dict[str, Untyped] = {}
    exec("\n".join(["def decide(t):", " found = []", *lines, " return found"]), namespace)
    decide = namespace["decide"]
    return lambda number: decide(transactions[number])


def zen_rule_by_rule(rule_set: RuleSet, transactions: Sequence[Flat]) -> Engine:
    dialect = Dialect(starts_with="startsWith({0}, {1})")
    rules = [(str(rule.id), zen.compile_expression(dialect.write(rule.when))) for rule in rule_set.rules]

    def decide(number: int) -> Answer:
        facts = transactions[number]
        return [rule_id for rule_id, expression in rules if expression.evaluate(facts)]

    return decide


def zen_one_expression(rule_set: RuleSet, transactions: Sequence[Flat]) -> Engine:
    dialect = Dialect(starts_with="startsWith({0}, {1})")
    expression = zen.compile_expression("[" + ", ".join(dialect.write(rule.when) for rule in rule_set.rules) + "]")
    ids = [str(rule.id) for rule in rule_set.rules]

    def decide(number: int) -> Answer:
        truths = expression.evaluate(transactions[number])
        return [rule_id for rule_id, truth in zip(ids, truths, strict=True) if truth]

    return decide


def rule_engine_rules(rule_set: RuleSet, transactions: Sequence[Flat]) -> Engine:
    dialect = Dialect(starts_with="{0}.starts_with({1})")
    rules = [(str(rule.id), rule_engine.Rule(dialect.write(rule.when))) for rule in rule_set.rules]

    def decide(number: int) -> Answer:
        facts = transactions[number]
        return [rule_id for rule_id, rule in rules if rule.matches(facts)]

    return decide


def cel_programs(rule_set: RuleSet, transactions: Sequence[Flat]) -> Engine:
    dialect = Dialect(" && ", " || ", "!({0})", starts_with="{0}.startsWith({1})", known="type({0}) != type(null)")
    environment = celpy.Environment()
    programs = [
        (str(rule.id), environment.program(environment.compile(dialect.write(rule.when))))
        for rule in rule_set.rules
    ]
    contexts: list[Untyped] = [json_to_cel(dict(facts)) for facts in transactions]

    def decide(number: int) -> Answer:
        context = contexts[number]
        return [rule_id for rule_id, program in programs if program.evaluate(context)]

    return decide


ZEN_JOINED: Final = "zen-engine, joined"
PEERS: Final = {
    "zen-engine": zen_rule_by_rule,
    ZEN_JOINED: zen_one_expression,
    "rule-engine": rule_engine_rules,
    "cel-python": cel_programs,
}
OURS: Final = "fraudengine"
OURS_ASKING: Final = "  core asked each time"


# ---- measuring --------------------------------------------------------------------------------------


def measure(engines: dict[str, Engine], transactions: int, seconds: float) -> dict[str, float]:
    """Microseconds per decision, the median over turns of 50; an engine that is much slower takes fewer turns."""
    turns: dict[str, list[float]] = {name: [] for name in engines}
    spent = dict.fromkeys(engines, 0.0)
    while min(spent.values()) < seconds:
        for name, engine in engines.items():
            if spent[name] >= seconds and len(turns[name]) >= 3:
                continue
            first = len(turns[name]) * TURN % transactions
            began = time.perf_counter()
            for number in range(first, first + TURN):
                engine(number)
            took = time.perf_counter() - began
            spent[name] += took
            turns[name].append(took / TURN * 1e6)
    return {name: statistics.median(found) for name, found in turns.items()}


TURN: Final = 50
TRANSACTIONS: Final = 10_000
COMPARED: Final = 200


def run(seconds: float) -> None:
    transactions = make_transactions(TRANSACTIONS)
    flat = [flatten(facts) for facts in transactions]
    figures: list[str] = []
    table: dict[str, list[str]] = {}
    for count in (5, 20, 100):
        rule_set = make_rules(count)
        engines = {OURS: ours(rule_set, transactions), OURS_ASKING: ours_asking(rule_set, transactions)}
        engines["plain Python"] = plain_python(rule_set, flat)
        engines |= {name: make(rule_set, flat) for name, make in PEERS.items()}
        matches = 0
        for number in range(COMPARED):
            expected = engines["plain Python"](number)
            matches += len(expected)
            for name, engine in engines.items():
                assert engine(number) == expected, (name, number, engine(number), expected)
        assert matches > 0
        took = measure(engines, len(transactions), seconds)
        mine, best = took[OURS], min(took[name] for name in PEERS)
        for name, microseconds in took.items():
            table.setdefault(name, []).append(f"{microseconds:.2f}")
        table.setdefault("  rules matching", []).append(f"{matches / COMPARED:.1f}")
        repeated = share_repeated(rule_set, transactions)
        table.setdefault("  core need not be asked", []).append(f"{repeated:.0%}")
        figures.append(f"figure engine_us_{count} {mine:.2f} us")
        figures.append(f"figure engine_asking_us_{count} {took[OURS_ASKING]:.2f} us")
        figures.append(f"figure engine_asking_vs_best_peer_{count} {best / took[OURS_ASKING]:.1f} x")
        figures.append(f"figure engine_answers_remembered_{count} {repeated:.3f} share")
        figures.append(f"figure engine_vs_zen_rule_by_rule_{count} {took['zen-engine'] / mine:.1f} x")
        figures.append(f"figure engine_vs_best_peer_{count} {best / mine:.1f} x")
        figures.append(f"figure engine_vs_floor_{count} {mine / took['plain Python']:.1f} x")
    print(f"{'µs per decision':<24}{'5 rules':>12}{'20 rules':>12}{'100 rules':>12}")
    for name, cells in table.items():
        print(f"{name:<24}" + "".join(f"{cell:>12}" for cell in cells))
    print("\n".join(figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each engine and size")
    run(parser.parse_args().seconds)
