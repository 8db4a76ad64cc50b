"""The schema of a data set's rows, as its card states it, checked by jsonschema.

A schema is field -> {type, and limits}. Types: `str`, `int`, `float` (never an int), `enum`, `list[str]`, `messages` (a
whole conversation that ends with the assistant), `turns` (a part of one, as the prompt of a preference pair is).
Limits: `min_length`, `max_length` (characters of a str; entries of a list, of messages or turns), `minimum`, `maximum`
(int, float), `values` (enum; list[str], for each entry).
"""

import math
from collections.abc import Iterator
from functools import cache

TYPES = ("str", "int", "float", "enum", "list[str]", "messages", "turns")
LIMITS = {"min_length": ("minLength", "minItems"), "max_length": ("maxLength", "maxItems")}
"""Our limits of length, and JSON Schema's keywords for them: of a str, and of everything else."""
ROLES = ("system", "user", "assistant")


def row_faults(row: dict, schema: dict[str, dict]) -> list[str]:
    """What in `row` breaks a card's `schema`, one sentence each; empty when nothing does."""
    faults = [f"缺少字段 (missing field) {name}" for name in schema if name not in row]
    faults += [f"多出字段 (unknown field) {name}" for name in row if name not in schema]
    for name, rule in schema.items():
        if name in row:
            faults += [f"{name}：{fault}" for fault in _value_faults(row[name], rule)]
    return faults


def schema_faults(schema: dict[str, dict]) -> list[str]:
    """Types and limits in a card's schema that nothing here checks; empty when it is sound."""
    return [f"{name}：{fault}" for name, rule in schema.items() for fault in _rule_faults(rule)]


def _rule_faults(rule: dict) -> Iterator[str]:
    if rule.get("type") not in TYPES:
        yield f"不认识的类型 (type) {rule.get('type')!r}，可用：{'、'.join(TYPES)}"
    if rule.get("type") == "enum" and not rule.get("values"):
        yield "enum 要列出允许的取值 (values)"
    known = {"type", "values", "minimum", "maximum", *LIMITS}
    yield from (f"不认识的限制 (limit) {limit}" for limit in rule if limit not in known)


def _value_faults(value: object, rule: dict) -> list[str]:
    """What is wrong with one field; when it is the type, nothing else is asked."""
    errors = list(_validator()(_json_schema(rule)).iter_errors(value))
    if any(error.validator == "type" for error in errors):
        return [f"应为 {rule['type']}，收到 {value!r:.60}"]
    return [_sentence(error) for error in errors]


def _sentence(error) -> str:
    """One of jsonschema's errors in the words of a card."""
    if error.validator == "enum":
        return f"取值 {error.instance!r} 不在允许之列 (values)"
    size = error.instance if isinstance(error.instance, (int, float)) else len(error.instance)
    if error.validator.startswith("min"):
        return f"{size} 小于下限 (minimum) {error.validator_value}"
    return f"{size} 大于上限 (maximum) {error.validator_value}"


def _json_schema(rule: dict) -> dict:
    """A field's rule as JSON Schema, with the types of `_validator`."""
    kind = rule["type"]
    made = {name: rule[name] for name in ("minimum", "maximum") if name in rule}
    for limit, (of_text, of_list) in LIMITS.items():
        if limit in rule:
            made[of_text if kind == "str" else of_list] = rule[limit]
    if kind != "enum":
        made["type"] = kind
    if "values" in rule:
        values = {"enum": rule["values"]}
        made |= values if kind == "enum" else {"items": values}
    return made


@cache
def _validator() -> type:
    """JSON Schema's validator, with the types of a card instead of its own."""
    from jsonschema import Draft202012Validator, validators

    kinds = {
        "str": lambda _, value: isinstance(value, str),
        "int": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
        "float": lambda _, value: isinstance(value, float) and math.isfinite(value),
        "list[str]": lambda _, value: _is_list_of(str, value),
        "messages": lambda _, value: _are_turns(value) and _is_conversation([turn["role"] for turn in value]),
        "turns": lambda _, value: _are_turns(value),
    }
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(kinds)
    return validators.extend(Draft202012Validator, type_checker=types)


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _are_turns(value: object) -> bool:
    """At least one turn, each with a known role and some text, and nothing else."""
    return isinstance(value, list) and len(value) > 0 and all(_is_turn(entry) for entry in value)


def _is_turn(entry: object) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"role", "content"}:
        return False
    return entry["role"] in ROLES and isinstance(entry["content"], str) and entry["content"] != ""


def _is_conversation(roles: list[str]) -> bool:
    """A system turn at most at the start, then user and assistant by turns, ending with the assistant."""
    spoken = roles[1:] if roles[0] == "system" else roles
    return len(spoken) > 0 and len(spoken) % 2 == 0 and spoken == ["user", "assistant"] * (len(spoken) // 2)
