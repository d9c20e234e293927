#!/usr/bin/env python3
"""Compares what a consumer reads in Kafka with what committed in Postgres.

The truth is an audit that triggers wrote in the changes' own transactions (internal/workload exports it). The reader is
librdkafka at read_committed with a registry client and an Avro decoder that share no code with walferry. Matching is by
transaction id and the change's number in its transaction; both are claims of the events, and a false one shows as
missing, unexpected or different.

Prints one JSON object. All of these are zero when all is well:

  missing        committed changes of which an event (of a changed key: either of both) was not read
  repeated       events of a change that had been read before
  disordered     events of a key that came after a later one by (commit_lsn, ordinal), or in another partition
  different      events whose key, columns, values, operation or transaction are not the audit's
  unexpected     events of no committed change: rolled back, or of nobody
  tombstones     deletes without a tombstone behind them, and tombstones without a delete
  duplicate_ids  records whose header "id" was seen before, or is not there
  fold_mismatch  rows that differ between the tables and the last state of each key in the topics; of a table without a
                 key, kinds of rows of which the topics do not hold as many

Where rows have a version, a number that only grows, also from one row of a key to the next one, these are zero too. A read
is a row of a first copy (op r); its place in the order of its key is the one in the topic:

  stale          states of a key that are not newer than one before them, or reads that are older; reads of what was deleted
  reread         reads of a key that was read in that generation of its table's copy

A table without a key has no order. In each partition of its topic a truncate event says where a generation of its copy
begins: behind the last of them the table is what is left when all rows that came and went are counted. What of its changes
the generation's snapshot contains is not on the stream: such changes are contained, not missing.

Beside them: committed and received (changes), contained, records, reads, seconds, samples (texts for people).
Exit code: 0 all is well, 1 not, 2 it could not be found out.

--break plants a fault in what was read, so that one can see it found: drop, repeat, swap, value, transaction; and of copies
stale (a read placed last, of a row that has changed since), lose (a row of a chunk), reread (a row read twice), undead (a
read of a row behind its delete), doubled (a generation of a table without a key whose truncate events do not come).
"""

import argparse
import collections
import datetime
import hashlib
import io
import json
import pickle
import struct
import sys
import time
import urllib.request
import uuid
from decimal import Decimal, InvalidOperation

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

# In the fold: a large value, and one that no event of the key has carried. The latter is what the column had in the row that
# moved here, by the number of the change that moved it; None for a row that did not move.
Big = collections.namedtuple("Big", "length digest")
Unknown = collections.namedtuple("Unknown", "moved column")
# The last state of a key: version and place in the order, the generation that it was read in, the row's columns and values,
# None for a key without a row.
State = collections.namedtuple("State", "version position partition generation columns values")
LARGE = 200  # bytes, above which only a digest is kept
LAST = 1 << 62  # reads come behind everything of the transaction whose commit they have
TOASTED = 1900  # bytes; Postgres moves values out of line when a row has more than some 2,000
OPS = {"c": 1, "u": 2, "d": 4}
XID = 0xFFFFFFFF  # events carry 32 bits of a transaction id, the audit 64


class Undecodable(Exception):
    pass


class Registry:
    """Schemas by id, from the REST API."""

    def __init__(self, url):
        self.url, self.schemas = url.rstrip("/"), {}

    def schema(self, number):
        if number not in self.schemas:
            with urllib.request.urlopen(f"{self.url}/schemas/ids/{number}", timeout=30) as answer:
                text = json.load(answer)["schema"]
            self.schemas[number] = fastavro.parse_schema(json.loads(text))
        return self.schemas[number]

    def decode(self, data):
        """Confluent's wire format: a zero, the schema's id in four bytes, the value."""
        if len(data) < 5 or data[0] != 0:
            raise Undecodable("no magic byte")
        reader = io.BytesIO(data[5:])
        value = fastavro.schemaless_reader(reader, self.schema(struct.unpack(">I", data[1:5])[0]), None)
        if reader.read(1):
            raise Undecodable("bytes behind the value")
        return value


