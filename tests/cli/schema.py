"""The part of JSON Schema that the HTTP port's description uses. An unknown keyword is an error, so nothing is left unchecked by accident."""
import re

IGNORED = {"description", "format", "title", "default"}
TYPES = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def check(value, schema, document, path="$"):
    """The violations of the schema, as a list of sentences."""
    if schema is True:
        return []
    problems = []
    for keyword, rule in schema.items():
        if keyword in IGNORED:
            continue
        assert keyword in RULES, f"{path}: the test does not know the keyword {keyword}"
        problems += RULES[keyword](value, rule, schema, document, path)
    return problems


def _type(value, rule, _schema, _document, path):
    names = [rule] if isinstance(rule, str) else rule
    return [] if any(TYPES[name](value) for name in names) else [f"{path} is {value!r}, not {' or '.join(names)}"]


def _ref(value, rule, _schema, document, path):
    target = document
    for part in rule.removeprefix("#/").split("/"):
        target = target[part]
    return check(value, target, document, path)


def _properties(value, rule, _schema, document, path):
    if not isinstance(value, dict):
        return []
    return [problem for name, schema in rule.items() if name in value
            for problem in check(value[name], schema, document, f"{path}.{name}")]


def _additional(value, rule, schema, document, path):
    if not isinstance(value, dict):
        return []
    patterns = schema.get("patternProperties", {})
    others = {name: inner for name, inner in value.items()
              if name not in schema.get("properties", {}) and not any(re.search(pattern, name) for pattern in patterns)}
    if rule is False:
        return [f"{path}.{name} is not described" for name in others]
    return [problem for name, inner in others.items() for problem in check(inner, rule, document, f"{path}.{name}")]


def _pattern_properties(value, rule, _schema, document, path):
    if not isinstance(value, dict):
        return []
    return [problem for pattern, inner in rule.items() for name in value if re.search(pattern, name)
            for problem in check(value[name], inner, document, f"{path}.{name}")]


def _items(value, rule, _schema, document, path):
    if not isinstance(value, list):
        return []
    return [problem for at, item in enumerate(value) for problem in check(item, rule, document, f"{path}[{at}]")]


def _one_of(value, rule, _schema, document, path):
    fitting = [schema for schema in rule if not check(value, schema, document, path)]
    return [] if len(fitting) == 1 else [f"{path} is {value!r}, which {len(fitting)} of {len(rule)} shapes fit"]


RULES = {
    "type": _type,
    "$ref": _ref,
    "properties": _properties,
    "additionalProperties": _additional,
    "patternProperties": _pattern_properties,
    "items": _items,
    "required": lambda value, rule, _schema, _document, path: [
        f"{path}.{name} is missing" for name in rule if isinstance(value, dict) and name not in value],
    "enum": lambda value, rule, *rest: [] if value in rule else [f"{rest[-1]} is {value!r}, not one of {rule}"],
    "const": lambda value, rule, *rest: [] if value == rule else [f"{rest[-1]} is {value!r}, not {rule!r}"],
    "minimum": lambda value, rule, *rest: [] if not isinstance(value, (int, float)) or value >= rule else [f"{rest[-1]} is {value}, below {rule}"],
    "maximum": lambda value, rule, *rest: [] if not isinstance(value, (int, float)) or value <= rule else [f"{rest[-1]} is {value}, above {rule}"],
    "oneOf": _one_of,
    "anyOf": lambda value, rule, _schema, document, path: [] if any(
        not check(value, schema, document, path) for schema in rule) else [f"{path} is {value!r}, which no shape fits"],
}
