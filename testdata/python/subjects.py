# Reads events as JSON lines from stdin: strategy, topic, and for key and value the record's bytes in hexadecimal digits and the
# subject that has its schema. argv[1] is the registry's URL. Confluent's serialiser, which may register nothing, must find
# each schema by the strategy alone and write the same bytes, and not find it by another one.
import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

conf = {"url": sys.argv[1]}
strategies = {"topic": "TOPIC", "record": "RECORD", "topic-record": "TOPIC_RECORD"}
subjects = SchemaRegistryClient(conf).get_subjects()


def serialise(strategy, schema, row, ctx):
    asked = []

    class Client(SchemaRegistryClient):
        def lookup_schema(self, subject_name, *args, **kwargs):
            asked.append(subject_name)
            return super().lookup_schema(subject_name, *args, **kwargs)

    write = AvroSerializer(Client(conf), schema, conf={"auto.register.schemas": False, "subject.name.strategy.type": strategies[strategy]})
    try:
        return asked, write(row, ctx)
    except SchemaRegistryError as e:
        assert e.error_code in (40401, 40403), e
        return asked, None


for line in sys.stdin:
    event = json.loads(line)
    for field in (MessageField.KEY, MessageField.VALUE):
        ctx = SerializationContext(event["topic"], field)
        payload, subject = bytes.fromhex(event[field]), event[field + "_subject"]
        client = SchemaRegistryClient(conf)
        schema = client.get_schema(int.from_bytes(payload[1:5], "big")).schema_str
        row = AvroDeserializer(client)(payload, ctx)
        asked, again = serialise(event["strategy"], schema, row, ctx)
        assert set(asked) == {subject}, (event["strategy"], asked, subject)
        assert again == payload, (event["strategy"], subject, again, payload)
        for other in strategies:
            if other != event["strategy"]:
                asked, again = serialise(other, schema, row, ctx)
                assert subject not in asked, (other, asked)
                # The subject of another strategy is there only if an earlier event had it.
                assert (again is None) == (asked[0] not in subjects), (other, asked, again)
assert SchemaRegistryClient(conf).get_subjects() == subjects
print("ok")
