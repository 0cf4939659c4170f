# SPDX-License-Identifier: Apache-2.0
"""udif.py - makes DMG images (UDIF), for tests: as descriptions of the format have it, no tool here writes them."""
import base64
import bz2
import lzma
import random
import zlib

SECTOR = 512
ZEROS, RAW, NOTHING, COMMENT, END = 0, 1, 2, 0x7ffffffe, 0xffffffff
ADC, ZLIB, BZIP2, LZFSE, LZMA = 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0x80000008


def number(value, size):
    return value.to_bytes(size, "big")


def adc(data):
    """Apple Data Compression: bytes as they are, and copies of each of its two kinds, of any length that they can have."""
    out, at, plain, seen, rng = bytearray(), 0, 0, {}, random.Random(len(data))

    def flush(end):
        nonlocal plain
        while plain < end:
            n = min(end - plain, rng.choice([1, 17, 128]))
            out.append(0x80 | n - 1)
            out.extend(data[plain:plain + n])
            plain += n

    while at < len(data):
        back = at - seen.get(data[at:at + 4], at)
        seen[data[at:at + 4]] = at
        n, most = 0, rng.choice([4, 18, 40, 67])
        while 0 < back <= 65536 and n < most and at + n < len(data) and data[at + n] == data[at + n - back]:
            n += 1
        if n < 4:
            at += 1
            continue
        flush(at)
        if n <= 18 and back <= 1024:
            out.extend(number((n - 3) << 10 | back - 1, 2))
        else:
            out.extend(number(0x40 | n - 4, 1) + number(back - 1, 2))
        at += n
        plain = at
    flush(at)
    return bytes(out)


def piece(kind, sector, count, at=0, length=0):
    return number(kind, 4) + bytes(4) + b"".join(number(v, 8) for v in (sector, count, at, length))


def table(first, pieces, count):
    """One partition's: pieces are numbered from its first sector on."""
    head = b"mish" + number(1, 4) + number(first, 8) + number(count, 8) + number(0, 8) + number(2056, 4)
    return head.ljust(200, b"\0") + number(len(pieces), 4) + b"".join(pieces)


def build(path, content, rng, kinds, resources=False, reverse=False):
    """Content in two partitions, of pieces of any size whose kinds are picked from the list. @reverse: their tables."""
    sectors = len(content) // SECTOR
    data, tables, border = b"", [], sectors // 3
    for first, last in ((0, border), (border, sectors)):
        pieces, at = [piece(COMMENT, 0, 0)], first
        while at < last:
            count = min(rng.choice([1, 7, 256, 512, 2048]), last - at)
            part = content[at * SECTOR:(at + count) * SECTOR]
            kind = rng.choice([ZEROS, NOTHING]) if not any(part) else rng.choice(kinds)
            packed = {ZEROS: lambda p: b"", NOTHING: lambda p: b"", RAW: bytes, ADC: adc, ZLIB: zlib.compress, BZIP2: bz2.compress,
                      LZMA: lzma.compress}[kind](part)
            pieces.append(piece(kind, at - first, count, len(data), len(packed)))
            data += packed
            at += count
        pieces.append(piece(END, last - first, 0, len(data)))
        tables.append(table(first, pieces, last - first))
    tables = tables[::-1] if reverse else tables
    if resources:
        listed = b"".join(number(len(t), 4) + t for t in tables)
        listed = number(256, 4) + number(256 + len(listed), 4) + number(len(listed), 4) + number(0, 4) + bytes(240) + listed
    else:
        listed = b"<?xml version=\"1.0\"?><plist><dict><key>resource-fork</key><dict><key>blkx</key><array>\n"
        for t in tables:
            listed += b"<dict><key>Data</key><data>\n" + base64.encodebytes(t) + b"</data></dict>\n"
        listed += b"</array><key>plst</key><array><dict><key>Data</key><data>AAAA</data></dict></array></dict></dict></plist>\n"
    trailer = bytearray(SECTOR)
    trailer[0:12] = b"koly" + number(4, 4) + number(SECTOR, 4)
    trailer[24:40] = number(0, 8) + number(len(data), 8)
    where = number(len(data), 8) + number(len(listed), 8)
    trailer[40:56] = where if resources else bytes(16)
    trailer[216:232] = bytes(16) if resources else where
    trailer[488:500] = number(1, 4) + number(sectors, 8)
    with open(path, "wb") as f:
        f.write(data + listed + bytes(trailer))
