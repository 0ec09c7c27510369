"""Builds small vaults by hand, by the words of docs/format.md, and reads them back.

    python3 -m unittest test_vault_reader
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import random
import struct
import tempfile
import unittest
import zlib
from pathlib import Path
from unittest import mock

import cramjam

import vault_reader as reader

SEGMENT = "01JD0000000000000000000SEG"
TABLE = "01JD0000000000000000000TBK"
ORDERS, OLD_ORDERS = bytes(range(16)), bytes(range(16, 32))
LARGE = b"x" * 1025
TIME = 1_700_000_000_000


def crc(data, polynomial, width):
    """Bit by bit, as a second opinion on the reader's."""
    register = (1 << width) - 1
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (polynomial if register & 1 else 0)
    return register ^ (1 << width) - 1


def crc64(data):
    return crc(data, int(f"{0xAD93D23594C93659:064b}"[::-1], 2), 64)


def crc32c(data):
    return crc(data, int(f"{0x1EDC6F41:032b}"[::-1], 2), 32)


def varint(value):
    value, out = value << 1 ^ value >> 63, b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def sized(data):
    return varint(-1) if data is None else varint(len(data)) + data


def record(offset, value, key=None, time=0, headers=()):
    body = b"\0" + varint(time) + varint(offset) + sized(key) + sized(value) + varint(len(headers))
    return sized(body + b"".join(sized(name) + sized(text) for name, text in headers))


def batch(base, records, attributes=0, producer=-1, pack=lambda plain: plain, deltas=None):
    deltas = len(records) - 1 if deltas is None else deltas
    body = struct.pack(">hiqqqhii", attributes, deltas, TIME, TIME + 9, producer, 0, -1, len(records))
    body += pack(b"".join(records))
    return struct.pack(">qiibI", base, len(body) + 9, 0, 2, crc32c(body)) + body


def message(offset, magic, value, attributes=0, key=None):
    """One message of the formats 0 and 1."""
    body = bytes([magic, attributes]) + (struct.pack(">q", TIME) if magic else b"")
    for part in (key, value):
        body += struct.pack(">i", -1) if part is None else struct.pack(">i", len(part)) + part
    return struct.pack(">qiI", offset, len(body) + 4, zlib.crc32(body)) + body


