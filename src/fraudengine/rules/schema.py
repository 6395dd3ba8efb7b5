"""JSON Schemas of rule files, test files and shared lists, for completion and marks in editors.

Made from the catalogue of facts, the tables of the checker and the house rule sets of a directory, so that they
never say something else than `fraudengine check`, which remains the judge: a schema cannot see whether a list is
declared, what a setting of the merchant's own is of, or whether a rule can match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from .. import reasons
from ..facts import CATALOGUE, METADATA_TYPES, FactSpec, FactType, ListKind, Origin
from .ast import Mode
from .check import CHALLENGE_KEYS, METADATA_KEYS, NAME, SETTING_TYPES
from .check_conditions import ORDER_WORDS, ORDERED_TYPES
from .check_rules import CHALLENGE_INDICATORS, CHANGE_KEYS, RULE_KEYS
from .checked import CheckedFile, FileKind
from .counters import PER_FACTS, Among, CounterScope
from .schema_values import (
    ANY_TEXT,
    ENTRY_VALUES,
    REFERENCE,
    Schema,
    any_of,
    literal,
    mapping,
    ref,
    sequence,
    text,
    value_definitions,
    words,
)

DRAFT: Final = "http://json-schema.org/draft-07/schema#"
_WORD_NAME: Final = "^[a-z][a-z0-9_]{0,62}$"


@dataclass(frozen=True, slots=True)
class House:
    """What the house rule sets and shared lists of a directory offer."""

    rule_sets: tuple[str, ...] = ()
    settings: Mapping[str, tuple[FactType, str]] = field(default_factory=dict)
    lists: Mapping[str, tuple[ListKind, str]] = field(default_factory=dict)
    shared: Mapping[str, ListKind] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, FactSpec] = field(default_factory=dict)


def read_house(files: Iterable[CheckedFile]) -> House:
    """What all house rule sets among the files declare."""
    found = list(files)
    houses = [file for file in found if file.kind is FileKind.PLATFORM]
    shared = [file for file in found if file.kind is FileKind.SHARED_LIST]
    return House(
        tuple(sorted(file.name for file in houses)),
        {item.name: (item.type, item.help) for file in houses for item in file.settings_declared},
        {item.name: (item.kind, item.help) for file in houses for item in file.lists_declared},
        {file.name: file.lists_declared[0].kind for file in shared},
        {item.rule.id: item.rule.description for file in houses for item in file.rules},
        {counter.name: counter.spec for file in houses for counter in file.velocity},
    )


def _document(title: str, schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    return {"$schema": DRAFT, "title": title, **schema, "$defs": dict(sorted(definitions.items()))}


# ---- rule files -----------------------------------------------------------------------------------


def rules_schema(house: House) -> Schema:
    """Of a merchant's file or a house rule set."""
    common: dict[str, Schema] = {
        "description": text(most=1000, help_text="What this rule set is for, in a sentence."),
        "extends": _with_help(
            words(house.rule_sets), "The house rule set whose rules, lists and settings this one gets."
        ),
        "otherwise": _with_help(ref("outcome"), "The outcome when no rule decides."),
        "timezone": text(
            "^[A-Za-z0-9_+/-]+$", help_text="Time zone of `hour`, `weekday` and dates, such as `Africa/Tunis`."
        ),
        "challenge": mapping(
            {key: words(["accept", "refuse"]) if key == "impossible" else ref("outcome") for key in CHALLENGE_KEYS},
            help_text="What 3-D Secure's answer means once it was asked for.",
        ),
        "metadata": {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z][A-Za-z0-9_-]{0,62}$"},
            "additionalProperties": any_of(
                words([kind.value for kind in METADATA_TYPES]),
                mapping({"type": words([kind.value for kind in METADATA_TYPES]), "help": text()}, ["type"]),
            ),
        },
        "velocity": {
            "type": "object",
            "propertyNames": {
                "pattern": _WORD_NAME,
                "not": {"enum": [*CATALOGUE, "ip_network", "all", "any", "not"]},
            },
            "additionalProperties": ref("counter"),
            "description": "Counters over earlier payments; each becomes a fact.",
        },
        "change": mapping(
            {name: {"$ref": "#/$defs/change", "description": note} for name, note in house.rules.items()},
            help_text="Tuning of house rules.",
        ),
        "rules": {"type": "array"},
    }
    assert METADATA_KEYS == ("type", "help")
    merchant = mapping(
        {"merchant": _name(), **common, "settings": _merchant_settings(house), "lists": _merchant_lists(house)},
        ["merchant"],
    )
    inherited = {"items": {"properties": {"id": {"not": {"enum": list(house.rules)}}}}}
    merchant["if"] = {"required": ["extends"]}
    merchant["then"] = {"properties": {"rules": inherited}}
    own = {"type": "object", "propertyNames": {"pattern": _WORD_NAME}}
    platform = mapping(
        {
            "rule_set": _name(),
            **common,
            "settings": {**own, "additionalProperties": any_of(ref("setting"), _setting_value())},
            "lists": {**own, "additionalProperties": any_of(ref("list"), {"type": "array"})},
        },
        ["rule_set"],
    )
    form: Schema = {
        "type": "object",
        "if": {"required": ["rule_set"]},
        "then": ref("platform_file"),
        "else": ref("merchant_file"),
        # Who declares counters of his own may name any of them in a condition.
        "allOf": [
            {
                "if": {"required": ["velocity"]},
                "then": {"properties": {"rules": sequence(ref("rule_with_counters"))}},
                "else": {"properties": {"rules": sequence(ref("rule"))}},
            }
        ],
    }
    definitions = {
        **value_definitions(),
        **_condition_definitions(house),
        **_rule_definitions(),
        "merchant_file": merchant,
        "platform_file": platform,
    }
    return _document("A merchant's rules, or house rules", form, definitions)


