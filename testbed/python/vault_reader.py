"""A small reader of vaults on a local folder, written from docs/format.md alone.

It shares no code with the product: where the two disagree, one of them or that page is wrong. Records go to stdout
as one JSON object a line, sorted by topic, partition and offset. Control records are never among them. Exit codes:
1 no such topic, 2 not a vault that this reader can read, 3 damage.
"""

import argparse
import base64
import contextlib
import functools
import gzip
import hashlib
import json
import math
import re
import struct
import sys
import zlib
from collections import defaultdict, namedtuple
from pathlib import Path

import cramjam


class Refused(Exception):
    """The folder is not a vault, or one that needs another reader."""


class Damage(Exception):
    """The vault breaks a rule of its format."""


def require(condition, message):
    if not condition:
        raise Damage(message)


@contextlib.contextmanager
def naming(place):
    """Puts `place` before the message of any damage found inside the block."""
    try:
        yield
    except Damage as error:
        raise Damage(f"{place}: {error}") from None
    except FileNotFoundError:
        raise Damage(f"{place}: missing") from None
    except (LookupError, TypeError, ValueError, AttributeError, OSError, EOFError, OverflowError, struct.error,
            zlib.error, cramjam.DecompressionError) as error:
        raise Damage(f"{place}: {type(error).__name__}: {error}") from error


class Crc:
    """A reflected CRC of `width` bytes; initial value and final xor are all ones.

    Long inputs are folded first: a head with n bytes behind it weighs head * x^(8n), so head * (x^(8n) mod P) can
    be added onto the bytes that follow. `bytes.translate` multiplies all bytes of the head at once.
    """

    def __init__(self, polynomial, width):
        self.width, self.ones, self.table = width, (1 << 8 * width) - 1, []
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (polynomial if byte & 1 else 0)
            self.table.append(byte)

    @functools.cache
    def lanes(self, n):
        """Lane j maps a byte to byte j of its product with x^(8n) mod P."""
        power, products = self.advance(0, b"\x80" + bytes(n - self.width)), [0] * 256
        for byte in range(1, 256):
            products[byte] = products[byte & byte - 1] ^ power * (byte & -byte) << 1
        return [bytes(product >> 8 * j & 255 for product in products) for j in range(self.width + 1)]

    def advance(self, register, data):
        if len(data) > 512:
            start = int.from_bytes(data[:self.width], "little") ^ register
            data, register = start.to_bytes(self.width, "little") + data[self.width:], 0
        while len(data) > 512:
            n = 1 << (len(data) - 1).bit_length() - 1
            head, size, product = data[:-n], max(n, len(data) - n + self.width), 0
            for j, lane in enumerate(self.lanes(n)):
                product ^= int.from_bytes(head.translate(lane), "little") << 8 * j
            product <<= 8 * (size - len(head) - self.width)
            data = (int.from_bytes(data[-n:], "little") << 8 * (size - n) ^ product).to_bytes(size, "little")
        for byte in data:
            register = register >> 8 ^ self.table[(register ^ byte) & 255]
        return register

    def __call__(self, data):
        return self.advance(self.ones, data) ^ self.ones


crc64 = Crc(0x9A6C9329AC4BC9B5, 8)
crc32c = Crc(0x82F63B78, 4)


# Tables

def columns(text):
    """`name:type` or `name:type=default` to {name: (type, default)}."""
    plain = {"var": b"", "b16": bytes(16), "b32": None}
    return {name: (kind, int(default) if default else plain.get(kind, 0))
            for name, kind, default in re.findall(r"(\w+):(\w+)(?:=(\S+))?", text)}


