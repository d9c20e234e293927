# Drives a registry with Confluent's own Python client. Arguments: the registry's URL; "user:password", "Bearer token" or "";
# the files of its authority, of a client certificate and of its key, or "".
# Ends with exit code 0 and "ok" when everything is as it has to be.
import base64
import sys
from decimal import Decimal

from confluent_kafka.schema_registry import ConfigCompatibilityLevel, Metadata, MetadataProperties, Schema, SchemaReference, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

conf = {"url": sys.argv[1]}
if sys.argv[2].startswith("Bearer "):
    # The client insists on the cluster, which Confluent's cloud needs.
    conf |= {"bearer.auth.credentials.source": "STATIC_TOKEN", "bearer.auth.token": sys.argv[2][len("Bearer "):], "bearer.auth.logical.cluster": "none"}
elif sys.argv[2]:
    conf["basic.auth.user.info"] = sys.argv[2]
if sys.argv[3]:
    conf |= dict(zip(("ssl.ca.location", "ssl.certificate.location", "ssl.key.location"), sys.argv[3:]))
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

# IMPORT is for subjects without schemas, unless it is forced.
refused(42205, sr.update_mode, "orders-value", "IMPORT")
assert sr.update_mode("orders-value", "IMPORT", force=True) == "IMPORT"
refused(42205, sr.register_schema, "orders-value", Schema('"int"', "AVRO"))  # without an id of its own
assert sr.delete_mode("orders-value") == "IMPORT"

# Settings: the level, and what is kept beside it.
sr.set_config("set-value", ServerConfig(compatibility=ConfigCompatibilityLevel.FULL_TRANSITIVE, compatibility_group="v"))
settings = sr.get_config("set-value")
assert settings.compatibility_level == "FULL_TRANSITIVE" and settings.compatibility_group == "v", settings
assert sr.get_compatibility("set-value") == "FULL_TRANSITIVE"
sr.delete_config("set-value")
refused(40408, sr.get_config, "set-value")

# normalize: the same schema, written otherwise.
loose = Schema('{"z": 1, "type": "long", "logicalType": "timestamp-micros", "a": {"d": 1, "c": 2}}', "AVRO")
tidy = '{"type":"long","logicalType":"timestamp-micros","a":{"c":2,"d":1},"z":1}'
nid = sr.register_schema("normal", loose, normalize_schemas=True)
assert SchemaRegistryClient(conf).get_schema(nid).schema_str == tidy
assert SchemaRegistryClient(conf).lookup_schema("normal", loose, normalize_schemas=True).schema_id == nid
assert sr.test_compatibility("normal", loose, normalize=True, verbose=True)
sr.delete_subject("normal")
assert SchemaRegistryClient(conf).lookup_schema("normal", Schema(tidy, "AVRO"), deleted=True).version == 1
sr.delete_subject("normal", permanent=True)

# Paging.
assert sr.get_subjects(offset=1, limit=1) == sr.get_subjects()[1:2]
assert sr.get_versions("orders-value", offset=1, limit=1) == [2]
assert sr.get_schema_versions(first, limit=1)[0].subject == "odd/subject é"
assert sr.get_subjects_by_schema_id(first, subject_name="orders-value", offset=5) == []

# Metadata.
meta = Schema('"string"', "AVRO", metadata=Metadata(tags=None, properties=MetadataProperties({"owner": "shop"}), sensitive=None))
mid = sr.register_schema("meta", meta)
assert sr.get_latest_with_metadata("meta", {"owner": "shop"}).schema_id == mid
refused(40403, sr.get_latest_with_metadata, "meta", {"owner": "nobody"})
sr.delete_subject("meta")
sr.delete_subject("meta", permanent=True)

# Other types are stored and served.
sr.register_schema("person-value", Schema('{"type": "object", "title": "Person"}', "JSON"))
person = sr.get_latest_version("person-value")
assert person.schema.schema_type == "JSON" and person.schema.schema_str == '{"type":"object","title":"Person"}', person
assert sr.lookup_schema("person-value", Schema('{"title":"Person","type":"object"}', "JSON")).schema_id == person.schema_id
proto = 'syntax = "proto3";\nmessage Person {\n  string name = 1;\n}\n'
sr.register_schema("proto-value", Schema(proto, "PROTOBUF"))
assert sr.get_latest_version("proto-value").schema.schema_str == proto
refused(42201, sr.register_schema, "proto-value", Schema("message {", "PROTOBUF"))