class Event:
    """One record: its decoded key, the envelope or None for a tombstone."""

    __slots__ = ("topic", "partition", "offset", "id", "moved", "key", "envelope", "error")

    def __init__(self, message, registry):
        self.topic, self.partition, self.offset = message.topic(), message.partition(), message.offset()
        headers = dict(message.headers() or [])
        self.id = headers.get("id")
        self.moved = "__debezium.newkey" in headers or "__debezium.oldkey" in headers
        self.key = self.envelope = self.error = None
        try:
            if message.key() is not None:
                self.key = registry.decode(message.key())
            if message.value() is not None:
                self.envelope = registry.decode(message.value())
        except (Undecodable, TypeError, ValueError, EOFError, struct.error) as e:
            self.error = f"{type(e).__name__}: {e}"

    def place(self):
        return f"{self.topic}[{self.partition}]@{self.offset}"

    def copy(self):
        e = Event.__new__(Event)
        for name in Event.__slots__:
            setattr(e, name, getattr(self, name))
        return e


def load(text):
    return json.loads(text, parse_float=Decimal)


def same(event, truth):
    """Whether a decoded Avro value says what Postgres' JSON says. The Avro type leads: bytes stand for hex, and so on."""
    if event is None or truth is None:
        return event is None and truth is None
    if isinstance(event, bool) or isinstance(truth, bool):
        return event is truth
    if isinstance(event, (int, Decimal)) and isinstance(truth, (int, Decimal)):
        return event == truth
    if isinstance(event, float):
        try:
            return event == float(truth)
        except (TypeError, ValueError):
            return False
    if isinstance(event, datetime.datetime):
        try:
            want = datetime.datetime.fromisoformat(truth)
        except (TypeError, ValueError):
            return False
        return (event.tzinfo is None) == (want.tzinfo is None) and event == want
    if isinstance(event, (datetime.date, datetime.time, uuid.UUID)):
        return str(event) == truth
    if isinstance(event, bytes):
        return isinstance(truth, str) and truth == "\\x" + event.hex()
    if isinstance(event, list):
        return isinstance(truth, list) and len(event) == len(truth) and all(map(same, event, truth))
    if isinstance(event, str):
        if isinstance(truth, str):
            return event == truth
        try:  # json and jsonb are text in Avro, numeric without limits too
            return load(event) == truth
        except (ValueError, InvalidOperation):
            return False
    if isinstance(event, int) and isinstance(truth, str):  # a plain number of microseconds or days
        try:
            want = datetime.datetime.fromisoformat(truth)
        except ValueError:
            return False
        want = want if want.tzinfo else want.replace(tzinfo=datetime.timezone.utc)
        since = want - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return event in (since // datetime.timedelta(microseconds=1), since // datetime.timedelta(days=1))
    return event == truth


def key_text(values):
    """Identifies a key within its table; the workload's keys are of ints and text."""
    return json.dumps(list(values), ensure_ascii=False, default=str)


def large(value):
    """What the fold keeps of a value."""
    if not isinstance(value, (str, bytes)) or len(value) < LARGE:
        return value
    text = "\\x" + value.hex() if isinstance(value, bytes) else value
    return Big(len(text), hashlib.blake2b(text.encode(), digest_size=12).digest())


def digest(row):
    """Identifies a row of a table without a key, whose columns are of numbers, texts and uuids."""
    text = json.dumps({k: None if v is None else str(v) for k, v in row.items()}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


class Table:
    def __init__(self, line):
        self.name, self.key, self.full = line["table"], line["key"] or [], line["identity"] == "f"
        self.version = line["version"]
        self.states = {}  # by key_text, as bytes: millions of them must fit into memory
        self.counts = {}  # of a table without a key: partition -> digest -> how often the row is there

    def state(self, key):
        text = self.states.get(key)
        return State(*pickle.loads(text)) if text else None

    def keep(self, key, state):
        self.states[key] = pickle.dumps(tuple(state), 5)


class Truth:
    """The audit. Changes stay as text until an event wants one, and rows are read when they are compared: millions of
    them must fit into memory."""

    def __init__(self, path):
        self.tables, self.changes, self.expected, self.loose = {}, {}, {}, set()
        self.path, self.behind = path, 0
        numbers = {}
        with open(path, "rb") as lines:
            for text in lines:
                line = load(text)
                if line["kind"] == "table":
                    self.tables[line["table"]] = Table(line)
                elif line["kind"] == "row":
                    break  # they come last
                else:
                    xid = line["xid"] & XID
                    numbers[xid] = numbers.get(xid, 0) + 1
                    self.changes[xid, numbers[xid]] = text
                    self.expected[xid, numbers[xid]] = self.mask(line)
                    if not self.tables[line["table"]].key:
                        self.loose.add((xid, numbers[xid]))
                self.behind += len(text)

    def rows(self):
        with open(self.path, "rb") as lines:
            lines.seek(self.behind)
            for text in lines:
                line = load(text)
                yield self.tables[line["table"]], line["row"]

    def mask(self, line):
        if line["op"] == "I":
            return OPS["c"]
        if line["op"] == "D":
            return OPS["d"]
        key = self.tables[line["table"]].key
        moved = any(line["old"][k] != line["new"][k] for k in key)
        return OPS["d"] | OPS["c"] if moved else OPS["u"]


class Account:
    """What was read so far, held against the truth."""

    def __init__(self, truth, prefix):
        self.truth, self.prefix = truth, prefix
        self.open = len(truth.expected) - len(truth.loose)  # changes not wholly received
        self.seen, self.ids, self.commits = {}, set(), {}  # ids by their hash
        self.deleted = set()  # (topic, key) that must have a tombstone next
        self.moved = {}  # large values of rows that left their key, by the number of the change
        self.columns, self.lists = {}, []  # the numbers of lists of columns, and these by number
        self.count = dict.fromkeys(("records", "reads", "repeated", "disordered", "different", "unexpected", "tombstones",
                                    "duplicate_ids", "stale", "reread"), 0)
        self.samples = []
        for table in truth.tables.values():
            table.states, table.counts = {}, {}

    def bad(self, what, event, why):
        self.count[what] += 1
        if len(self.samples) < 20:
            self.samples.append(f"{what}: {event.place()}: {why}")

    def take(self, e):
        self.count["records"] += 1
        if e.error:
            return self.bad("different", e, e.error)
        if e.id is None or hash(e.id) in self.ids:
            self.bad("duplicate_ids", e, f"header id {e.id}")
        self.ids.add(hash(e.id))
        table = self.truth.tables[e.topic[len(self.prefix) + 1:]]
        if e.envelope is not None and e.envelope["op"] == "t":
            return self.emptied(e, table)
        if not table.key:
            return self.loose(e, table)
        if sorted(e.key or []) != sorted(table.key):
            return self.bad("different", e, f"key {e.key}, want {table.key}")
        key = key_text(e.key[k] for k in table.key)
        slot = (e.topic, key)
        if e.envelope is None:
            if slot in self.deleted:
                self.deleted.remove(slot)
            else:
                self.bad("tombstones", e, f"of {key} without a delete")
            return None
        if slot in self.deleted:
            self.deleted.remove(slot)
            self.bad("tombstones", e, f"none after the delete of {key}")
        op, source = e.envelope["op"], e.envelope["source"]
        if op == "d":
            self.deleted.add(slot)
        before = table.state(key)
        if op == "r":
            self.read(e, table, key, before, source)
            return None
        if any(source.get(name) is None for name in ("txId", "commit_lsn", "ordinal")):
            return self.bad("different", e, f"source has no place in it: {source}")
        position, number = (source["commit_lsn"], source["ordinal"]), (source["txId"], source["ordinal"])
        self.order(e, before, position)
        change = self.match(e, table, op, source)
        self.place(e, table, key, before, position, number, change)
        return None

    def order(self, e, before, position):
        if before and (position < before.position or before.partition != e.partition):
            self.bad("disordered", e, f"{position} in partition {e.partition} after {before.position} in {before.partition}")

    def read(self, e, table, key, before, source):
        """Takes a row of a first copy."""
        self.count["reads"] += 1
        after, generation = e.envelope["after"], generation_of(e)
        if after is None or source.get("snapshot") in (None, "false") or source.get("commit_lsn") is None or generation is None:
            return self.bad("different", e, f"a read without a row, its marker, its place or its generation {e.id}: {source}")
        for k in table.key:
            if e.key[k] != after[k]:
                return self.bad("different", e, f"key {e.key}, and {k} is {short(after[k])}")
        position, version = (source["commit_lsn"], LAST), after["version"] if table.version else 0
        self.order(e, before, position)
        if before:
            # A row that has left its key and come back is read by its key, which its id says.
            if before.generation == generation and e.id.count(b"/") < 4:
                self.bad("reread", e, f"{key} in generation {generation}")
            if table.version and version < before.version + (before.values is None):
                gone = ", which was deleted" if before.values is None else ""
                self.bad("stale", e, f"{key}: a read of version {version} after {before.version}{gone}")
            version = max(version, before.version)
        table.keep(key, State(version, position, e.partition, generation, *self.row(after)))
        return None

    def row(self, row):
        """The number of the list of columns, and the values of a row."""
        return self.columns.setdefault(tuple(row), len(self.columns)), tuple(map(large, row.values()))

    def folded(self, state):
        """The row of a state; None where it has none."""
        if state is None or state.values is None:
            return None
        if len(self.lists) < len(self.columns):
            self.lists = list(self.columns)
        return dict(zip(self.lists[state.columns], state.values))

    def place(self, e, table, key, before, position, number, change):
        """Folds an event into the last state of its key. The change is the audit's, where the event is of one."""
        version, generation = (before.version, before.generation) if before else (0, None)
        last = self.folded(before) or {}
        after = e.envelope["after"]
        if e.envelope["op"] == "d" or after is None:
            if table.version and change:
                version = max(version, change["old"]["version"])
            if e.moved:
                self.moved[number] = {k: v for k, v in last.items() if isinstance(v, (Big, Unknown))}
            table.keep(key, State(version, position, e.partition, generation, None, None))
            return
        row = dict(after)
        for name in e.envelope.get("unavailable") or []:
            row[name] = Unknown(number, name) if e.moved else last.get(name, Unknown(None, name))
        if table.version:
            if row["version"] <= version:
                self.bad("stale", e, f"{key}: version {row['version']} after {version}")
            version = max(version, row["version"])
        table.keep(key, State(version, position, e.partition, generation, *self.row(row)))

    def emptied(self, e, table):
        """Takes a truncate event: its partition holds no row from before."""
        table.counts.pop(e.partition, None)
        for key in [k for k in table.states if table.state(k).partition == e.partition]:
            s = table.state(key)
            table.keep(key, s._replace(columns=None, values=None))

    def loose(self, e, table):
        """Takes an event of a table without a key."""
        if e.key is not None or e.envelope is None:
            return self.bad("different", e, "a key or a tombstone, and the table has no key")
        op, source = e.envelope["op"], e.envelope["source"]
        before, after = e.envelope["before"], e.envelope["after"]
        count = table.counts.setdefault(e.partition, collections.Counter())
        if before is not None:
            count[digest(before)] -= 1
        if after is not None:
            count[digest(after | {name: before[name] for name in e.envelope.get("unavailable") or []})] += 1
        if op == "r":
            self.count["reads"] += 1
            if after is None or source.get("snapshot") in (None, "false"):
                self.bad("different", e, "a read without a row or its marker")
            return None
        if any(source.get(name) is None for name in ("txId", "commit_lsn", "ordinal")):
            return self.bad("different", e, f"source has no place in it: {source}")
        self.match(e, table, op, source)
        return None

    def match(self, e, table, op, source):
        """Finds the change that an event is of; None where there is none."""
        number = (source["txId"], source["ordinal"])
        expected = self.truth.expected.get(number)
        if expected is None or op not in OPS:
            return self.bad("unexpected", e, f"op {op} of transaction {number[0]}, change {number[1]}")
        bit, seen = OPS[op], self.seen.get(number, 0)
        if not bit & expected:
            return self.bad("different", e, f"op {op} is not what change {number[1]} of transaction {number[0]} did")
        if bit & seen:
            return self.bad("repeated", e, f"op {op} of transaction {number[0]}, change {number[1]}")
        self.seen[number] = seen | bit
        if self.seen[number] == expected and number not in self.truth.loose:
            self.open -= 1
        if self.commits.setdefault(number[0], source["commit_lsn"]) != source["commit_lsn"]:
            return self.bad("different", e, f"transaction {number[0]} has two commit LSNs")
        change = load(self.truth.changes[number])
        why = self.differs(e, table, op, source, change)
        return self.bad("different", e, why) if why else change

    def differs(self, e, table, op, source, change):
        """Says in what an event differs from its change, or nothing."""
        if f'{source["schema"]}.{source["table"]}' != change["table"] or table.name != change["table"]:
            return f"table, want {change['table']}"
        old, new = change["old"], change["new"]
        before, after = e.envelope["before"], e.envelope["after"]
        row = old if op == "d" else new
        for k in table.key:
            if not same(e.key[k], row[k]):
                return f"key {e.key}, want {k} = {row[k]}"
        if op == "d":
            if after is not None:
                return "a delete with an after"
            if before is None:
                return "a delete without a before"
        elif after is None:
            return "no after"
        if op == "u" and table.full and before is None:
            return "an update under full identity without a before"
        if op == "c" and before is not None:
            return "a create with a before"
        if before is not None:
            if set(before) != set(old):
                return f"columns of before: {sorted(set(before) ^ set(old))}"
            for name, value in before.items():
                # Under default identity the server sends the key; the rest is null, and cannot be told from it.
                sent = table.full or name in table.key
                if not (same(value, old[name]) if sent else value is None):
                    return f"before.{name} is {short(value)}, want {short(old[name] if sent else None)}"
        if op == "d":
            return None
        if set(after) != set(new):
            return f"columns of after: {sorted(set(after) ^ set(new))}"
        unavailable = set(e.envelope.get("unavailable") or [])
        for name, value in after.items():
            if name in unavailable:
                # Only a TOASTed value that the change left alone need not be sent.
                if old is None or old[name] != new[name] or len(str(new[name])) < TOASTED:
                    return f"after.{name} is marked as not sent, and is {short(new[name])}"
                unavailable.remove(name)
            elif not same(value, new[name]):
                return f"after.{name} is {short(value)}, want {short(new[name])}"
        if unavailable:
            return f"unavailable names no column: {sorted(unavailable)}"
        return None

    def report(self):
        mismatches = 0

        def mismatch(table, key, why):
            nonlocal mismatches
            mismatches += 1
            if len(self.samples) < 40:
                self.samples.append(f"fold_mismatch: {table.name} {key}: {why}")

        left = {name: collections.Counter() for name in self.truth.tables}
        for table in self.truth.tables.values():
            for count in table.counts.values():
                left[table.name].update(count)
        for table, row in self.truth.rows():
            if not table.key:
                left[table.name][digest(row)] -= 1
                continue
            key = key_text(row[k] for k in table.key)
            folded = self.folded(table.state(key))
            why = self.unlike(folded, row) if folded else "is in the table only"
            if why:
                mismatch(table, key, why)
            table.states.pop(key, None)
        for table in self.truth.tables.values():
            for key in table.states:
                if table.state(key).values is not None:
                    mismatch(table, key, "is in the topic only")
            for kind, n in left[table.name].items():
                if n != 0:
                    mismatch(table, kind.hex(), f"is there {abs(n)} times {'more' if n > 0 else 'less'} in the topic")
        for topic, key in sorted(self.deleted):
            self.count["tombstones"] += 1
            self.samples.append(f"tombstones: {topic}: none after the delete of {key}")
        lost = [n for n, mask in self.truth.expected.items() if self.seen.get(n, 0) != mask]
        contained = sum(n in self.truth.loose for n in lost)
        lost = [n for n in lost if n not in self.truth.loose]
        for number in lost[:10]:
            self.samples.append(f"missing: change {number[1]} of transaction {number[0]}: "
                                + short(self.truth.changes[number].decode(), 200))
        total = len(self.truth.expected) - contained
        return {"committed": total, "received": total - len(lost), "missing": len(lost), "contained": contained, **self.count,
                "fold_mismatch": mismatches}

    def unlike(self, folded, row):
        for name, value in row.items():
            # A column added later is null in events from before; one that was dropped is not in the row.
            got = self.known(folded.get(name))
            if isinstance(got, Unknown):
                return f"{name} is not known, want {short(value)}"
            if not (got == large(value) if isinstance(got, Big) and isinstance(value, str) else same(got, value)):
                return f"{name} is {short(got)}, want {short(value)}"
        return None

    def known(self, value):
        """Follows a row through the keys that it had to the large value that it had there."""
        while isinstance(value, Unknown):
            before = self.moved.get(value.moved, {}).get(value.column)
            if before is None:
                return value
            value = before
        return value


def generation_of(e):
    """The generation of a copy that a read is of: the third part of its id."""
    parts = (e.id or b"").split(b"/")
    return int(parts[2]) if len(parts) > 2 and parts[2].isdigit() else None


def short(value, most=60):
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)})"


