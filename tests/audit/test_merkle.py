"""RFC 6962 by the published vectors, by its own recursive definition, and by what must never be accepted.

The eight leaves, their roots and proofs are those of the Certificate Transparency reference implementation (also in
transparency-dev/merkle, testonly/constants.go); each is recomputed here from the RFC's recursion as well.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.audit.merkle import (
    EMPTY_ROOT,
    LARGEST,
    Frontier,
    NodeAt,
    NoSuchProof,
    consistency,
    frontier,
    grown,
    inclusion,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

DATA = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (index from 0, size) -> published audit path
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
# (old, new) -> published consistency proof
GROWTHS = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


# -- the RFC's own recursion, independent of the code under test


def mth(data: Sequence[bytes]) -> bytes:
    """RFC 6962 2.1."""
    if not data:
        return hashlib.sha256().digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return hashlib.sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def path(m: int, data: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 2.1.1."""
    if len(data) == 1:
        return []
    k = split(len(data))
    return [*path(m, data[:k]), mth(data[k:])] if m < k else [*path(m - k, data[k:]), mth(data[:k])]


def subproof(m: int, data: Sequence[bytes], whole: bool) -> list[bytes]:
    """RFC 6962 2.1.2."""
    if m == len(data):
        return [] if whole else [mth(data)]
    k = split(len(data))
    if m <= k:
        return [*subproof(m, data[:k], whole), mth(data[k:])]
    return [*subproof(m - k, data[k:], False), mth(data[:k])]


class Tree:
    """Complete nodes in a dict, grown leaf by leaf; counts look-ups."""

    def __init__(self, data: Sequence[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.reads = 0
        for size, leaf in enumerate(data):
            for made in grown(size, leaf_hash(leaf), self.node):
                assert (made.level, made.position) not in self.nodes
                self.nodes[made.level, made.position] = made.hash

    def node(self, level: int, position: int) -> bytes:
        self.reads += 1
        return self.nodes[level, position]


EIGHT = Tree(DATA)


def test_published_roots() -> None:
    grows = Frontier()
    for size, expected in enumerate(ROOTS):
        assert grows.size == size and grows.sound
        assert grows.root.hex() == expected == mth(DATA[:size]).hex() == root(size, EIGHT.node).hex()
        if size < 8:
            grows = grows.add(leaf_hash(DATA[size]))
    assert EMPTY_ROOT.hex() == ROOTS[0]
    print(f"RFC 6962: {len(ROOTS)} published roots")


@pytest.mark.parametrize(("place", "proof"), PATHS.items())
def test_published_audit_paths(place: tuple[int, int], proof: list[str]) -> None:
    index, size = place
    made = inclusion(index, size, EIGHT.node)
    assert [h.hex() for h in made] == proof == [h.hex() for h in path(index, DATA[:size])]
    assert verify_inclusion(leaf_hash(DATA[index]), index, size, made, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("sizes", "proof"), GROWTHS.items())
def test_published_consistency_proofs(sizes: tuple[int, int], proof: list[str]) -> None:
    old, new = sizes
    made = consistency(old, new, EIGHT.node)
    assert [h.hex() for h in made] == proof == [h.hex() for h in subproof(old, DATA[:new], True)]
    assert verify_consistency(old, new, made, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]))


def test_every_proof_of_small_trees_is_the_recursions() -> None:
    data = [bytes([n]) for n in range(33)]
    tree, proofs = Tree(data), 0
    for size in range(1, 34):
        assert frontier(size, tree.node).root == mth(data[:size])
        for index in range(size):
            made = inclusion(index, size, tree.node)
            assert list(made) == path(index, data[:size])
            assert verify_inclusion(leaf_hash(data[index]), index, size, made, mth(data[:size]))
        for old in range(1, size + 1):
            made = consistency(old, size, tree.node)
            assert list(made) == subproof(old, data[:size], True)
            assert verify_consistency(old, size, made, mth(data[:old]), mth(data[:size]))
        proofs += 2 * size
    print(f"RFC 6962: {proofs} proofs equal the recursive definition")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.data())
def test_proofs_cost_a_logarithm(size: int, data: st.DataObject) -> None:
    tree = big_tree(size)
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    tree.reads = 0
    made = inclusion(index, size, tree.node)
    assert tree.reads <= 2 * size.bit_length() and len(made) <= size.bit_length()
    whole = root(size, tree.node)
    assert verify_inclusion(tree.nodes[0, index], index, size, made, whole)
    tree.reads = 0
    grown_ = consistency(old, size, tree.node)
    assert tree.reads <= 2 * size.bit_length() + 1
    assert verify_consistency(old, size, grown_, root(old, tree.node), whole)


