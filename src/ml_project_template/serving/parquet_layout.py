"""What a Parquet file says of its own size, read before anything of it is unpacked.

Pyarrow's view of a damaged footer can end the whole process, by an exception of C++ that nothing
catches, and some kilobytes can stand for a terabyte. So footer and page headers are read here
first: they are structs in Thrift's compact protocol, by the field numbers of ``parquet.thrift``.
"""

from __future__ import annotations

import struct
from typing import Any

from ml_project_template.serving.contract import Contract
from ml_project_template.serving.http import RefusalError

__all__ = ["check_parquet", "check_size", "contradiction"]

_MAX_UNPACKED = 256 * 2**20  # bytes of a table in memory
_MAX_FOOTER = 4 * 2**20  # bytes with which a Parquet file describes itself


def check_size(size: int) -> None:
    """Refuse a table of more than 256 MiB in memory.

    Args:
        size: Its bytes, once it is unpacked.

    Raises:
        RefusalError: 422.
    """
    if size > _MAX_UNPACKED:
        raise RefusalError(
            422,
            f"The table is too large once it is unpacked: {_MAX_UNPACKED // 2**20} MiB are the "
            "most. Send fewer rows or columns.",
        )


def contradiction() -> RefusalError:
    """Make the refusal of a file whose parts do not go together."""
    return RefusalError(400, "The body can't be read as Parquet: it contradicts itself.")


def check_parquet(body: bytes, contract: Contract) -> int:
    """See what a Parquet file says of its size, and that each part says the same.

    The numbers of the fields are those of ``parquet.thrift``. Columns are taken to be flat, as all
    are that `_check_columns` lets through.

    Returns:
        How many rows there are.

    Raises:
        RefusalError: 400 or 422.
    """
    if len(body) < 12 or not body.startswith(b"PAR1") or not body.endswith(b"PAR1"):
        raise RefusalError(400, "The body can't be read as Parquet: it lacks PAR1 at an end.")
    start = len(body) - 8 - struct.unpack_from("<I", body, len(body) - 8)[0]
    if start < 4 or len(body) - start > _MAX_FOOTER:
        raise RefusalError(400, "The body can't be read as Parquet: its footer is too long.")
    footer = _Thrift(body, start).read_struct()
    num_rows = _integer(footer, 3)
    if num_rows < 0:
        raise contradiction()
    contract.check_count(num_rows)
    rows = size = 0
    for group in _structs(footer, 4):
        rows_here = _integer(group, 3)
        rows += rows_here
        for chunk in _structs(group, 1):
            kind, column = chunk.get(3, (0, None))
            if kind != _STRUCT or not 0 <= rows_here == _integer(column, 5):
                raise contradiction()
            size += _pages_size(body, column, rows_here)
            check_size(size)
    if rows != num_rows:
        raise contradiction()
    return num_rows


def _pages_size(body: bytes, column: _Fields, num_values: int) -> int:
    """Add up the sizes of the pages of a column once they are unpacked, as Arrow finds them."""
    start, length = _integer(column, 9), _integer(column, 7)
    dictionary = _integer(column, 11) if column.get(11, (0, 0))[0] == _INT64 else 0
    if 0 < dictionary < start:
        start = dictionary
    end = start + length
    if start < 0 or length < 0 or end > len(body):
        raise contradiction()
    size = seen = 0
    while seen < num_values and start < end:
        thrift = _Thrift(body, start)
        header = thrift.read_struct()
        unpacked, packed = _integer(header, 2, _INT32), _integer(header, 3, _INT32)
        if unpacked < 0 or packed < 0:
            raise contradiction()
        size += unpacked
        for number in (5, 8):  # a page of data, of the first and of the second version
            kind, data = header.get(number, (0, None))
            if kind == _STRUCT:
                seen += max(0, _integer(data, 1, _INT32))
        start = thrift.position + packed
    return size


_INT32, _INT64, _LIST, _STRUCT = 5, 6, 9, 12
_Fields = dict[int, tuple[int, Any]]


def _integer(fields: _Fields, number: int, kind: int = _INT64) -> int:
    found, value = fields.get(number, (0, 0))
    if found != kind:
        raise contradiction()
    return int(value)


def _structs(fields: _Fields, number: int) -> list[_Fields]:
    kind, value = fields.get(number, (0, None))
    if kind != _LIST:
        raise contradiction()
    element, items = value
    if items and element != _STRUCT:
        raise contradiction()
    return list(items)


class _Thrift:
    """Reads Thrift's compact protocol, in which Parquet describes itself.

    Args:
        data: The bytes.
        position: Where to begin.

    Attributes:
        position: Behind what was read last.
    """

    def __init__(self, data: bytes, position: int) -> None:
        self.position = position
        self._data = data

    def read_struct(self, depth: int = 0) -> _Fields:
        """Read a struct.

        Args:
            depth: How deep it stands in others.

        Returns:
            The number of each field to its type and value.

        Raises:
            ValueError: It is none.
        """
        fields: _Fields = {}
        number = 0
        while kind := self._byte():
            step, kind = kind >> 4, kind & 15
            number = number + step if step else self._zigzag()
            if number in fields:
                # Arrow's reader would put the two together.
                raise ValueError("A field stands twice.")
            value = kind == 1 if kind in {1, 2} else self._value(kind, depth)
            fields[number] = kind, value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in {4, _INT32, _INT64}:
            return self._zigzag()
        if kind in {1, 2, 3}:
            return self._byte()
        if kind in {7, 8, 13}:
            length = {7: 8, 13: 16}.get(kind) or (self._varint() if kind == 8 else 0)
            self.position += length
            if self.position > len(self._data):
                raise ValueError("It ends too early.")
            return None
        if kind in {_LIST, 10}:
            head = self._byte()
            count, element = head >> 4, head & 15
            count = self._varint() if count == 15 else count
            if depth > 20:
                raise ValueError("Too deep.")
            return element, [self._value(element, depth + 1) for _ in range(count)]
        if kind == _STRUCT and depth <= 20:
            return self.read_struct(depth + 1)
        raise ValueError("It has a type that Parquet does not use.")

    def _byte(self) -> int:
        value = self._data[self.position]
        self.position += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("A number is too long.")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