def read(args, truth, registry, account, keep):
    """Reads all topics of the tables up to their ends; while changes are missing it waits for more, --wait at most."""
    consumer = Consumer({
        "bootstrap.servers": args.brokers,
        "group.id": f"oracle-{uuid.uuid4()}",  # never joined: partitions are assigned, nothing is committed
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "check.crcs": True,
        "allow.auto.create.topics": False,
    })
    topics = {f"{args.prefix}.{name}" for name in truth.tables}
    assigned, ended, offsets, looked = set(), set(), {}, 0.0
    begin = progress = time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if now - looked > 1:  # topics appear with their first event
                looked = now
                found = consumer.list_topics(timeout=30).topics
                new = {(t, p) for t in topics & found.keys() for p in found[t].partitions} - assigned
                if new:
                    consumer.incremental_assign([TopicPartition(t, p, 0) for t, p in new])
                    assigned |= new
            for message in consumer.consume(2000, 0.2):
                place = (message.topic(), message.partition())
                if message.error() is not None:
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        ended.add(place)
                        continue
                    if message.error().retriable():
                        continue
                    raise KafkaException(message.error())
                ended.discard(place)
                progress = time.monotonic()
                if message.offset() <= offsets.get(place, -1):
                    raise RuntimeError(f"{place} went back to offset {message.offset()}")
                offsets[place] = message.offset()
                event = Event(message, registry)
                account.take(event)
                if keep is not None:
                    keep.append(event)
            now = time.monotonic()
            if ended == assigned:
                if account.open == 0 and now - progress > args.settle:
                    return
                if account.open > 0 and now - begin > args.wait and now - progress > args.settle:
                    return
            if now - begin > args.limit:
                raise TimeoutError(f"not at the end of the topics after {args.limit:.0f} s")
    finally:
        consumer.close()