_BIG = Tree([n.to_bytes(4, "big") for n in range(3000)])


def big_tree(_size: int) -> Tree:
    """One tree holds all smaller ones."""
    return _BIG


def test_growing_reads_one_node_per_leaf_on_average() -> None:
    assert Tree([b""] * 1024).reads < 1024 + 1


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 4), (0, -1), (0, LARGEST + 1), (True, 4)])
def test_no_inclusion_proof_of_what_is_not_there(index: int, size: int) -> None:
    with pytest.raises(NoSuchProof):
        inclusion(index, size, EIGHT.node)
    assert not verify_inclusion(leaf_hash(b""), index, size, [], leaf_hash(b""))


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 3), (4, 3), (-1, 4), (1, LARGEST + 1), (True, 4)])
def test_no_consistency_proof_of_what_can_not_be(old: int, new: int) -> None:
    with pytest.raises(NoSuchProof):
        consistency(old, new, EIGHT.node)
    assert not verify_consistency(old, new, [], EMPTY_ROOT, EMPTY_ROOT)


def mutated(chance: random.Random, proof: Sequence[bytes]) -> list[bytes]:
    """The same proof with one thing different."""
    changed = list(proof)
    what = chance.choice(("flip", "drop", "double", "swap", "extra", "short", "long", "foreign", "empty"))
    at = chance.randrange(len(changed)) if changed else 0
    if not changed or what == "extra":
        changed.insert(chance.randrange(len(changed) + 1), chance.randbytes(32))
    elif what == "flip":
        bit = chance.randrange(256)
        changed[at] = (int.from_bytes(changed[at], "big") ^ (1 << bit)).to_bytes(32, "big")
    elif what == "drop":
        del changed[at]
    elif what == "double":
        changed.insert(at, changed[at])
    elif what == "swap":
        other = chance.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
    elif what == "short":
        changed[at] = changed[at][:-1]
    elif what == "long":
        changed[at] += b"\x00"
    elif what == "foreign":
        changed[at] = _BIG.nodes[0, chance.randrange(3000)]
    else:
        changed = []
    return changed


def attempts(count: int, node: NodeAt, seed: int = 6962) -> tuple[int, int]:
    """How many of ``count`` mutated proofs (half of each kind) were tried, and how many accepted."""
    chance, tried, accepted = random.Random(seed), 0, 0
    while tried < count:
        size = chance.randrange(1, 3000)
        index, old = chance.randrange(size), chance.randrange(1, size + 1)
        if tried % 2:
            leaf, proof, whole = node(0, index), list(inclusion(index, size, node)), root(size, node)
            said = [leaf, index, size, proof, whole]
            wrong = [
                leaf if chance.random() < 0.9 else chance.randbytes(32),
                index if chance.random() < 0.9 else chance.choice((index + 1, index - 1, index ^ 1, size, -1)),
                size if chance.random() < 0.9 else chance.choice((0, index, -size)),
                mutated(chance, proof) if chance.random() < 0.8 else proof,
                whole if chance.random() < 0.9 else chance.randbytes(32),
            ]
            if wrong == said:
                continue
            accepted += verify_inclusion(*wrong)  # type: ignore[arg-type]
        else:
            proof, was, whole = list(consistency(old, size, node)), root(old, node), root(size, node)
            said = [old, size, proof, was, whole]
            wrong = [
                old if chance.random() < 0.9 else chance.choice((old + 1, old - 1, 0, size + 1, -old)),
                size if chance.random() < 0.9 else chance.choice((0, old - 1, -size)),
                mutated(chance, proof) if chance.random() < 0.8 else proof,
                was if chance.random() < 0.9 else chance.randbytes(32),
                whole if chance.random() < 0.9 else chance.randbytes(32),
            ]
            if wrong == said:
                continue
            accepted += verify_consistency(*wrong)  # type: ignore[arg-type]
        tried += 1
    return tried, accepted


def test_no_mutated_proof_is_accepted() -> None:
    tried, accepted = attempts(10_000, _BIG.node)
    said = f"mutated Merkle proofs: {tried} tried, {accepted} accepted"
    print(said)
    assert tried >= 10_000 and accepted == 0, said