def _name() -> Schema:
    return {
        "type": ["string", "integer"],
        "pattern": f"^{NAME.pattern}$",
        "description": "The file's name without `.yaml`.",
    }


def _with_help(schema: Schema, note: str) -> Schema:
    return {"allOf": [schema], "description": note}


def _rule_definitions() -> dict[str, Schema]:
    reason = any_of(
        words(reasons.CATALOGUE, {code: reason.en for code, reason in reasons.CATALOGUE.items()}),
        text("^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$", 64),
    )
    description = any_of(
        text(most=1000),
        {"type": "object", "additionalProperties": False, "minProperties": 1,
         "properties": {"en": text(most=1000), "fr": text(most=1000)}},
    )  # fmt: skip
    of_rule: dict[str, Schema] = {
        "id": _with_help(text("^[a-z0-9]+(-[a-z0-9]+)*$", 63), "The rule's own name, in lower case with dashes."),
        "description": _with_help(description, "What the rule is for, as a colleague would say it."),
        "when": _with_help(ref("condition"), "What must hold for the rule to match."),
        "unless": _with_help(ref("condition"), "What keeps it from matching."),
        "then": _with_help(ref("outcome"), "What the rule is for."),
        "reason": _with_help(reason, "The reason code that the answer carries."),
        "if_unknown": _with_help(words(["challenge", "refuse"]), "The outcome when `when` cannot be told."),
        "final": {"enum": [True, False, "true", "false"], "description": "No rule that accepts can overrule it."},
        "mode": words(
            [mode.value for mode in Mode],
            {"live": "It decides.", "shadow": "It is logged and decides nothing.", "off": "It is left out."},
        ),
        "challenge_indicator": {
            "enum": [*CHALLENGE_INDICATORS, *(int(code) for code in CHALLENGE_INDICATORS)],
            "description": "`03` prefers a challenge, `04` demands one.",
        },
    }
    rule = mapping({key: of_rule.get(key, {}) for key in RULE_KEYS}, ["id", "when", "then"])
    rule["if"] = {"required": ["final"], "properties": {"final": {"enum": [True, "true"]}}}
    rule["then"] = {"properties": {"then": {"const": "refuse"}}}
    conditions = {"when": "condition_with_counters", "unless": "condition_with_counters"}
    properties = rule["properties"]
    assert isinstance(properties, dict)
    opened: Schema = {
        **rule,
        "properties": {
            **properties,
            **{key: _with_help(ref(name), properties[key]["description"]) for key, name in conditions.items()},
        },
    }
    change = mapping({key: of_rule.get(key, {}) for key in CHANGE_KEYS})
    change["minProperties"] = 1
    fact = words(PER_FACTS, {name: spec.help for name, spec in CATALOGUE.items()})
    counter = mapping(
        {
            "count": {"const": "transactions"},
            "sum": {"const": "amount"},
            "count_distinct": fact,
            "per": any_of(
                fact, {"type": "array", "items": fact, "minItems": 1, "maxItems": 4, "uniqueItems": True}
            ),
            "within": text(
                "^[0-9]{1,9} (second|minute|hour|day|week)s?$", help_text="Such as `1 hour`; 90 days at most."
            ),
            "among": words([one.value for one in Among]),
            "scope": words([one.value for one in CounterScope]),
            "help": text(),
        },
        ["per", "within"],
    )
    counter["oneOf"] = [{"required": [measure]} for measure in ("count", "sum", "count_distinct")]
    return {"rule": rule, "rule_with_counters": opened, "change": change, "counter": counter, **_declarations()}


