"""The Merkle tree of RFC 6962, exactly: hashes, a compact frontier, proofs and their verification. Pure: values only.

Proofs are made through ``node(level, position)``, the hash of the ``position``-th complete subtree of 2**level leaves,
in O(log n) look-ups. Verification follows RFC 9162 2.1.3.2 and 2.1.4.2 and believes nothing: lengths, sizes and order
are checked, and whatever is not exactly right is False. Signatures, records and storage are other modules' business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stack.core.errors import InvalidInput

HASH_SIZE = 32
LARGEST = 2**53 - 1
EMPTY_ROOT = hashlib.sha256(b"").digest()

NodeAt = Callable[[int, int], bytes]


class NoSuchProof(InvalidInput):
    """There is no such proof: {detail}"""

    hint = "Records and tree sizes count from 1 up to the size that `stackctl audit head` shows."


def leaf_hash(data: bytes) -> bytes:
    """Of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Node:
    """A complete subtree's hash and place."""

    level: int
    position: int
    hash: bytes


def grown(size: int, leaf: bytes, node: NodeAt) -> tuple[Node, ...]:
    """The nodes that are complete once ``leaf`` stands at ``size``: itself first, then its parents.

    Asks for the left siblings only: one look-up per leaf on average, log n at most.
    """
    level, position, current = 0, size, leaf
    made = [Node(0, size, leaf)]
    while position & 1:
        current = node_hash(node(level, position - 1), current)
        level, position = level + 1, position >> 1
        made.append(Node(level, position, current))
    return tuple(made)


@dataclass(frozen=True)
class Frontier:
    """A tree's complete subtrees, the largest first: all that is needed to add leaves and to know the root."""

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def add(self, leaf: bytes) -> Frontier:
        """The frontier with one more leaf."""
        nodes, size = list(self.nodes), self.size
        while size & 1:
            leaf, size = node_hash(nodes.pop(), leaf), size >> 1
        return Frontier(self.size + 1, (*nodes, leaf))

    @property
    def root(self) -> bytes:
        """RFC 6962's Merkle tree hash."""
        return _folded(self.nodes)

    @property
    def sound(self) -> bool:
        """Whether a tree of this size can have these nodes."""
        return (
            _is_size(self.size) and len(self.nodes) == self.size.bit_count() and all(len(n) == 32 for n in self.nodes)
        )


def frontier(size: int, node: NodeAt) -> Frontier:
    """The frontier of the tree of the first ``size`` leaves."""
    return Frontier(size, tuple(node(level, position) for level, position in _complete(0, size)))


def root(size: int, node: NodeAt) -> bytes:
    """The root of the tree of the first ``size`` leaves."""
    return frontier(size, node).root


def inclusion(index: int, size: int, node: NodeAt) -> tuple[bytes, ...]:
    """RFC 6962 2.1.1: the audit path of leaf ``index`` (from 0) in the tree of ``size``."""
    if not (_is_size(size) and _is_size(index) and index < size):
        raise NoSuchProof(f"record {index + 1} in a tree of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range(middle, end, node))
            end = middle
        else:
            path.append(_range(start, middle, node))
            start = middle
    return tuple(reversed(path))


def consistency(old: int, new: int, node: NodeAt) -> tuple[bytes, ...]:
    """RFC 6962 2.1.2: that the tree of ``new`` leaves begins with that of ``old``."""
    if not (_is_size(old) and _is_size(new) and 0 < old <= new):
        raise NoSuchProof(f"from a tree of {old} to one of {new}")
    path, start, end, whole = [], 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_range(middle, end, node))
            end = middle
        else:
            path.append(_range(start, middle, node))
            start, whole = middle, False
    if not whole:
        path.append(_range(start, end, node))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether ``path`` proves that the leaf of this hash is number ``index`` of the tree of ``size`` under ``root``."""
    if not (_is_size(index) and _is_size(size) and index < size and _are_hashes(leaf, root, *path)):
        return False
    first, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if first & 1 or first == last:
            found = node_hash(sibling, found)
            first, last = _risen(first, last)
        else:
            found = node_hash(found, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Whether ``path`` proves that the tree of ``new`` begins with that of ``old``. Nothing is proven about size 0."""
    if not (_is_size(old) and _is_size(new) and 0 < old <= new and _are_hashes(old_root, new_root, *path)):
        return False
    if old == new:
        return not path and old_root == new_root
    rest = list(path) if old & (old - 1) else [old_root, *path]
    if not path:
        return False
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    was = now = rest[0]
    for sibling in rest[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            was, now = node_hash(sibling, was), node_hash(sibling, now)
            first, last = _risen(first, last)
        else:
            now = node_hash(now, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and was == old_root and now == new_root


def _risen(first: int, last: int) -> tuple[int, int]:
    """Up to where the node is a right child again (or the first of its level)."""
    while first and not first & 1:
        first, last = first >> 1, last >> 1
    return first, last


def _split(count: int) -> int:
    """The largest power of two smaller than ``count``."""
    return 1 << (count - 1).bit_length() - 1


def _complete(start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Level and position of the complete subtrees from ``start`` (where such a tree may begin) to ``end``."""
    places, at = [], start
    while at < end:
        level = (end - at).bit_length() - 1
        places.append((level, at >> level))
        at += 1 << level
    return tuple(places)


def _range(start: int, end: int, node: NodeAt) -> bytes:
    return _folded([node(level, position) for level, position in _complete(start, end)])


def _folded(nodes: Sequence[bytes]) -> bytes:
    if not nodes:
        return EMPTY_ROOT
    found = nodes[-1]
    for left in reversed(nodes[:-1]):
        found = node_hash(left, found)
    return found


def _is_size(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= LARGEST


def _are_hashes(*values: object) -> bool:
    return all(isinstance(value, bytes) and len(value) == HASH_SIZE for value in values)
