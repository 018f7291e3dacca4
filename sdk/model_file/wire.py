"""Protobuf's wire format: messages as numbered fields, read and written without any package."""

from __future__ import annotations

from collections.abc import Iterator


class MalformedError(Exception):
    """The bytes are no protobuf message of the expected kind."""


class Message:
    """One protobuf message: its fields by number, nested messages still as bytes."""

    def __init__(self, data: memoryview) -> None:
        self._numbers: dict[int, list[int]] = {}
        self._bytes: dict[int, list[memoryview]] = {}
        for field, value in fields(data):
            if isinstance(value, int):
                self._numbers.setdefault(field, []).append(value)
            else:
                self._bytes.setdefault(field, []).append(value)

    def texts(self, field: int) -> list[str]:
        """Return all strings of a field."""
        return [str(value, "utf-8") for value in self._bytes.get(field, ())]

    def has(self, field: int) -> bool:
        """Return True if the field is there."""
        return field in self._numbers or field in self._bytes

    def messages(self, field: int) -> list[Message]:
        """Return the messages of a field."""
        return [Message(value) for value in self._bytes.get(field, ())]

    def number(self, field: int) -> int | None:
        """Return the last number of a field."""
        return self._numbers[field][-1] if field in self._numbers else None

    def text(self, field: int) -> str:
        """Return the last string of a field, empty if there is none."""
        return str(self._bytes[field][-1], "utf-8") if field in self._bytes else ""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value): a number for varints, bytes for everything with a length."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        field, wire_type = key >> 3, key & 7
        if field == 0:
            raise MalformedError(f"field number 0 at byte {position}")
        if wire_type == 0:
            number, position = _varint(data, position)
            yield field, number
            continue
        if wire_type == 2:
            length, position = _varint(data, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise MalformedError(f"wire type {wire_type} at byte {position}")
        if length > end - position:
            raise MalformedError(f"a field of {length} bytes with {end - position} left")
        if wire_type == 2:
            yield field, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise MalformedError("the file ends inside a number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise MalformedError(f"a number longer than 10 bytes at byte {position}")


def encoded(field: int, value: int | bytes | memoryview) -> list[bytes | memoryview]:
    """Return the parts of a field as it is written: a number, or bytes with their length."""
    if isinstance(value, int):
        return [_encoded_varint(field << 3), _encoded_varint(value)]
    return [_encoded_varint(field << 3 | 2), _encoded_varint(len(value)), value]


def _encoded_varint(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)