SECTIONS = {
    "ranges": columns(
        "topic:b16 partition:u32 kind:u8 reason:u8 rewind:u32 first:i64 next:i64 last_epoch:i32=-1"
        " leader_epoch:i32=-1 lso:i64=-1 hw:i64=-1 from:i64=-1 segment:b16 position:u64 stored:u32 plain:u32"
        " codec:u8 key_id:b16 records:i64=-1 kept:i64=-1 min_ts:i64=-1 max_ts:i64=-1 crc64:u64 digest:b32 seq:u64"),
    "topics": columns(
        "topic:b16 name:var state:u8 partitions:u32 replication:u16 internal:u8 synthetic:u8 incarnation:u32"),
    "configs": columns("topic:b16 name:var value:var"),
    "groups": columns(
        "group:var topic:b16 partition:i32 state:u8 type:var protocol_type:var unstable:u8 taken:i64"
        " offset:i64 leader_epoch:i32 metadata:var"),
    "aborted": columns("topic:b16 partition:u32 rewind:u32 producer_id:i64 first:i64 marker:i64=-1 seq:u64"),
    "cursors": columns(
        "topic:b16 partition:u32 rewind:u32 next:i64 last_epoch:i32=-1 leader_epoch:i32=-1 seq:u64 from:i64=-1"),
    "segments": columns("id:b16 bytes:u64 crc64:u64 class:u32 seq:u64"),
    "page": columns("seq:u64"),
    "segment": columns("writer:b16 base:u64"),
}
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i32": 4, "i64": 8, "b16": 16, "b32": 32}


def unpack_column(kind, plain, rows):
    """The values of one column from its plain form."""
    if kind != "var":
        width = WIDTHS[kind]
        require(len(plain) == rows * width, "plain size is not rows x width")
        values = [plain[at:at + width] for at in range(0, len(plain), width)]
        return values if kind[0] == "b" else [int.from_bytes(v, "little", signed=kind[0] == "i") for v in values]
    values, at = [], 4 * rows
    for length in struct.unpack_from(f"<{rows}I", plain):
        values.append(None if length == 0xFFFFFFFF else plain[at:at + length])
        at += 0 if length == 0xFFFFFFFF else length
    require(at == len(plain), "lengths of values do not add up")
    return values


def read_table(data, plains=None):
    """{kind: [row, ...]} of the known sections, and the rows of all sections; `plains` gets the plain forms."""
    magic, version, _, length, crc = struct.unpack_from("<8sHHIQ", data)
    require(magic == b"BDLYTBL1" and version == 1, "not a table of version 1")
    require(length <= 1 << 20 and 24 + length <= len(data), "directory length out of bounds")
    require(crc64(data[24:]) == crc, "CRC-64 of the table differs")
    tables, total, start = {}, 0, 24 + length
    for section in json.loads(data[24:start])["sections"]:
        kind, rows = section["kind"], section["rows"]
        require(0 <= rows <= 1 << 28 and kind not in tables, f"section {kind} twice or too large")
        known = SECTIONS.get(kind, {})
        values = {name: [default] * rows for name, (_, default) in known.items()}
        for column in (column for column in section["columns"] if column["name"] in known):
            name, at, stored, plain = (column[field] for field in ("name", "at", "stored", "plain"))
            with naming(f"column {kind}.{name}"):
                require(column["type"] == known[name][0], f"type {column['type']}")
                require(0 <= at and 0 <= stored and start + at + stored <= len(data), "outside of the table")
                require(0 <= plain < 1 << 31, "plain size out of bounds")
                buffer = bytearray(plain)
                unpacked = cramjam.zstd.decompress_into(data[start + at:start + at + stored], buffer) if stored else 0
                require(unpacked == plain, "plain size differs")
                values[name] = unpack_column(column["type"], bytes(buffer), rows)
                if plains is not None:
                    plains[kind, name] = bytes(buffer)
        tables[kind] = [dict(zip(values, row)) for row in zip(*values.values())]
        total += rows
    return tables, total


# Record batches

Record = namedtuple("Record", "offset timestamp timestamp_type key value headers")
TIME_TYPES = ("CreateTime", "LogAppendTime")


