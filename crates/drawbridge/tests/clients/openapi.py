"""Holds a running server against its own OpenAPI document with schemathesis.

openapi.py FOLDER URL CA PHASES EXAMPLES SEED WHO

FOLDER is for its files, PHASES are those of schemathesis, EXAMPLES how many random requests an operation gets at most
beside those that are derived from the document. WHO says as whom: `nobody`, or the name of the environment variable
with a token.
"""

import json
import os
import pathlib
import subprocess
import sys

import requests
from openapi_spec_validator import validate

# It would end the credential that the rest is asked with, and the run with it; a test of its own has it.
LEFT_OUT = ["rotateAdminToken"]

# Names that exist (the test has made them) come often, so that not every answer is 404. A refusal may also be 412:
# the state of a record is judged before the names in a body.
CONFIG = """
# Most requests that fit their schemas are refused for good reasons: keys are no keys, tokens no tokens.
[checks.positive_data_acceptance]
enabled = false

# It takes any later name, also one of those below, for that of the record that was made before.
[checks.ensure_resource_availability]
enabled = false

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 422, 426, 429]

[dictionaries.devices]
values = ["lamp-0", "lamp-1", "lamp-2", "lamp-3", "lamp-4", "lamp-5", "lamp-6", "lamp-7"]

[dictionaries.applications]
values = ["desk-0", "desk-1", "desk-2", "desk-3"]

[[operations]]
include-path-regex = "^/v1/(devices|gateways|principals)/"
parameters = { "path.id" = { dictionary = "devices", probability = 0.6 }, "path.device" = { dictionary = "devices", probability = 0.6 } }

[[operations]]
include-path-regex = "^/v1/applications/"
parameters = { "path.id" = { dictionary = "applications", probability = 0.6 } }

# What is wrong with a line is told in the answer.
[[operations]]
include-operation-id = "importDevices"
checks = { negative_data_rejection = { enabled = false } }

# DELETE ends an enrolment; it and what came by it stay on record for the operator.
[[operations]]
include-path-regex = "^/v1/enrolments"
checks = { use_after_free = { enabled = false } }

[[operations]]
include-path-regex = "^/v1/registries/"
parameters = { "path.name" = "default" }
"""


def strict(document):
    """The document without leave for answers to say more than it says."""
    sent = set()

    def collect(value):
        if isinstance(value, dict):
            for name, member in value.items():
                if name == "$ref" and member not in sent:
                    sent.add(member)
                    collect(document["components"]["schemas"].get(member.rsplit("/", 1)[-1]))
                collect(member)
        elif isinstance(value, list):
            for member in value:
                collect(member)

    for methods in document["paths"].values():
        for operation in methods.values():
            collect(operation.get("requestBody"))

    def close(value):
        if isinstance(value, dict):
            if value.get("type") == "object" and "properties" in value:
                value.setdefault("additionalProperties", False)
            for member in value.values():
                close(member)
        elif isinstance(value, list):
            for member in value:
                close(member)

    for name, schema in document["components"]["schemas"].items():
        if f"#/components/schemas/{name}" not in sent:
            close(schema)
    return document


def main():
    folder, url, ca, phases, examples, seed, who = sys.argv[1:]
    folder = pathlib.Path(folder)
    version = subprocess.run([sys.executable, "-m", "pip", "show", "schemathesis"], capture_output=True, text=True)
    print("schemathesis", next(line for line in version.stdout.splitlines() if line.startswith("Version")), flush=True)
    answer = requests.get(f"{url}/openapi.json", verify=ca, timeout=20)
    answer.raise_for_status()
    validate(answer.json())
    (folder / "openapi.json").write_text(json.dumps(strict(answer.json())))
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", url, "--tls-verify", ca]
    command += ["--phases", phases, "--max-examples", examples, "--seed", seed]
    command += ["--continue-on-failure", "--request-timeout", "20", "--no-shrink"]
    command += ["--generation-database", "none", "--warnings", "off"]
    for operation in LEFT_OUT:
        command += ["--exclude-operation-id", operation]
    if who != "nobody":
        command += ["--header", f"Authorization: Bearer {os.environ[who]}"]
    hooks = pathlib.Path(__file__).with_name("openapi_hooks.py")
    environment = dict(os.environ, PYTHONPATH=str(hooks.parent), SCHEMATHESIS_HOOKS=hooks.stem, PYTHONDONTWRITEBYTECODE="1")
    sys.exit(subprocess.run(command, cwd=folder, env=environment).returncode)


main()