def table(sections):
    """`sections` is {kind: [(column, type, values), ...]}."""
    directory, stored = [], b""
    for kind, columns in sections.items():
        entries = []
        for name, type_, values in columns:
            if type_ == "var":
                lengths = (0xFFFFFFFF if value is None else len(value) for value in values)
                plain = struct.pack(f"<{len(values)}I", *lengths) + b"".join(value or b"" for value in values)
            elif type_[0] == "b":
                plain = b"".join(values)
            else:
                plain = b"".join(v.to_bytes(int(type_[1:]) // 8, "little", signed=type_[0] == "i") for v in values)
            frame = bytes(cramjam.zstd.compress(plain))
            entries.append({"name": name, "type": type_, "at": len(stored), "stored": len(frame), "plain": len(plain)})
            stored += frame
        directory.append({"kind": kind, "rows": len(columns[0][2]), "columns": entries, "later": 1})
    text = json.dumps({"sections": directory}).encode()
    return b"BDLYTBL1" + struct.pack("<HHIQ", 1, 0, len(text), crc64(text + stored)) + text + stored


def ulid_bytes(text):
    number = 0
    for character in text:
        number = number << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    return number.to_bytes(16, "big")


RANGES = [(name, kind) for name, (kind, _) in reader.SECTIONS["ranges"].items()]


def ranges(rows):
    """Columns of section `ranges`; what a row does not tell is -1 or zero."""
    plain = {"b16": bytes(16), "b32": bytes(32), "i32": -1, "i64": -1}
    return [(name, kind, [row.get(name, plain.get(kind, 0)) for row in rows]) for name, kind in RANGES]


def write(root, path, data):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


def build(root, change=lambda rows: None):
    """A vault of two commits. `change` may spoil the rows of the table, not those of the footer."""
    chunks = {
        (OLD_ORDERS, 0, 0, 1): (batch(0, [record(0, b"old")]), 1, 1),
        (ORDERS, 0, 1, 8): (
            # Record 0 lies before the first offset; 3 and 4 are aborted at 5; 6 is committed at 7.
            batch(0, [record(0, b"before"), record(1, b"a", b"k", 5, [(b"h", b"1"), (b"\xc3\xa9", None)]),
                      record(2, None, b"")])
            + batch(3, [record(0, b"lost"), record(1, b"lost")], 16, 7)
            + batch(5, [record(0, b"\0\0\0\0\0\0", b"\0\0\0\0")], 48, 7)
            + batch(6, [record(0, LARGE)], 16, 7)
            + batch(7, [record(0, b"\0\0\0\0\0\0", b"\0\0\0\1")], 48, 7), 8, 4),
        # A compacted batch: fewer records than offsets, packed, with append time.
        (ORDERS, 0, 10, 13): (batch(10, [record(2, b"c")], 9, pack=gzip.compress, deltas=2), 1, 1),
    }
    rows, data = [], b""
    for (topic, partition, first, after), (chunk, records, kept) in chunks.items():
        rows.append({
            "topic": topic, "partition": partition, "first": first, "next": after, "segment": ulid_bytes(SEGMENT),
            "position": len(data), "stored": len(chunk), "plain": len(chunk), "records": records, "kept": kept,
            "min_ts": TIME, "max_ts": TIME + 9, "crc64": crc64(chunk), "digest": hashlib.sha256(chunk).digest()})
        data += chunk
    names = [("topic", "b16", [ORDERS, OLD_ORDERS]), ("name", "var", [b"orders", b"orders"]),
             ("state", "u8", [1, 0]), ("incarnation", "u32", [1, 0])]
    footer = table({"ranges": ranges(rows), "topics": names})
    segment = data + footer + struct.pack("<Q", len(footer)) + b"BDLYSEG1"
    rows += [{"topic": ORDERS, "partition": 0, "kind": 2, "reason": 1, "first": 8, "next": 10},
             {"topic": ORDERS, "partition": 1, "kind": 1, "first": 0, "next": 0}]
    change(rows)
    rows.sort(key=lambda row: (row["topic"], row["partition"], row.get("rewind", 0), row["first"]))
    index = table({
        "ranges": ranges(rows), "topics": [*names, ("later", "u16", [1, 2])], "later": [("thing", "u8", [1, 2])],
        "configs": [("topic", "b16", [ORDERS]), ("name", "var", [b""]), ("value", "var", [None])],
        "aborted": [("topic", "b16", [ORDERS]), ("partition", "u32", [0]), ("rewind", "u32", [0]),
                    ("producer_id", "i64", [7]), ("first", "i64", [3]), ("marker", "i64", [5])]})
    identity = json.dumps({"magic": "bodley-vault", "format": 1, "vault_id": "0" * 32, "cluster_id": "c",
                           "created": TIME, "evidence": "sha256"}).encode()
    write(root, "vault.json", identity)
    write(root, f"data/{SEGMENT}.seg", segment)
    write(root, f"index/{TABLE}.tbl", index)
    write(root, "index/.tmp-orphan", b"unfinished")
    digest = commit(root, 1, None, {"op": "init", "vault_sha256": hashlib.sha256(identity).hexdigest(),
                                    "read_features": [], "write_features": [], "tables": [], "segments": []})
    commit(root, 2, digest, {
        "op": "append",
        "tables": [{"id": TABLE, "bytes": len(index), "rows": len(rows) + 6,
                    "sha256": hashlib.sha256(index).hexdigest()}],
        "segments": [{"id": SEGMENT, "bytes": len(segment), "crc64": f"{crc64(segment):016x}", "class": 0}]})


def commit(root, seq, prev, more):
    """Writes a commit and gives its digest."""
    text = json.dumps({"seq": seq, "prev": prev, "nonce": "0" * 32, "writer": "0" * 32, "base": seq - 1,
                       "time": TIME + seq, "tool": "by hand", **more}).encode()
    digest = hashlib.sha256(text).hexdigest()
    write(root, f"log/{0:016}/{seq:04}.json", text + b"\n" + digest.encode() + b"\n")
    return digest


def run(*arguments):
    """The reader's exit code, records and messages."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch("sys.argv", ["vault_reader.py", *map(str, arguments)]), \
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            reader.main()
        except SystemExit as end:
            code = end.code
    return code, [json.loads(text) for text in out.getvalue().splitlines()], err.getvalue()


class Checksums(unittest.TestCase):
    def test_check_values(self):
        self.assertEqual(reader.crc64(b"123456789"), 0xAE8B14860A799888)
        self.assertEqual(reader.crc32c(b"123456789"), 0xE3069283)

    def test_folding_changes_nothing(self):
        source = random.Random(1)
        for size in [*range(510, 530), 768, 1023, 1024, 1025, 1032, 1033, 4096, 9999]:
            data = source.randbytes(size)
            self.assertEqual(reader.crc64(data), crc64(data), size)
            self.assertEqual(reader.crc32c(data), crc32c(data), size)


class Batches(unittest.TestCase):
    def read(self, chunk):
        return [entry for each in reader.split(chunk) for entry in each.records()]

    def test_codecs(self):
        def framed(plain):
            blocks = (bytes(cramjam.snappy.compress_raw(part)) for part in (plain[:50], plain[50:]))
            return b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"".join(
                struct.pack(">i", len(block)) + block for block in blocks)

        packers = [(1, gzip.compress), (2, cramjam.snappy.compress_raw), (2, framed), (3, cramjam.lz4.compress),
                   (4, cramjam.zstd.compress)]
        for codec, pack in packers:
            chunk = batch(5, [record(0, b"v" * 99), record(1, b"w")], codec, pack=lambda plain: bytes(pack(plain)))
            self.assertEqual([(e.offset, e.value) for e in self.read(chunk)], [(5, b"v" * 99), (6, b"w")], pack)

    def test_old_formats(self):
        inner = message(0, 1, b"a") + message(2, 1, b"b", key=b"k")
        chunk = message(3, 0, b"z") + message(9, 1, gzip.compress(inner), 1) + message(12, 1, gzip.compress(inner), 9)
        chunk += message(14, 0, gzip.compress(message(13, 0, b"y") + message(14, 0, None)), 1)
        self.assertEqual([entry[:5] for entry in self.read(chunk)], [
            (3, -1, "NoTimestampType", None, b"z"),
            (7, TIME, "CreateTime", None, b"a"), (9, TIME, "CreateTime", b"k", b"b"),
            (10, TIME, "LogAppendTime", None, b"a"), (12, TIME, "LogAppendTime", b"k", b"b"),
            (13, -1, "NoTimestampType", None, b"y"), (14, -1, "NoTimestampType", None, None)])


class Vaults(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def assert_damage(self, *words, arguments=()):
        code, _, messages = run(self.root, *arguments)
        self.assertEqual(code, 3, messages)
        for word in words:
            self.assertIn(word, messages)

    def test_output(self):
        build(self.root)

        def entry(offset, value, key=None, time=TIME, kind="CreateTime", headers=()):
            return {"topic": "orders", "partition": 0, "offset": offset, "timestamp": time, "timestampType": kind,
                    "key": key, "value": value, "headers": list(headers)}

        committed = [
            entry(1, "YQ==", "aw==", TIME + 5, headers=[["h", "MQ=="], ["é", None]]), entry(2, None, ""),
            entry(6, {"sha256": hashlib.sha256(LARGE).hexdigest(), "length": 1025}),
            entry(12, "Yw==", None, TIME + 9, "LogAppendTime")]
        lost = base64.b64encode(b"lost").decode()
        aborted = [entry(3, lost), entry(4, lost)]
        self.assertEqual(run(self.root), (0, committed, ""))
        code, records, messages = run(self.root, "--check", "--topic", "orders", "--isolation", "read_uncommitted")
        self.assertEqual((code, records), (0, committed[:2] + aborted + committed[2:]), messages)
        self.assertIn("topic orders partition 0 offset 8: lost up to 10 (retention)", messages)
        records = run(self.root, "--all-incarnations")[1]
        self.assertEqual(records, [entry(0, "b2xk"), *committed])
        self.assertEqual(run(self.root, "--topic", "none")[:2], ("no topic none", []))

    def test_every_flipped_byte_is_reported(self):
        build(self.root)
        for path in sorted(path for path in self.root.rglob("*") if path.is_file() and path.suffix):
            data = path.read_bytes()
            for at in range(0, len(data), 1 if len(data) < 1000 else 7):
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
                code, _, messages = run(self.root)
                self.assertIn(code, (2, 3) if path.name == "vault.json" else (3,), f"{path} at {at}: {messages}")
                self.assertIn(path.name, messages)
            path.write_bytes(data)
        self.assertEqual(run(self.root)[0], 0)

    def test_damage_has_a_place(self):
        build(self.root)
        segment = self.root / f"data/{SEGMENT}.seg"
        data = segment.read_bytes()
        segment.unlink()
        self.assert_damage(f"data/{SEGMENT}.seg: missing", "topic orders partition 0 offset 1")
        segment.write_bytes(data[:-1])
        self.assert_damage(f"data/{SEGMENT}.seg", "size")
        (self.root / f"log/{0:016}/0001.json").unlink()
        self.assert_damage("0001.json: missing")

    def test_ranges(self):
        def row_of(rows, **values):
            return next(row for row in rows if values.items() <= row.items())

        def hole(rows):
            rows.remove(row_of(rows, kind=2))
        build(self.root, hole)
        self.assert_damage("topic orders partition 0 offset 10", "hole")
        build(self.root, lambda rows: row_of(rows, kind=2).update(next=9))
        self.assert_damage("topic orders partition 0 offset 10", "hole")
        build(self.root, lambda rows: row_of(rows, kind=2).update({"from": 8}))
        self.assert_damage("topic orders partition 0 offset 8", "from")
        build(self.root, lambda rows: row_of(rows, first=1).update(crc64=1))
        self.assert_damage("topic orders partition 0 offset 1", "CRC-64 of the chunk")
        build(self.root, lambda rows: row_of(rows, first=1).update(digest=bytes(32)))
        self.assert_damage("topic orders partition 0 offset 1", "digest")
        build(self.root, lambda rows: row_of(rows, first=1).update(kept=3))
        self.assertEqual(run(self.root)[0], 0)
        self.assert_damage("topic orders partition 0 offset 1", "kept is 3", arguments=["--check"])
        build(self.root, lambda rows: row_of(rows, first=10).update(kind=3))
        self.assertEqual(run(self.root)[0], 2)

    def test_batch_checksum(self):
        with self.assertRaisesRegex(reader.Damage, "offset 4: CRC-32C"):
            chunk = bytearray(batch(4, [record(0, b"v")]))
            chunk[-1] ^= 1
            list(reader.split(bytes(chunk)))

    def test_rewind_wins(self):
        rows = [{"kind": kind, "rewind": rewind, "first": first, "next": after} for kind, rewind, first, after in (
            (0, 0, 0, 10), (0, 0, 10, 20), (0, 1, 5, 8), (1, 2, 7, 7), (0, 2, 7, 12))]
        pieces = [(first, after, row["rewind"]) for first, after, row in reader.visible(rows)]
        self.assertEqual(pieces, [(0, 5, 0), (5, 7, 1), (7, 12, 2)])

    def test_refused(self):
        self.assertEqual(run(self.root)[0], 2)
        build(self.root)
        head = (self.root / f"log/{0:016}/0002.json").read_bytes().split(b"\n")[1].decode()
        commit(self.root, 3, head, {"op": "purge"})
        self.assertIn("commit 3: op purge", run(self.root)[2])
        digest = commit(self.root, 3, head, {"op": "protocol", "read_features": ["later"]})
        self.assertIn("later", run(self.root)[2])
        commit(self.root, 4, digest, {"op": "protocol", "read_features": []})
        self.assertEqual(run(self.root)[0], 0)
        commit(self.root, 4, head, {"op": "protocol", "read_features": []})
        self.assert_damage("0004.json", "prev")
        (self.root / "vault.json").write_text('{"magic": "bodley-vault", "format": 2}')
        self.assertEqual(run(self.root)[0], 2)


if __name__ == "__main__":
    unittest.main()