def decompress(codec, data, magic):
    """The plain records of a compressed batch."""
    if codec == 2 and data.startswith(b"\x82SNAPPY\0"):
        blocks, at = [], 16
        while at < len(data):
            size = struct.unpack_from(">I", data, at)[0]
            blocks.append(bytes(cramjam.snappy.decompress_raw(data[at + 4:at + 4 + size])))
            at += 4 + size
        return b"".join(blocks)
    if codec == 3 and magic == 0 and data[4:6] == b"\x60\x40":
        data = data[:6] + b"\x82" + data[7:]  # format 0 has a header checksum of its own making
    require(1 <= codec <= 4, f"compression {codec} is not known")
    codecs = (gzip.decompress, cramjam.snappy.decompress_raw, cramjam.lz4.decompress, cramjam.zstd.decompress)
    return bytes(codecs[codec - 1](data))


class Bytes:
    """A position in bytes, with the variable-length forms of a record."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def varint(self):
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value >> 1 ^ -(value & 1)

    def take(self, length):
        """The next `length` bytes; None when it is -1."""
        require(-1 <= length <= len(self.data) - self.at, "a length reaches beyond its batch")
        self.at += max(length, 0)
        return None if length == -1 else self.data[self.at - length:self.at]


class Batch:
    """One record batch (magic 2), or one message of the formats 0 and 1, maybe a wrapper of others."""

    def __init__(self, raw):
        self.raw, self.magic, self.producer = raw, raw[16], -1
        self.base = self.last = struct.unpack_from(">q", raw)[0]
        with naming(f"batch at offset {self.base}"):
            require(self.magic <= 2, f"magic {self.magic} is not known")
            if self.magic == 2:
                crc, self.attributes, delta, self.base_time, self.max_time, self.producer, _, _, self.count = \
                    struct.unpack_from(">IhiqqqhiI", raw, 17)
                self.last += delta
                require(crc32c(raw[21:]) == crc, "CRC-32C differs")
            else:
                crc, _, self.attributes = struct.unpack_from(">IBB", raw, 12)
                require(zlib.crc32(raw[16:]) == crc, "CRC-32 differs")
        self.codec, self.time_type = self.attributes & 7, TIME_TYPES[self.attributes >> 3 & 1]
        self.transactional, self.control = (self.magic == 2 and bool(self.attributes & bit) for bit in (16, 32))

    def records(self):
        """All records of the batch, control records too."""
        with naming(f"batch at offset {self.base}"):
            return list(self.new_records() if self.magic == 2 else self.old_records())

    def new_records(self):
        data = self.raw[61:]
        at = Bytes(decompress(self.codec, data, 2) if self.codec else data)
        for _ in range(self.count):
            end = at.varint() + at.at
            at.take(1)
            time, offset = self.base_time + at.varint(), self.base + at.varint()
            key, value = at.take(at.varint()), at.take(at.varint())
            headers = [(at.take(at.varint()), at.take(at.varint())) for _ in range(at.varint())]
            require(at.at == end and offset <= self.last, f"record at offset {offset}: its length or offset is wrong")
            time = self.max_time if self.time_type == "LogAppendTime" else time
            yield Record(offset, time, self.time_type, key, value, headers)
        require(at.at == len(at.data), "bytes behind the last record")

    def old_records(self):
        at = Bytes(self.raw[18:])
        time, kind = -1, "NoTimestampType"
        if self.magic == 1:
            time, kind = struct.unpack(">q", at.take(8))[0], self.time_type
        key, value = (at.take(struct.unpack(">i", at.take(4))[0]) for _ in range(2))
        if not self.codec:
            yield Record(self.base, time, kind, key, value, [])
            return
        inner = [record for batch in split(decompress(self.codec, value, self.magic)) for record in batch.records()]
        shift = self.base - inner[-1].offset if self.magic == 1 else 0
        for record in inner:
            record = record._replace(offset=record.offset + shift)
            yield record._replace(timestamp=time, timestamp_type=kind) if kind == "LogAppendTime" else record


def split(chunk):
    """The batches that stand one behind the other in `chunk`."""
    at = 0
    while at < len(chunk):
        end = at + 12 + struct.unpack_from(">i", chunk, at + 8)[0]
        require(at + 17 < end <= len(chunk), "a batch reaches beyond its chunk")
        yield Batch(chunk[at:end])
        at = end


# The vault

DATA, GAP = 0, 2
OPS = ("init", "append", "protocol")


def ulid(text):
    """Checks the text form of a ULID, so that it is safe in a path."""
    require(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", text), f"{text!r} is not a ULID")
    return text


def ulid_text(raw):
    number = int.from_bytes(raw, "big")
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> shift & 31] for shift in range(125, -1, -5))


def visible(rows):
    """(first, next, row) of what is to be read, by offset: a rewind epoch hides all of lower ones from where it begins."""
    begins = {}
    for row in rows:
        begins.setdefault(row["rewind"], row["first"])
    pieces = []
    for row in (row for row in rows if row["kind"] == DATA):
        cuts = [begin for rewind, begin in begins.items() if rewind > row["rewind"]]
        pieces.append((row["first"], min([row["next"], *cuts]), row))
    return sorted((piece for piece in pieces if piece[0] < piece[1]), key=lambda piece: piece[:2])


class Vault:
    """The fold of all commits, and the way to the records."""

    def __init__(self, root, checkpoint=False):
        self.root = Path(root)
        self.topics, self.segments, self.footers = {}, {}, {}
        self.rows = defaultdict(list)  # (topic, partition): rows of section `ranges`, oldest first
        self.cursors = defaultdict(list)  # (topic, partition): (seq, cursor), oldest first
        self.aborted = defaultdict(dict)  # (topic, partition, rewind, producer): {first: marker}
        start = self.newest_checkpoint() if checkpoint else None
        self.evidence, commits = self.read_log(start)
        if start:
            with naming(f"checkpoint of commit {start['seq']}"):
                self.load(start)
        for commit in commits:
            with naming(f"commit {commit['seq']}"):
                self.fold(commit)

    def read_log(self, start):
        """The evidence algorithm and the commits behind `start`; checks the identity, the chain and the features."""
        names = (f"{path.parent.name}/{path.name}" for path in self.root.glob("log/*/*.json"))
        found = [re.fullmatch(r"(\d{16})/(\d{4})\.json", name) for name in names]
        head = max((int(match[1] + match[2]) for match in found if match), default=0)
        try:
            raw = (self.root / "vault.json").read_bytes()
            identity = json.loads(raw)
            require(identity["magic"] == "bodley-vault", "another magic")
        except (OSError, ValueError, TypeError, KeyError, Damage) as error:
            raise (Damage if head else Refused)(f"vault.json: not the identity of a vault: {error!r}") from None
        if identity.get("format") != 1 or not head:
            raise Refused(f"vault.json: format {identity.get('format')}, {head} commits: not known, or nothing in it")
        first = start["seq"] if start else 1
        require(first <= head, f"checkpoint of commit {first}: the log ends at {head}")
        commits, digest = [], None
        for seq in range(first, head + 1):
            path = f"log/{seq // 10000:016}/{seq % 10000:04}.json"
            with naming(path):
                commit, own = self.two_lines(path)
                require(commit["seq"] == seq and (seq > 1 or commit["op"] == "init"), "another seq, or 1 is not init")
                if start and seq == first:
                    require(own == start["digest"], "it is another than that of the checkpoint")
                else:
                    require(commit["prev"] == digest, "prev is not the digest of the commit before")
                digest = own
                commits.append(commit)
        stated = (start or commits[0]).get("vault_sha256")
        require(stated == hashlib.sha256(raw).hexdigest(), "vault.json: its SHA-256 differs")
        behind = commits[1:] if start else commits
        features = [start["read_features"]] if start else []
        features += [commit.get("read_features") for commit in behind if commit["op"] in ("init", "protocol")]
        if features[-1]:
            raise Refused(f"read features {features[-1]} are not known")
        return identity.get("evidence", "none"), behind

    def two_lines(self, path):
        """An object of two lines, and its digest."""
        lines = (self.root / path).read_bytes().split(b"\n")
        require(len(lines) == 3 and not lines[2], "not two lines")
        require(hashlib.sha256(lines[0]).hexdigest().encode() == lines[1], "line 2 is not line 1's SHA-256")
        return json.loads(lines[0]), lines[1].decode()

    def newest_checkpoint(self):
        """Line 1 of the newest checkpoint, which must be there."""
        paths = sorted(f"checkpoint/{path.name}" for path in self.root.glob("checkpoint/*.json"))
        require(paths, "there is no checkpoint")
        with naming(paths[-1]):
            name = re.fullmatch(r"checkpoint/(\d{20})-(\w{26})\.json", paths[-1])
            checkpoint, _ = self.two_lines(paths[-1])
            require(ulid(name[2]) and int(name[1]) == checkpoint["seq"], "another seq than in its name")
            return checkpoint

    def load(self, checkpoint):
        """Starts from the pages of a checkpoint."""
        started = defaultdict(set)
        for page in checkpoint["pages"]:
            sections = self.table(page)
            require("page" in sections, f"index/{page['id']}.tbl: it is no page")
            for row in sections.get("segments", []):
                name = ulid_text(row["id"])
                self.segments[name] = {"id": name, "bytes": row["bytes"], "crc64": f"{row['crc64']:016x}"}
            ranges, aborted = ([(row["seq"], kind, row) for row in sections.get(kind, [])]
                               for kind in ("ranges", "aborted"))
            for seq, kind, row in sorted(aborted + ranges, key=lambda row: (row[0], row[1] == "aborted")):
                if kind == "aborted":
                    self.add_aborted([row])
                else:
                    # Nothing between its base and itself moved the partition.
                    self.add_range({"seq": seq, "base": seq - 1}, row, started[seq])
        plains = {}
        heads = self.table(checkpoint["heads"], plains)
        self.topics = {row["topic"]: row for row in heads.get("topics", [])}
        for row in heads.get("cursors", []):
            key = (row["topic"], row["partition"])
            last = self.rows[key][-1]
            found = (*self.cursors[key][-1], last["rewind"], last["from"])
            require(found == (row["seq"], row["next"], row["rewind"], row["from"]), f"cursor {row}: it is {found}")
        require(len(heads.get("cursors", [])) == len(self.rows), "not one cursor for each partition")
        unseen = {key + (first,) for key, entries in self.aborted.items()
                  for first, marker in entries.items() if marker == -1}
        named = ("topic", "partition", "rewind", "producer_id", "first")
        require({tuple(row[name] for name in named) for row in heads.get("aborted", [])} == unseen, "open transactions")
        state = hashlib.sha256()
        for kind in ("cursors", "topics", "configs", "groups", "aborted"):
            for name in SECTIONS[kind]:
                state.update(plains.get((kind, name), b""))
        require(state.hexdigest() == checkpoint["state"], "the digest of the state differs")

    def fold(self, commit):
        """Adds one commit to what is known."""
        if commit["op"] not in OPS or any(commit.get(field) for field in ("remove", "condemn", "gone")):
            raise Refused(f"commit {commit['seq']}: op {commit['op']} is not known")
        self.segments |= {ulid(segment["id"]): segment for segment in commit.get("segments", [])}
        started = set()
        for table in commit.get("tables", []):
            sections = self.table(table)
            with naming(f"index/{table['id']}.tbl"):
                self.topics |= {row["topic"]: row for row in sections.get("topics", [])}
                self.add_aborted(sections.get("aborted", []))
                ranges = sections.get("ranges", [])
                order = [(row["topic"], row["partition"], row["rewind"], row["first"]) for row in ranges]
                require(order == sorted(order), "section ranges is not sorted")
                for row in ranges:
                    self.add_range(commit, row, started)

    def table(self, entry, plains=None):
        """The sections of a table that a commit or a checkpoint lists."""
        path = f"index/{ulid(entry['id'])}.tbl"
        with naming(path):
            data = (self.root / path).read_bytes()
            require(len(data) == entry["bytes"], "its size differs")
            require(hashlib.sha256(data).hexdigest() == entry["sha256"], "its SHA-256 differs")
            sections, rows = read_table(data, plains)
            require(rows == entry["rows"], "its number of rows differs")
            return sections

    def add_aborted(self, rows):
        for row in rows:
            key = (row["topic"], row["partition"], row["rewind"], row["producer_id"])
            self.aborted[key][row["first"]] = row["marker"]

    def add_range(self, commit, row, started):
        """Adds one row of `ranges`; `started` has the partitions that this commit has touched already."""
        key, first = (row["topic"], row["partition"]), row["first"]
        rows, cursors = self.rows[key], self.cursors[key]
        with naming(self.place(row)):
            if row["kind"] > GAP or row["codec"] or any(row["key_id"]):
                raise Refused(f"{self.place(row)}: kind {row['kind']}, codec {row['codec']} or its key is not known")
            cursor = next((cursor for seq, cursor in reversed(cursors) if seq <= commit["base"]), -1)
            require(row["from"] == cursor, f"from is {row['from']}, the cursor at {commit['base']} is {cursor}")
            require(first < row["next"] or first == row["next"] and row["kind"] != DATA, "an empty or inverted range")
            before = rows[-1] if rows else row | {"next": first}
            again = row["rewind"] > before["rewind"]
            require(row["rewind"] >= before["rewind"], "the rewind epoch goes back")
            require(first == before["next"] or again and first < before["next"],
                    f"a hole or an overlap: the row before ends at {before['next']}")
            if again:
                for entry in (entry for entry in self.aborted if entry[:2] == key and entry[2] < row["rewind"]):
                    self.aborted[entry] = {at: marker for at, marker in self.aborted[entry].items() if at < first}
            require(key in started or again or row["from"] in (-1, first), f"from is {row['from']}")
            require(row["kind"] != DATA or ulid_text(row["segment"]) in self.segments, "its segment is in no commit")
        started.add(key)
        rows.append(row)
        cursors.append((commit["seq"], row["next"]))

    def place(self, row):
        """Where a row is, for people."""
        topic = self.topics.get(row["topic"], {}).get("name", row["topic"].hex().encode()).decode(errors="replace")
        return f"topic {topic} partition {row['partition']} offset {row['first']}"

    def open_segment(self, name):
        """Checks a whole segment when it is first needed, and gives its path."""
        path, entry = self.root / f"data/{name}.seg", self.segments[name]
        if name not in self.footers:
            with naming(f"data/{name}.seg"):
                data = path.read_bytes()
                require(len(data) == entry["bytes"], "its size differs")
                require(crc64(data) == int(entry["crc64"], 16), "its CRC-64 differs")
                length, magic = struct.unpack("<Q8s", data[-16:])
                require(magic == b"BDLYSEG1" and length + 16 <= len(data), "its last 16 bytes are damaged")
                self.footers[name] = read_table(data[-16 - length:-16])[0]
        return path

    def chunk(self, row):
        """The batches of a data row, checked."""
        name = ulid_text(row["segment"])
        path = self.open_segment(name)
        with naming(f"data/{name}.seg at {row['position']}"), path.open("rb") as file:
            file.seek(row["position"])
            data = file.read(row["stored"])
            require(len(data) == row["stored"] == row["plain"], "the chunk's size differs")
            require(crc64(data) == row["crc64"], "CRC-64 of the chunk differs")
            if self.evidence == "sha256" and row["digest"] is not None:
                require(hashlib.sha256(data).digest() == row["digest"], "digest of the chunk differs")
            batches, last = list(split(data)), -1
            for batch in batches:
                require(last < batch.base <= batch.last < row["next"] and (last < 0 or batch.base >= row["first"]),
                        f"batch at offset {batch.base}: out of order, or not in [{row['first']}, {row['next']})")
                last = batch.last
            return batches

    def is_aborted(self, row, batch):
        """Whether a batch belongs to an aborted transaction."""
        entries = self.aborted.get((row["topic"], row["partition"], row["rewind"], batch.producer), {})
        return batch.transactional and not batch.control and any(
            first <= batch.last and (math.inf if marker == -1 else marker) > batch.base
            for first, marker in entries.items())

    def records(self, topic, partition, isolation):
        """The records of one partition by offset, as a consumer with this isolation sees them."""
        for first, after, row in visible(self.rows[topic, partition]):
            with naming(self.place(row)):
                for batch in self.chunk(row):
                    if not batch.control and (isolation == "read_uncommitted" or not self.is_aborted(row, batch)):
                        yield from (record for record in batch.records() if first <= record.offset < after)

    def check(self):
        """Reads every segment and chunk, and compares the footers, counts and times that go with them."""
        for name in self.segments:
            self.open_segment(name)
        for row in (row for rows in self.rows.values() for row in rows):
            if row["kind"] == GAP:
                reason = {1: "retention", 2: "corrupt", 3: "truncated", 4: "lost"}.get(row["reason"], "unknown")
                print(f"{self.place(row)}: lost up to {row['next']} ({reason})", file=sys.stderr)
            if row["kind"] == DATA:
                with naming(self.place(row)):
                    self.check_chunk(row)

    def check_chunk(self, row):
        """Compares the row of a chunk with its segment's footer and with its records."""
        batches = [(batch, batch.records()) for batch in self.chunk(row)]
        stored = sum(len(records) for _, records in batches)
        kept = [record for batch, records in batches for record in records
                if not batch.control and not self.is_aborted(row, batch)]
        require(row["records"] in (-1, stored), f"records is {row['records']}, there are {stored}")
        require(row["kept"] in (-1, len(kept)), f"kept is {row['kept']}, there are {len(kept)}")
        for record in (record for record in kept if record.timestamp != -1):
            require(row["min_ts"] <= record.timestamp <= row["max_ts"],
                    f"record at offset {record.offset}: its time {record.timestamp} is not in min_ts..max_ts")
        name = ulid_text(row["segment"])
        footer = [other | {"from": row["from"], "seq": row["seq"]} for other in self.footers[name].get("ranges", [])]
        require(row in footer, f"data/{name}.seg: its footer does not have this row")