def plant(fault, events, truth):
    """Returns the events with one fault in them, in the middle of those where it can be."""
    data = [i for i, e in enumerate(events) if e.envelope is not None and e.envelope["op"] in OPS]
    events = list(events)

    def middle(candidates):
        if not candidates:
            raise RuntimeError(f"nothing to {fault}: {len(events)} records")
        return candidates[len(candidates) // 2]

    if fault == "drop":
        del events[middle(data)]
    elif fault == "repeat":
        i = middle(data)
        events.insert(i, events[i])
    elif fault == "swap":  # neighbours of one key: between keys there is no order to break
        last, pairs = {}, []
        for i in data:
            slot = (events[i].topic, events[i].partition, key_text(events[i].key.values()))
            if slot in last:
                pairs.append((last[slot], i))
            last[slot] = i
        i, j = middle(pairs)
        events[i], events[j] = events[j], events[i]
    elif fault == "value":
        def changeable(e):
            table = truth.tables[f'{e.envelope["source"]["schema"]}.{e.envelope["source"]["table"]}']
            return [name for name, value in (e.envelope["after"] or {}).items() if name not in table.key
                    and type(value) in (int, str) and name not in (e.envelope.get("unavailable") or [])]
        i = middle([i for i in data if changeable(events[i])])
        name = changeable(events[i])[0]
        events[i] = events[i].copy()
        value = events[i].envelope["after"][name]
        changed = value + (1 if isinstance(value, int) else "?")
        events[i].envelope = {**events[i].envelope, "after": {**events[i].envelope["after"], name: changed}}
    elif fault == "transaction":  # as a reader sees it that never got it: with its tombstones
        xid = events[middle(data)].envelope["source"]["txId"]
        kept, gone = [], set()
        for e in events:
            slot = (e.topic, key_text(e.key.values()))
            if e.envelope is not None and e.envelope["source"]["txId"] == xid:
                if e.envelope["op"] == "d":
                    gone.add(slot)
            elif e.envelope is None and slot in gone:
                gone.remove(slot)
            else:
                kept.append(e)
        events = kept
    else:
        plant_copy(fault, events, middle)
    return events


def plant_copy(fault, events, middle):
    """Plants a fault of a first copy."""
    of = collections.defaultdict(list)  # events of each key
    for i, e in enumerate(events):
        if e.key is not None:
            of[e.topic, key_text(e.key.values())].append(i)

    def op(i):
        return events[i].envelope["op"] if events[i].envelope is not None else None

    def later(i, n):
        """Moves a read behind the event n, as if it had its place there."""
        e = events[i].copy()
        at = next(events[j] for j in range(n, -1, -1) if events[j].topic == e.topic and events[j].envelope is not None)
        source = {**e.envelope["source"], "commit_lsn": at.envelope["source"]["commit_lsn"]}
        e.envelope = {**e.envelope, "source": source}
        events.insert(n + 1, e)
        del events[i]

    alone = [s[0] for s in of.values() if len(s) == 1 and op(s[0]) == "r"]
    if fault == "stale":
        later(*middle([(i, s[-1]) for s in of.values() for i in s[:-1] if op(i) == "r" and op(s[-1]) == "u"]))
    elif fault == "lose":
        del events[middle(alone)]
    elif fault == "reread":
        i = middle(alone)
        e = events[i].copy()
        e.id += b"0"
        events.insert(i + 1, e)
    elif fault == "undead":  # behind its tombstone
        later(*middle([(i, s[-1]) for s in of.values() for i in s[:-2] if op(i) == "r" and op(s[-2]) == "d"]))
    elif fault == "doubled":
        begins = [i for i, e in enumerate(events) if op(i) == "t"]
        last = max(generation_of(events[i]) for i in begins)
        if last < 2:
            raise RuntimeError("no generation was broken off")
        for i in reversed(begins):
            if generation_of(events[i]) == last:
                del events[i]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--registry", required=True, help="URL of the schema registry")
    parser.add_argument("--prefix", required=True, help="topics are PREFIX.schema.table")
    parser.add_argument("--audit", required=True, help="the export, JSON lines")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for changes that are missing")
    parser.add_argument("--settle", type=float, default=1, help="seconds without a record that make an end")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for all")
    parser.add_argument("--break", dest="fault", choices=["drop", "repeat", "swap", "value", "transaction", "stale", "lose",
                                                          "reread", "undead", "doubled"])
    args = parser.parse_args()
    begin = time.monotonic()
    truth, registry = Truth(args.audit), Registry(args.registry)
    account, keep = Account(truth, args.prefix), [] if args.fault else None
    read(args, truth, registry, account, keep)
    if args.fault:
        account = Account(truth, args.prefix)
        for event in plant(args.fault, keep, truth):
            account.take(event)
    report = account.report()
    clean = not any(v for k, v in report.items() if k not in ("committed", "received", "contained", "records", "reads"))
    report["seconds"] = round(time.monotonic() - begin, 1)
    report["samples"] = account.samples
    print(json.dumps(report, ensure_ascii=False))
    return 0 if clean else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as e:  # anything at all: the answer is not known, which is neither 0 nor 1
        print(f"oracle: {type(e).__name__}: {e}", file=sys.stderr)
        sys.exit(2)
