# Drives a registry with Confluent's own Python client. argv[1] is the registry's URL, argv[2] user:password or "".
# Ends with exit code 0 and "ok" when everything is as it has to be.
import sys
from decimal import Decimal

from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

conf = {"url": sys.argv[1]}
if sys.argv[2]:
    conf["basic.auth.user.info"] = sys.argv[2]
sr = SchemaRegistryClient(conf)


def refused(code, call, *args, **kwargs):
    try:
        answer = call(*args, **kwargs)
    except SchemaRegistryError as e:
        assert e.error_code == code, f"wanted {code}, got {e.error_code}: {e.error_message}"
        assert e.http_status_code == int(str(code)[:3]), e.http_status_code
        return e.error_message
    raise AssertionError(f"wanted {code}, got {answer}")


V1 = '{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"long"},{"name":"amount","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}}]}'
V2 = V1[:-2] + ',{"name":"note","type":["null","string"],"default":null}]}'
BAD = V1.replace('"long"', '"string"')

# Serialise and read back, with the schema registered on the way.
ctx = SerializationContext("orders", MessageField.VALUE)
write = AvroSerializer(sr, V1)
payload = write({"id": 7, "amount": Decimal("12.50")}, ctx)
assert payload[0] == 0 and len(payload) > 5, payload
first = int.from_bytes(payload[1:5], "big")
row = AvroDeserializer(SchemaRegistryClient(conf))(payload, ctx)
assert row == {"id": 7, "amount": Decimal("12.50")}, row

# A second version; a reader with the new schema reads old data.
second = sr.register_schema("orders-value", Schema(V2, "AVRO"))
assert second != first
row = AvroDeserializer(sr, V2)(payload, ctx)
assert row == {"id": 7, "amount": Decimal("12.50"), "note": None}, row
payload2 = AvroSerializer(sr, V2, conf={"auto.register.schemas": False})({"id": 8, "amount": Decimal("1.00"), "note": "x"}, ctx)
assert int.from_bytes(payload2[1:5], "big") == second
payload3 = AvroSerializer(sr, conf={"auto.register.schemas": False, "use.latest.version": True})({"id": 9, "amount": Decimal("1.00"), "note": "y"}, ctx)
assert int.from_bytes(payload3[1:5], "big") == second
payload4 = AvroSerializer(sr, V2, conf={"normalize.schemas": True})({"id": 9, "amount": Decimal("1.00"), "note": "y"}, ctx)
assert AvroDeserializer(sr)(payload4, ctx)["note"] == "y"

# Registering again, elsewhere, and looking up.
assert sr.register_schema("orders-value", Schema(V1, "AVRO")) == first
assert sr.register_schema("odd/subject é", Schema(V1, "AVRO")) == first
full = sr.register_schema_full_response("orders-value", Schema(V2, "AVRO"))
assert full.schema_id == second, full
assert sr.lookup_schema("orders-value", Schema(V1, "AVRO")).version == 1
assert sr.lookup_schema("odd/subject é", Schema(V1, "AVRO")).schema_id == first
refused(40403, sr.lookup_schema, "orders-value", Schema('"string"', "AVRO"))
refused(40401, sr.lookup_schema, "nobody", Schema('"string"', "AVRO"))
refused(42201, sr.register_schema, "orders-value", Schema('{"type":"nonsense"}', "AVRO"))

# Reading.
assert sr.get_schema(first).schema_str == V1, sr.get_schema(first).schema_str
refused(40403, SchemaRegistryClient(conf).get_schema, 4711)
assert sr.get_subjects() == ["odd/subject é", "orders-value"], sr.get_subjects()
assert sr.get_subjects(subject_prefix="ord") == ["orders-value"]
assert sr.get_versions("orders-value") == [1, 2]
assert sr.get_latest_version("orders-value").schema_id == second
assert sr.get_version("orders-value", 1).schema_id == first
refused(40402, SchemaRegistryClient(conf).get_version, "orders-value", 9)
assert sr.get_subjects_by_schema_id(first) == ["odd/subject é", "orders-value"]
assert {(v.subject, v.version) for v in sr.get_schema_versions(first)} == {("odd/subject é", 1), ("orders-value", 1)}
assert sorted(sr.get_schema_types()) == ["AVRO", "JSON", "PROTOBUF"]
assert sr.get_contexts() == ["."]
guid = sr.get_latest_version("orders-value").guid
assert guid and sr.get_schema_by_guid(guid).schema_str == V2