def _declarations() -> dict[str, Schema]:
    setting = mapping(
        {"type": words([kind.value for kind in SETTING_TYPES]), "help": text(), "value": {}}, ["type"]
    )
    setting["allOf"] = [
        {
            "if": {"properties": {"type": {"const": kind.value}}},
            "then": {"properties": {"value": _setting_value(kind)}},
        }
        for kind in SETTING_TYPES
    ]
    declared = mapping(
        {"of": words([kind.value for kind in ListKind]), "help": text(), "entries": {"type": "array"}}, ["of"]
    )
    declared["allOf"] = [
        {"if": {"properties": {"of": {"const": kind.value}}},
         "then": {"properties": {"entries": sequence(ref(f"entry_{kind.value}"))}}}
        for kind in ListKind
    ]  # fmt: skip
    return {"setting": setting, "list": declared, **entry_definitions()}


def entry_definitions() -> dict[str, Schema]:
    """A list entry, for each kind of list."""
    found = {}
    for kind, value in ENTRY_VALUES.items():
        notes = {
            "value": value, "reason": text(), "ticket": text(), "by": text(),
            "added": ref("instant"), "expires": ref("instant"),
        }  # fmt: skip
        found[f"entry_{kind.value}"] = any_of(value, mapping(notes, ["value"]))
    return found


def _setting_value(kind: FactType | None = None) -> Schema:
    if kind is None:
        return any_of({"type": ["string", "number", "boolean"], "minLength": 1}, ref("figures"))
    value = literal(FactSpec("", kind, Origin.REQUEST, ""))
    return any_of(value, ref("figures")) if kind is FactType.MONEY else value


def _merchant_settings(house: House) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": _WORD_NAME, "not": {"enum": list(CATALOGUE)}},
        "properties": {
            name: {**_setting_value(kind), "description": note} for name, (kind, note) in house.settings.items()
        },
        "additionalProperties": ref("setting"),
        "description": "Values for the settings of the house rules, and settings of the merchant's own.",
    }


def _merchant_lists(house: House) -> Schema:
    filled: dict[str, Schema] = {
        name: {**sequence(ref(f"entry_{kind.value}")), "description": note}
        for name, (kind, note) in house.lists.items()
    }
    return {
        "type": "object",
        "propertyNames": {"pattern": _WORD_NAME, "not": {"enum": sorted(house.shared)}},
        "properties": filled,
        "additionalProperties": ref("list"),
        "description": "Entries for the lists of the house rules, and lists of the merchant's own.",
    }


# ---- conditions -----------------------------------------------------------------------------------


def _condition_definitions(house: House) -> dict[str, Schema]:
    specs = {**CATALOGUE, **house.counters}
    tests = {f"test_{name}": _test(spec, house) for name, spec in specs.items()}
    for kind in (FactType.INTEGER, FactType.MONEY):
        tests[f"test_any_{kind.value}"] = _test(FactSpec("", kind, Origin.REQUEST, ""), house)
    tests |= {f"reference_{kind.value}": _reference(kind, house, specs) for kind in FactType}
    metadata = [FactSpec("", kind, Origin.REQUEST, "") for kind in METADATA_TYPES]
    tests["test_metadata"] = any_of(*(_test(spec, house, own="test_metadata") for spec in metadata))
    closed = _condition("condition", specs)
    opened = _condition("condition_with_counters", specs)
    opened["additionalProperties"] = any_of(ref("test_any_integer"), ref("test_any_money"))
    return {"condition": closed, "condition_with_counters": opened, **tests}


