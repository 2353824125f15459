from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tappass.engine.audit import merkle

# The reference test suite of Certificate Transparency (RFC 6962): eight leaves and the root of every prefix.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def pushed(leaves):
    frontier = b""
    for size, leaf in enumerate(leaves):
        frontier = merkle.push(size, frontier, merkle.leaf_hash(leaf))
    return frontier


def test_the_tree_equals_the_published_vectors_of_rfc_6962():
    assert merkle.root(b"").hex() == EMPTY
    assert [merkle.root(pushed(LEAVES[:size])).hex() for size in range(1, 9)] == ROOTS
    assert [naive_root(LEAVES[:size]).hex() for size in range(1, 9)] == ROOTS


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_a_frontier_leads_to_the_root_of_the_definition(leaves):
    assert merkle.root(pushed(leaves)) == naive_root(leaves)
    assert merkle.subtree_root([merkle.leaf_hash(leaf) for leaf in leaves]) == naive_root(leaves)


@given(st.integers(0, 70), st.lists(st.binary(min_size=32, max_size=32), max_size=150))
def test_many_leaves_at_once_equal_one_by_one(before, digests):
    frontier = pushed([bytes([number]) for number in range(before)])
    expected = frontier
    for number, digest in enumerate(digests):
        expected = merkle.push(before + number, expected, digest)
    assert merkle.extend(before, frontier, digests) == expected


@given(st.integers(1, 64).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_an_inclusion_proof_leads_to_the_root_and_no_other_leaf_does(place):
    size, index = place
    hashes = [merkle.leaf_hash(bytes([number])) for number in range(size)]
    proof = merkle.inclusion_proof(hashes, index)
    expected = merkle.subtree_root(hashes)
    assert merkle.root_from_inclusion(hashes[index], index, size, proof) == expected
    assert merkle.root_from_inclusion(merkle.leaf_hash(b"other"), index, size, proof) != expected
    with pytest.raises(ValueError, match="too long"):
        merkle.root_from_inclusion(hashes[index], index, size, [*proof, b""])
    if proof:
        with pytest.raises(ValueError, match="too short"):
            merkle.root_from_inclusion(hashes[index], index, size, proof[:-1])


def test_there_is_no_proof_for_a_leaf_that_is_not_there():
    with pytest.raises(IndexError):
        merkle.inclusion_proof([b""], 1)
