"""A tree grown leaf by leaf is the tree, and runs of leaves may be replaced by the roots of a few subtrees."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.export.merkle import Tree, blocks
from eventstore.seals import merkle_root


def leaves(count: int) -> list[bytes]:
    return [sha256(number.to_bytes(4, "big")).digest() for number in range(count)]


@given(st.integers(1, 300))
def test_the_root_is_that_of_all_leaves_together(count: int) -> None:
    tree = Tree()
    for each in leaves(count):
        tree.add(each)
    assert tree.root == merkle_root(leaves(count))
    assert len(tree.subtrees) == count.bit_count()


@given(st.integers(1, 300), st.data())
def test_a_run_of_leaves_may_be_told_by_its_subtrees(count: int, data: st.DataObject) -> None:
    every = leaves(count)
    first = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(first + 1, count))
    run = Tree(first)
    for each in every[first:end]:
        run.add(each)
    sizes = list(blocks(first, end))
    assert sum(sizes) == end - first
    assert len(sizes) == len(run.subtrees) <= 2 * count.bit_length()
    tree = Tree()
    for each in every[:first]:
        tree.add(each)
    for digest, size in zip(run.subtrees, sizes, strict=True):
        tree.add(digest, size)
    for each in every[end:]:
        tree.add(each)
    assert tree.root == merkle_root(every)


@pytest.mark.parametrize("tree", [Tree(), Tree(3)])
def test_there_is_no_root_without_the_first_leaf(tree: Tree) -> None:
    with pytest.raises(ValueError, match="no root"):
        _ = tree.root
