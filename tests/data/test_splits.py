# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from rsvheat.data import (
    DataError,
    label_subset,
    load_split,
    save_split,
    split_groups,
    stratified_split,
)

GROUPS = [f"scene{number % 10}" for number in range(57)]
LABELS = np.array([0] * 100 + [1] * 31 + [2] * 7)


def test_no_group_is_on_both_sides():
    first, second = split_groups(GROUPS, 0.2, seed=3)
    assert sorted([*first, *second]) == list(range(57))
    sides = [{GROUPS[index] for index in part} for part in (first, second)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 2
    np.testing.assert_array_equal(second, split_groups(GROUPS, 0.2, seed=3)[1])
    others = [split_groups(GROUPS, 0.2, seed=seed)[1].tolist() for seed in range(5)]
    assert any(other != second.tolist() for other in others)


def test_groups_can_be_chosen_or_left():
    _, second = split_groups(GROUPS, 0, chosen=["scene3", "scene7"])
    assert {GROUPS[index] for index in second} == {"scene3", "scene7"}
    assert [len(part) for part in split_groups(GROUPS, 0)] == [57, 0]
    assert {GROUPS[index] for index in split_groups(GROUPS, 1e-6)[1]} != set()
    with pytest.raises(ValueError, match=r"no group 'x'; there are scene0, .* and 2 more"):
        split_groups(GROUPS, 0, chosen=["x"])
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        split_groups(GROUPS, 1)
    with pytest.raises(DataError, match="none is left for training"):
        split_groups(["a"] * 5, 0.2)


def test_each_class_has_the_same_part_in_each_set():
    sets = stratified_split(LABELS, {"val": 0.2, "test": 0.1}, seed=1)
    assert sorted(np.concatenate(list(sets.values()))) == list(range(138))
    counts = {name: np.bincount(LABELS[part]).tolist() for name, part in sets.items()}
    assert counts == {"train": [70, 22, 5], "val": [20, 6, 1], "test": [10, 3, 1]}
    again = stratified_split(LABELS, {"val": 0.2, "test": 0.1}, seed=1)
    assert all(np.array_equal(sets[name], again[name]) for name in sets)
    other = stratified_split(LABELS, {"val": 0.2, "test": 0.1}, seed=2)
    assert not np.array_equal(sets["val"], other["val"])
    for fractions in ({"val": -0.1}, {"val": 0.6, "test": 0.4}):
        with pytest.raises(ValueError, match="fractions must not be negative"):
            stratified_split(LABELS, fractions)


def test_smaller_parts_of_the_labels_are_within_larger_ones():
    before: set[int] = set()
    for fraction in (0.01, 0.05, 0.1, 0.5, 1):
        part = label_subset(LABELS, fraction, seed=4)
        assert before <= set(part.tolist())
        before = set(part.tolist())
        counts = np.bincount(LABELS[part], minlength=3)
        assert counts.tolist() == [max(1, round(fraction * n)) for n in (100, 31, 7)]
    assert label_subset(LABELS, 0.1, 0).tolist() != label_subset(LABELS, 0.1, 1).tolist()
    for fraction in (0, 1.1):
        with pytest.raises(ValueError, match="label_fraction must be"):
            label_subset(LABELS, fraction)


def test_splits_survive_their_file(tmp_path):
    path = tmp_path / "new" / "split.json"
    save_split(path, {"train": ["a/1", "b/2"], "val": ["a/3"]}, classes=["a", "b"], seed=3)
    content = load_split(path)
    assert content["sets"] == {"train": ["a/1", "b/2"], "val": ["a/3"]}
    assert (content["classes"], content["seed"]) == (["a", "b"], 3)
    for text in ("{", "[]", '{"format": "other"}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"split.json is not a split"):
            load_split(path)