def _condition(myself: str, specs: Mapping[str, FactSpec]) -> Schema:
    several: Schema = sequence(ref(myself), 1)
    return {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            "all": {**several, "description": "Every condition of the list must hold."},
            "any": {**several, "description": "At least one condition of the list must hold."},
            "not": {"allOf": [ref(myself)], "description": "The condition must not hold."},
            **{name: {"allOf": [ref(f"test_{name}")], "description": spec.help} for name, spec in specs.items()},
        },
        "patternProperties": {r"^metadata\.": ref("test_metadata")},
    }


def _reference(kind: FactType, house: House, specs: Mapping[str, FactSpec]) -> Schema:
    """`$name`: a setting or fact of that type, or a setting of the file's own."""
    texts = (kind, FactType.TEXT) if kind is FactType.WORD else (kind,)
    known = [f"${name}" for name, (own, _) in house.settings.items() if own in texts]
    known += [f"${name}" for name, spec in specs.items() if spec.type is kind]
    other = [f"${name}" for name, (own, _) in house.settings.items() if own not in texts]
    other += [f"${name}" for name, spec in specs.items() if spec.type is not kind]
    own_setting: Schema = {"type": "string", "pattern": REFERENCE, "not": {"enum": other}}
    return any_of(words(known), own_setting) if known else own_setting


