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
  fold_mismatch  rows that differ between the tables and the last state of each key in the topics

Beside them: committed and received (changes), records, reads (snapshot events), seconds, samples (texts for people).
Exit code: 0 all is well, 1 not, 2 it could not be found out.

--break plants a fault in what was read, so that one can see it found: drop, repeat, swap, value, transaction.
"""

import argparse
import datetime
import io
import json
import struct
import sys
import time
import urllib.request
import uuid
from decimal import Decimal, InvalidOperation

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

UNAVAILABLE = object()  # in the fold: a value that no event has carried
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

    __slots__ = ("topic", "partition", "offset", "id", "key", "envelope", "error")

    def __init__(self, message, registry):
        self.topic, self.partition, self.offset = message.topic(), message.partition(), message.offset()
        self.id = dict(message.headers() or []).get("id")
        self.key = self.envelope = self.error = None
        try:
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


class Table:
    def __init__(self, line):
        self.name, self.key, self.full = line["table"], line["key"], line["identity"] == "f"
        self.rows = {}  # by key_text


class Truth:
    """The audit. Changes stay as text until an event wants one: a million of them must fit into memory."""

    def __init__(self, path):
        self.tables, self.changes, self.expected = {}, {}, {}
        numbers = {}
        with open(path, "rb") as lines:
            for text in lines:
                line = load(text)
                if line["kind"] == "table":
                    self.tables[line["table"]] = Table(line)
                elif line["kind"] == "row":
                    table = self.tables[line["table"]]
                    table.rows[key_text(line["row"][k] for k in table.key)] = line["row"]
                else:
                    xid = line["xid"] & XID
                    numbers[xid] = numbers.get(xid, 0) + 1
                    self.changes[xid, numbers[xid]] = text
                    self.expected[xid, numbers[xid]] = self.mask(line)

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
        self.open = len(truth.expected)  # changes not wholly received
        self.seen, self.ids, self.commits = {}, set(), {}
        self.last = {}  # (topic, key) -> (position, partition)
        self.deleted = set()  # (topic, key) that must have a tombstone next
        self.fold = {name: {} for name in truth.tables}
        self.count = dict.fromkeys(
            ("records", "reads", "repeated", "disordered", "different", "unexpected", "tombstones", "duplicate_ids"), 0)
        self.samples = []

    def bad(self, what, event, why):
        self.count[what] += 1
        if len(self.samples) < 20:
            self.samples.append(f"{what}: {event.place()}: {why}")

    def take(self, e):
        self.count["records"] += 1
        if e.error:
            return self.bad("different", e, e.error)
        if e.id is None or e.id in self.ids:
            self.bad("duplicate_ids", e, f"header id {e.id}")
        self.ids.add(e.id)
        table = self.truth.tables[e.topic[len(self.prefix) + 1:]]
        if sorted(e.key) != sorted(table.key):
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
        self.place(e, table, key, op)
        if op == "r":  # of the first copy, whose place in the order is not a commit's
            self.count["reads"] += 1
            return None
        if any(source.get(name) is None for name in ("txId", "commit_lsn", "ordinal")):
            return self.bad("different", e, f"source has no place in it: {source}")
        self.order(e, slot, source)
        return self.match(e, table, op, source)

    def order(self, e, slot, source):
        position = (source["commit_lsn"], source["ordinal"])
        before, partition = self.last.get(slot, (position, e.partition))
        if position < before or partition != e.partition:
            self.bad("disordered", e, f"{position} in partition {e.partition} after {before} in {partition}")
        self.last[slot] = (position, e.partition)

    def place(self, e, table, key, op):
        """Folds an event into the last state of its key."""
        rows = self.fold[table.name]
        if op == "d":
            rows.pop(key, None)
        elif e.envelope["after"] is not None:
            before, row = rows.get(key, {}), dict(e.envelope["after"])
            for name in e.envelope.get("unavailable") or []:
                row[name] = before.get(name, UNAVAILABLE)
            rows[key] = row

    def match(self, e, table, op, source):
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
        if self.seen[number] == expected:
            self.open -= 1
        if self.commits.setdefault(number[0], source["commit_lsn"]) != source["commit_lsn"]:
            return self.bad("different", e, f"transaction {number[0]} has two commit LSNs")
        why = self.differs(e, table, op, source, load(self.truth.changes[number]))
        return self.bad("different", e, why) if why else None

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
        for name, table in self.truth.tables.items():
            rows = self.fold[name]
            for key in table.rows.keys() | rows.keys():
                why = self.unlike(rows.get(key), table.rows.get(key))
                if why:
                    mismatches += 1
                    if len(self.samples) < 40:
                        self.samples.append(f"fold_mismatch: {name} {key}: {why}")
        for topic, key in sorted(self.deleted):
            self.count["tombstones"] += 1
            self.samples.append(f"tombstones: {topic}: none after the delete of {key}")
        lost = [n for n, mask in self.truth.expected.items() if self.seen.get(n, 0) != mask]
        for number in lost[:10]:
            self.samples.append(f"missing: change {number[1]} of transaction {number[0]}: "
                                + short(self.truth.changes[number].decode(), 200))
        total = len(self.truth.expected)
        return {"committed": total, "received": total - len(lost), "missing": len(lost), **self.count,
                "fold_mismatch": mismatches}

    def unlike(self, folded, row):
        if folded is None or row is None:
            return "is in the table only" if folded is None else "is in the topic only"
        for name, value in row.items():
            # A column added later is null in events from before; one that was dropped is not in the row.
            got = folded.get(name)
            if got is UNAVAILABLE or not same(got, value):
                return f"{name} is {'not known' if got is UNAVAILABLE else short(got)}, want {short(value)}"
        return None


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
    return events


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--registry", required=True, help="URL of the schema registry")
    parser.add_argument("--prefix", required=True, help="topics are PREFIX.schema.table")
    parser.add_argument("--audit", required=True, help="the export, JSON lines")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for changes that are missing")
    parser.add_argument("--settle", type=float, default=1, help="seconds without a record that make an end")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for all")
    parser.add_argument("--break", dest="fault", choices=["drop", "repeat", "swap", "value", "transaction"])
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
    clean = not any(v for k, v in report.items() if k not in ("committed", "received", "records", "reads"))
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