# Compatibility.
assert sr.get_compatibility() == "BACKWARD"
assert sr.test_compatibility("orders-value", Schema(V2, "AVRO"))
assert not sr.test_compatibility("orders-value", Schema(BAD, "AVRO"))
assert not sr.test_compatibility("orders-value", Schema(BAD, "AVRO"), version=1)
assert not sr.test_compatibility_all_versions("orders-value", Schema(BAD, "AVRO"))
assert "'id'" in refused(40901, sr.register_schema, "orders-value", Schema(BAD, "AVRO"))
refused(40408, sr.get_config, "orders-value")
sr.set_compatibility("orders-value", "NONE")
assert sr.get_compatibility("orders-value") == "NONE"
assert sr.get_config("orders-value").compatibility_level == "NONE"
third = sr.register_schema("orders-value", Schema(BAD, "AVRO"))
assert third not in (first, second)
refused(42203, sr.set_compatibility, "orders-value", "SIDEWAYS")
sr.delete_config("orders-value")
refused(40408, sr.get_config, "orders-value")
sr.set_compatibility(level="FULL")
assert sr.get_config().compatibility_level == "FULL"
assert sr.get_global_mode() == "READWRITE"
refused(40409, sr.get_mode, "orders-value")

# Modes: nothing is written to a subject that is read-only, and IMPORT takes ids as they come.
assert sr.update_mode("frozen", "READONLY") == "READONLY"
assert sr.get_mode("frozen") == "READONLY"
refused(42205, sr.register_schema, "frozen", Schema('"int"', "AVRO"))
refused(42204, sr.update_mode, "frozen", "SIDEWAYS")
assert sr.delete_mode("frozen") == "READONLY"
refused(40409, sr.get_mode, "frozen")
assert sr.update_global_mode("READONLY") == "READONLY" and sr.get_global_mode() == "READONLY"
refused(42205, sr.register_schema, "any", Schema('"int"', "AVRO"))
assert sr.update_global_mode("READWRITE") == "READWRITE"

# Other types are stored and served.
sr.register_schema("person-value", Schema('{"type": "object", "title": "Person"}', "JSON"))
person = sr.get_latest_version("person-value")
assert person.schema.schema_type == "JSON" and person.schema.schema_str == '{"type":"object","title":"Person"}', person
assert sr.lookup_schema("person-value", Schema('{"title":"Person","type":"object"}', "JSON")).schema_id == person.schema_id
proto = 'syntax = "proto3";\nmessage Person {\n  string name = 1;\n}\n'
sr.register_schema("proto-value", Schema(proto, "PROTOBUF"))
assert sr.get_latest_version("proto-value").schema.schema_str == proto
refused(42201, sr.register_schema, "proto-value", Schema("message {", "PROTOBUF"))
for gone in ("person-value", "proto-value"):
    sr.delete_subject(gone)
    sr.delete_subject(gone, permanent=True)

# References.
sr.register_schema("money", Schema('{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"cents","type":"long"}]}', "AVRO"))
price = Schema('{"type":"record","name":"Price","namespace":"shop","fields":[{"name":"net","type":"shop.Money"}]}', "AVRO",
               [SchemaReference("shop.Money", "money", 1)])
pid = sr.register_schema("price-value", price)
assert sr.get_referenced_by("money", 1) == [pid]
pctx = SerializationContext("price", MessageField.VALUE)
data = AvroSerializer(sr, price)({"net": {"cents": 5}}, pctx)
assert AvroDeserializer(SchemaRegistryClient(conf))(data, pctx) == {"net": {"cents": 5}}
refused(42206, sr.delete_subject, "money")

# Deleting.
refused(40407, sr.delete_version, "orders-value", 1, permanent=True)
assert sr.delete_version("orders-value", 1) == 1
assert sr.get_versions("orders-value") == [2, 3]
assert AvroDeserializer(SchemaRegistryClient(conf))(payload, ctx)["id"] == 7  # old messages stay readable
refused(40405, sr.delete_subject, "odd/subject é", permanent=True)
assert sr.delete_subject("odd/subject é") == [1]
refused(40404, sr.delete_subject, "odd/subject é")
assert sr.delete_subject("odd/subject é", permanent=True) == [1]
assert sr.delete_subject("orders-value") == [2, 3]
assert sr.get_subjects(deleted=True) == ["money", "orders-value", "price-value"], sr.get_subjects(deleted=True)
assert sr.delete_subject("orders-value", permanent=True) == [1, 2, 3]
assert "orders-value" not in sr.get_subjects(deleted=True)
refused(40401, sr.delete_subject, "orders-value")
fresh = sr.register_schema("new-value", Schema('"int"', "AVRO"))
assert fresh > max(first, second, third, pid), fresh
print("ok")