# JSON Schema through its serialiser: a schema that refers to another, values that fit and one that does not.
item = Schema('{"$id":"item.json","type":"object","properties":{"sku":{"type":"string"}},"required":["sku"]}', "JSON")
sr.register_schema("item", item)
cart = Schema('{"$id":"cart.json","title":"Cart","type":"object","properties":{"items":{"type":"array","items":{"$ref":"item.json"}}}}', "JSON",
              [SchemaReference("item.json", "item", 1)])
cctx = SerializationContext("cart", MessageField.VALUE)
data = JSONSerializer(cart, sr)({"items": [{"sku": "a"}]}, cctx)
assert JSONDeserializer(None, schema_registry_client=SchemaRegistryClient(conf))(data, cctx) == {"items": [{"sku": "a"}]}
assert JSONDeserializer(cart, schema_registry_client=SchemaRegistryClient(conf))(data, cctx) == {"items": [{"sku": "a"}]}
try:
    JSONSerializer(cart, sr)({"items": [{}]}, cctx)
    raise AssertionError("a value that does not fit is serialised")
except AssertionError:
    raise
except Exception as e:
    assert "sku" in str(e), e
assert sr.get_referenced_by("item", 1) == [int.from_bytes(data[1:5], "big")]
refused(42206, sr.delete_version, "item", 1)

# Protobuf through its serialiser, which registers descriptors in base64: those of imported files first, as references.
pool = descriptor_pool.DescriptorPool()
for file, package, imports, message, fields in (
        ("money.proto", "shop", [], "Money", [("cents", "TYPE_INT64", None)]),
        ("bill.proto", "shop", ["money.proto"], "Bill", [("note", "TYPE_STRING", None), ("net", "TYPE_MESSAGE", ".shop.Money")])):
    described = descriptor_pb2.FileDescriptorProto(name=file, package=package, dependency=imports, syntax="proto3")
    described.message_type.add(name=message)
    for number, (field, kind, type_name) in enumerate(fields, 1):
        described.message_type[0].field.add(name=field, number=number, type=getattr(descriptor_pb2.FieldDescriptorProto, kind), type_name=type_name,
                                            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
    pool.Add(described)
Bill = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Bill"))
bill = Bill(note="x")
bill.net.cents = 5
bctx = SerializationContext("bill", MessageField.VALUE)
data = ProtobufSerializer(Bill, sr)(bill, bctx)
assert ProtobufDeserializer(Bill, schema_registry_client=SchemaRegistryClient(conf))(data, bctx) == bill
latest = sr.get_latest_version("bill-value")
assert latest.schema.schema_type == "PROTOBUF" and latest.schema.references == [SchemaReference("money.proto", "money.proto", 1)], latest
text = SchemaRegistryClient(conf).get_schema(latest.schema_id, fmt="serialized").schema_str
assert descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text)).message_type[0].name == "Bill", text
again = ProtobufSerializer(Bill, SchemaRegistryClient(conf))(bill, bctx)
assert again == data and sr.get_versions("bill-value") == [1]
refused(42206, sr.delete_subject, "money.proto")

# What refers goes before what is referred to.
for gone in ("person-value", "proto-value", "cart-value", "item", "bill-value", "money.proto"):
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
assert sr.get_versions("orders-value", deleted=True) == [1, 2, 3]
refused(40402, SchemaRegistryClient(conf).get_version, "orders-value", 1)
assert SchemaRegistryClient(conf).get_version("orders-value", 1, deleted=True).schema_id == first
refused(40406, sr.delete_version, "orders-value", 1)
assert sr.delete_version("orders-value", 1, permanent=True) == 1
assert sr.get_versions("orders-value", deleted=True) == [2, 3]
assert sr.delete_subject("odd/subject é", permanent=True) == [1]
assert sr.delete_subject("orders-value") == [2, 3]
assert sr.get_subjects(deleted=True) == ["money", "orders-value", "price-value"], sr.get_subjects(deleted=True)
assert sr.delete_subject("orders-value", permanent=True) == [2, 3]
assert "orders-value" not in sr.get_subjects(deleted=True)
refused(40401, sr.delete_subject, "orders-value")
fresh = sr.register_schema("new-value", Schema('"int"', "AVRO"))
assert fresh > max(first, second, third, pid), fresh
print("ok")