def _test(spec: FactSpec, house: House, own: str = "") -> Schema:
    """The test of a fact: a value, a list of values, or a mapping of test words."""
    myself = own or (f"test_{spec.name}" if spec.name else f"test_any_{spec.type.value}")
    referred = ref(f"reference_{spec.type.value}")
    if spec.name:
        referred = {"allOf": [referred], "not": {"const": f"${spec.name}"}}
    value = any_of(literal(spec), referred)
    operand = any_of(value, ref("figures")) if spec.type is FactType.MONEY else value
    single = any_of({"const": "unknown"}, value) if spec.may_be_unknown else value
    found: dict[str, Schema] = {"not": ref(myself)}
    if spec.type in ORDERED_TYPES:
        found |= dict.fromkeys(ORDER_WORDS, operand)
        found["between"] = {"type": "array", "items": operand, "minItems": 2, "maxItems": 2}
    if spec.lists:
        kinds = {**{name: kind for name, (kind, _) in house.lists.items()}, **house.shared}
        known = [name for name, kind in kinds.items() if kind in spec.lists]
        other = [name for name, kind in kinds.items() if kind not in spec.lists]
        name_of: Schema = (
            {"type": "string", "pattern": _WORD_NAME, "not": {"enum": other}} if other else text(_WORD_NAME)
        )
        named = any_of(words(known), name_of) if known else name_of
        found |= {"in_list": named, "not_in_list": named}
    if spec.type is FactType.TEXT:
        found["starts_with"] = {"type": ["string", "number", "boolean"], "minLength": 1}
    elif spec.type is FactType.BIN:
        found["starts_with"] = any_of(
            {"type": "string", "pattern": r"^([0-9]{1,8}|\$.*)$"},
            {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        )
    tested = mapping(found)
    tested["minProperties"] = 1
    return any_of(single, sequence(single, 1), tested)


# ---- shared lists and tests -----------------------------------------------------------------------


def list_schema() -> Schema:
    """Of a shared list."""
    form = mapping(
        {
            "list": text(_WORD_NAME, help_text="The file's name without `.yaml`."),
            "of": words([kind.value for kind in ListKind]),
            "description": text(most=1000),
            "timezone": text("^[A-Za-z0-9_+/-]+$"),
            "entries": {"type": "array"},
        },
        ["list", "of"],
    )
    form["allOf"] = [
        {"if": {"properties": {"of": {"const": kind.value}}, "required": ["of"]},
         "then": {"properties": {"entries": sequence(ref(f"entry_{kind.value}"))}}}
        for kind in ListKind
    ]  # fmt: skip
    return _document("A list that rule sets share", form, {**value_definitions(), **entry_definitions()})


def tests_schema(
    house: House,
    top_keys: Iterable[str],
    test_keys: Iterable[str],
    expect_keys: Iterable[str],
    statuses: Iterable[str],
    history_keys: Iterable[str],
    endings: Iterable[str],
) -> Schema:
    """Of a test file; the keys are those that its reader knows, `endings` how a payment of the past ended."""
    names: dict[str, Schema] = {
        name: {**_given(spec), "description": spec.help} for name, spec in {**CATALOGUE, **house.counters}.items()
    }
    # A counter of the merchant's own can have any name; its value is a number or an amount.
    counted = any_of({"const": "unknown"}, literal(FactSpec("", FactType.INTEGER, Origin.LOG, "")), ref("money"))
    metadata: dict[str, Schema] = {r"^metadata\.": {"type": ["string", "number", "boolean"]}}
    facts: Schema = {
        "type": "object",
        "additionalProperties": counted,
        "properties": {"at": ref("instant"), "now": ref("instant"), **names},
        "patternProperties": metadata,
    }
    duration = r"[0-9]{1,9} (second|minute|hour|day|week)s?"
    moment = any_of(words(["now", "1 minute ago"]), text(f"^{duration} ago$"), ref("instant"))
    of_past: dict[str, Schema] = {
        "times": {"type": ["integer", "string"], "minimum": 1, "maximum": 10_000, "pattern": "^[0-9]{1,5}$"},
        "every": text(f"^{duration}$", help_text="Time between two of them, such as `1 minute`."),
        "ending": {**moment, "description": "When the last one was made, such as `1 minute ago`."},
        "at": {**moment, "description": "When the one payment was made."},
        "outcome": words(endings),
        "transaction": _with_help(dict(ANY_TEXT), "The name of the transaction; each is another one by itself."),
        "merchant": _name(),
    }
    past: Schema = {
        "type": "object",
        "additionalProperties": counted,
        "properties": {**names, **_known(history_keys, of_past)},
        "patternProperties": metadata,
        "oneOf": [{"required": ["at"]}, {"required": ["ending"]}],
    }
    rule = any_of(words([*house.rules, "none"], house.rules), text("^[a-z0-9]+(-[a-z0-9]+)*$"))
    reason = any_of(words(reasons.CATALOGUE), text("^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$"))
    expected: dict[str, Schema] = {
        "outcome": ref("outcome"),
        "reason": reason,
        "reasons": sequence(reason),
        "rule": rule,
        "matches": sequence(rule),
    }
    status = words(statuses)
    eci = literal(CATALOGUE["eci"])
    filled = {name: sequence(ref(f"entry_{kind.value}")) for name, (kind, _) in house.lists.items()}
    of_test: dict[str, Schema] = {
        "name": {"type": ["string", "number"], "minLength": 1},
        "given": _with_help(ref("facts"), "What differs from `transaction`."),
        "at": ref("instant"),
        "now": ref("instant"),
        "lists": {"type": "object", "properties": filled, "additionalProperties": {"type": "array"}},
        "three_ds": any_of(status, mapping({"status": status, "eci": eci, "version": text()}, ["status"])),
        "earlier": _with_help(ref("facts"), "The first screening of the same transaction, where it differs."),
        "history": _with_help(sequence(ref("past")), "Earlier payments, for counters to count."),
        "expect": any_of(ref("outcome"), {**mapping(_known(expect_keys, expected)), "minProperties": 1}),
    }
    of_file: dict[str, Schema] = {
        "merchant": _name(),
        "description": text(most=1000),
        "now": ref("instant"),
        "transaction": _with_help(ref("facts"), "What every test starts from."),
        "tests": sequence(mapping(_known(test_keys, of_test), ["name", "expect"]), 1),
    }
    form = mapping(_known(top_keys, of_file), ["merchant", "tests"])
    return _document(
        "Tests of a merchant's rules",
        form,
        {**value_definitions(), **entry_definitions(), "facts": facts, "past": past},
    )


def _given(spec: FactSpec) -> Schema:
    return any_of({"const": "unknown"}, literal(spec)) if spec.may_be_unknown else dict(literal(spec))


def _known(keys: Iterable[str], described: Mapping[str, Schema]) -> dict[str, Schema]:
    """A schema for each key of the reader; a key that is not described here yet may hold anything."""
    return {key: described.get(key, {}) for key in keys}
