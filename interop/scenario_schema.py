#!/usr/bin/env python3
"""Do scenario files obey the schema that we give out?

Standard input is a JSON object: "schema", the path of the schema; "files",
paths of scenario files; "texts", scenario files as text, by name. The answer
is a JSON object on stdout: for each path or name a list of what is wrong,
empty where nothing is. The schema itself must be one of JSON Schema's.
"""

import json
import sys
import tomllib

from jsonschema import Draft202012Validator


def main():
    wanted = json.load(sys.stdin)
    with open(wanted["schema"], encoding="utf-8") as file:
        schema = json.load(file)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    scenarios = {name: tomllib.loads(text) for name, text in wanted["texts"].items()}
    for path in wanted["files"]:
        with open(path, "rb") as file:
            scenarios[path] = tomllib.load(file)
    answer = {}
    for name, scenario in scenarios.items():
        answer[name] = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(scenario)]
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
