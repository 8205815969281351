"""Holds JSON against a JSON Schema; schema.rs runs this and has the questions.

The first line read is the schema. Each line after it is [INSTANCE], or [INSTANCE, PART] to ask about a part:
a schema whose references point into the first one. Each line read is answered with a line:
{"errors": [TEXT, ...]}, or {"failed": TEXT} if it cannot be told.
"""

import json
import sys

from jsonschema.validators import Draft202012Validator, validator_for

# What is below these keywords is data, not schemas.
DATA = {"const", "default", "enum", "example", "examples"}


def formats(schema):
    """All formats that a schema asks for."""
    if isinstance(schema, list):
        return set().union(*map(formats, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["format"]} if isinstance(schema.get("format"), str) else set()
    return own.union(*(formats(part) for key, part in schema.items() if key not in DATA))


def check(kind, schema):
    """Refuses what is no schema, and formats that would pass unseen because nothing here checks them."""
    kind.check_schema(schema)
    unchecked = sorted(formats(schema) - set(kind.FORMAT_CHECKER.checkers))
    if unchecked:
        raise ValueError(f"nothing checks the formats {unchecked}: `make setup` installs what it knows of")


def begin(schema):
    """The validator of a whole schema. Those of an OpenAPI document are below no keyword: each is checked."""
    kind = validator_for(schema, default=Draft202012Validator)
    check(kind, schema)
    parts = schema.get("components", {}).get("schemas", {}) if isinstance(schema, dict) else {}
    for part in parts.values():
        check(kind, part)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def errors(whole, question):
    """What is wrong with an instance, and where."""
    instance, *part = question
    if part:
        check(type(whole), part[0])
        whole = whole.evolve(schema=part[0])
    return [f"{error.message} at {error.json_path}" for error in whole.iter_errors(instance)]


def main():
    whole = None
    for line in sys.stdin.buffer:
        try:
            if whole is None:
                whole, answer = begin(json.loads(line)), {"errors": []}
            else:
                answer = {"errors": errors(whole, json.loads(line))}
        except Exception as error:  # Whatever it is, the test that asked says it.
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
