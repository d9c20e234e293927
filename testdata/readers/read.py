"""Decodes values with fastavro, which Confluent's Avro deserializer uses, and prints what each becomes in a line.

Each line of the input is JSON: a name, an Avro schema and the value in Avro, in hexadecimal."""

import io
import json
import sys

import fastavro

for line in sys.stdin:
    case = json.loads(line)
    try:
        value = fastavro.schemaless_reader(io.BytesIO(bytes.fromhex(case["avro"])), json.loads(case["schema"]), None)
        said = repr(value)
    except Exception as e:  # what a reader meets is what is asked for
        said = type(e).__name__
    print(json.dumps({"name": case["name"], "said": said}))
