"""Nested settings as dotted keys, and what differs between two of them."""

from preprocess.shared.settings import differences, flatten


def test_nested_settings_become_dotted_keys_in_their_order() -> None:
    tree = {"n4": {"spacing": 8.0, "levels": {"first": [50]}}, "crop": [160, 155], "names": {}}
    assert list(flatten(tree)) == [("n4.spacing", 8.0), ("n4.levels.first", [50]), ("crop", [160, 155])]
    assert list(flatten({"dtype": None}, "recipe.")) == [("recipe.dtype", None)]


def test_each_difference_is_named_with_both_values() -> None:
    before = {"n4": {"spacing": 6.0, "enabled": True}, "crop": [160]}
    assert differences(before, {"n4": {"spacing": 4.0, "enabled": True}, "crop": [160], "dtype": "float16"}, "recipe.") == [
        "recipe.dtype: None before, float16 now",
        "recipe.n4.spacing: 6.0 before, 4.0 now",
    ]
    assert differences(before, {"n4": None, "crop": [160]}) == [
        "n4.enabled: True before, None now",
        "n4.spacing: 6.0 before, None now",
    ]
    assert differences(before, before) == []
