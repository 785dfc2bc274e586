"""Small, seeded ways to spoil bytes, documents and tables. One seed, one input."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Sequence
from typing import Any

__all__ = [
    "Field",
    "spoil_bytes",
    "spoil_document",
    "spoil_elements",
    "spoil_fields",
    "spoil_table",
]

Field = tuple[int, str]
"""Offset, and a format of `struct`."""

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32)
LARGE = (2**40, 2**62, 2**63 - 1, -(2**63))
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e-12, 1e6, 3e38, math.nan, math.inf, -math.inf)
WORDS = (
    *("", " ", "n/a", "null", "true", "nan", "-1", "1e400", "0x10", "T1w", "../..", "/", "."),
    *("\0", "a\0b", "\ud800", "é" * 40, "名前", "\n", '"', "'", "\t", ",", "x" * 5000, "{}", "CON"),
)


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bits turned, bytes replaced, parts cut, doubled, moved, filled or added; once to thrice."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        size = min(len(data) - at, rng.choice((1, 2, 4, 16, 200)))
        match rng.randrange(9):
            case 0 if size:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if size:
                data[at : at + size] = rng.randbytes(size)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
            case 5:
                del data[at:]
            case 6:
                data[at : at + size] = rng.choice((b"\0", b"\xff")) * size
            case 7 if size >= 4:
                data[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS) & 0xFFFFFFFF)
            case _:
                data += rng.randbytes(rng.choice((1, 30, 3000)))
    return bytes(data)


def spoil_fields(
    content: bytes, fields: Sequence[Field], rng: random.Random, order: str = "<"
) -> bytes:
    """Fields of a header replaced by values that nobody expects there; one to three of them."""
    data = bytearray(content)
    for offset, layout in rng.choices(fields, k=rng.choice((1, 1, 2, 3))):
        if layout.endswith("s"):
            value: Any = rng.choice((b"n+1\0", b"ni1\0", b"", b"\xff" * 4, rng.randbytes(4)))
        elif layout in "fd":
            value = rng.choice((*REALS, rng.uniform(-1e4, 1e4)))
        else:
            bits = 8 * struct.calcsize(layout)
            value = rng.choice(
                (*NUMBERS, *LARGE, 30000, rng.randrange(1, 20), rng.getrandbits(bits))
            )
            value &= (1 << bits) - 1
            if layout.islower() and value >> (bits - 1):
                value -= 1 << bits
        struct.pack_into(order + layout, data, offset, value)
    return bytes(data)


def odd_value(rng: random.Random) -> Any:
    """Something that JSON can hold and nobody expects."""
    deep: Any = []
    for _ in range(rng.choice((1, 5, 60))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    number = rng.choice((*NUMBERS, *LARGE, 10**400, *REALS))
    word = rng.choice(WORDS)
    return rng.choice((None, True, False, number, word, [], {}, [word, number], {word: word}, deep))


def near_value(value: Any, rng: random.Random) -> Any:
    """Nearly the same."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice(
                (value + 1, value - 1, -value, 0, 2 * value, value * 10**9, str(value))
            )
        case float():
            return rng.choice(
                (-value, 0.0, 1e9 * value, 1e-9 * value, math.nan, math.inf, 1 + value)
            )
        case str():
            return rng.choice((value.upper(), value[:-1], value + value, value + "\n", [value], ""))
        case list():
            return rng.choice((value[::-1], value * 2, value[:1], value[1:], value * 300, [value]))
    return [value]


def _places(content: Any, found: list[tuple[Any, Any]]) -> None:
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        found.append((content, key))
        if isinstance(value, dict | list):
            _places(value, found)


def spoil_document(content: Any, rng: random.Random) -> Any:
    """A copy of a JSON document with values replaced, keys lost, renamed or added."""
    copy = json.loads(json.dumps(content))
    for _ in range(rng.choice((1, 1, 2, 3))):
        found: list[tuple[Any, Any]] = []
        _places(copy, found)
        if not found or rng.random() < 0.03:
            return odd_value(rng)
        holder, key = rng.choice(found)
        match rng.randrange(10):
            case 0:
                del holder[key]
            case 6 | 7 | 8 | 9:
                holder[key] = near_value(holder[key], rng)
            case 1 if isinstance(holder, dict):
                holder[rng.choice((*WORDS, f"{key}s", key.upper()))] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder.insert(key, odd_value(rng))
            case 3 if isinstance(holder, dict):
                holder[rng.choice(WORDS)] = odd_value(rng)
            case _:
                holder[key] = odd_value(rng)
    return copy


def spoil_table(rows: Sequence[Sequence[str]], rng: random.Random, delimiter: str) -> bytes:
    """A table with cells, rows or columns changed, then written as it comes, or spoiled again."""
    table = [list(row) for row in rows]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.randrange(len(table)) if table else -1
        cell = rng.choice((*WORDS, *map(str, NUMBERS), "x" * 300, "x" * 200_000, '"a', "a" * 255))
        match rng.randrange(7):
            case 0 | 1 | 2 if table and table[row]:
                table[row][rng.randrange(len(table[row]))] = cell
            case 3 if table:
                table[row].append(cell)
            case 4 if table and table[row]:
                table[row].pop(rng.randrange(len(table[row])))
            case 5 if table:
                table.insert(row, list(rng.choice(table)))
            case _ if table:
                table.pop(row)
    end = rng.choice(("\n", "\n", "\n", "\r\n", "\r", ""))
    text = end.join(delimiter.join(row) for row in table)
    code = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    content = text.encode(code, "surrogatepass" if code.startswith("utf") else "replace")
    return spoil_bytes(content, rng) if rng.random() < 0.2 else content


LONG = {b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UC", b"UN", b"UR", b"UT"}


def spoil_elements(content: bytes, rng: random.Random) -> bytes:
    """An explicit little-endian DICOM file with values, lengths, types or tags replaced."""
    elements: list[tuple[int, int, int]] = []  # begin, begin of the value, end
    at = 132
    while at + 8 <= len(content):
        long = content[at + 4 : at + 6] in LONG
        value = at + (12 if long else 8)
        size = int.from_bytes(
            content[at + 8 : at + 12] if long else content[at + 6 : at + 8], "little"
        )
        if size == 0xFFFFFFFF or value + size > len(content):
            break
        elements.append((at, value, value + size))
        at = value + size
    for begin, value, end in sorted(rng.sample(elements, rng.choice((1, 1, 2, 3))), reverse=True):
        head, body = content[begin:value], content[value:end]
        match rng.randrange(7):
            case 0 | 1 | 2:
                word = rng.choice((*WORDS, *map(str, NUMBERS), "1\\2", "1e999", "\\\\", "9" * 30))
                body = word.encode("utf-8", "surrogatepass")[:60000]
                body += b" " * (len(body) % 2)
            case 3:
                body = rng.randbytes(len(body))
            case 4:
                head = head[:4] + rng.choice((b"UN", b"SQ", b"US", b"DS", b"??", b"UI")) + head[6:]
            case 5:
                head, body = b"", b""
            case _:
                head = rng.randbytes(4) + head[4:]
        if head:  # the length, as it is now, or a lie
            size = len(body) if rng.random() < 0.85 else rng.getrandbits(16)
            wide = len(head) == 12
            head = head[: 8 if wide else 6] + (size & 0xFFFFFFFF).to_bytes(
                4 if wide else 2, "little"
            )
        content = content[:begin] + head + body + content[end:]
    return content