def blob(data):
    """Bytes for the output: base64, or size and digest when they are long."""
    if data is not None and len(data) > 1024:
        return {"sha256": hashlib.sha256(data).hexdigest(), "length": len(data)}
    return None if data is None else base64.b64encode(data).decode()


def line(topic, partition, record):
    """One record as JSON."""
    return json.dumps({
        "topic": topic, "partition": partition, "offset": record.offset, "timestamp": record.timestamp,
        "timestampType": record.timestamp_type, "key": blob(record.key), "value": blob(record.value),
        "headers": [[(name or b"").decode(errors="replace"), blob(value)] for name, value in record.headers],
    }, separators=(",", ":"))


def show(options):
    """Prints what was asked for."""
    vault = Vault(options.vault, options.checkpoint)
    if options.check:
        vault.check()
    for (topic, partition) in vault.rows:
        require(topic in vault.topics, f"topic id {topic.hex()} partition {partition}: has ranges but no name")
    topics = sorted((row["name"].decode(), row["incarnation"], topic) for topic, row in vault.topics.items())
    newest = {name: incarnation for name, incarnation, _ in topics}
    if options.topic is not None and options.topic not in newest:
        sys.exit(f"no topic {options.topic}")
    for name, incarnation, topic in topics:
        if options.topic in (None, name) and (options.all_incarnations or incarnation == newest[name]):
            for partition in sorted(number for owner, number in vault.rows if owner == topic):
                for record in vault.records(topic, partition, options.isolation):
                    print(line(name, partition, record))


def main():
    parser = argparse.ArgumentParser(description="Prints the records of a vault as JSON lines.")
    parser.add_argument("vault")
    parser.add_argument("--topic", help="only this topic")
    parser.add_argument("--isolation", choices=("read_committed", "read_uncommitted"), default="read_committed")
    parser.add_argument("--all-incarnations", action="store_true", help="topics deleted and created again, too")
    parser.add_argument("--checkpoint", action="store_true", help="start from the newest one, which must be sound")
    parser.add_argument("--check", action="store_true", help="read and compare everything before the first record")
    try:
        show(parser.parse_args())
    except (Refused, Damage) as error:
        sys.stdout.flush()
        print(f"{type(error).__name__.lower()}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, Refused) else 3)


if __name__ == "__main__":
    main()
