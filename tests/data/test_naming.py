"""Words for data sets."""

from pathlib import Path

from glm_data.naming import distinct_names


def test_data_sets_are_called_by_their_folders() -> None:
    assert distinct_names([Path("data/books"), Path("data/python-3.12")]) == ["books", "python-3.12"]
    assert distinct_names([Path("a/set"), Path("books"), Path("b/set")]) == ["1-set", "2-books", "3-set"]
    assert distinct_names([Path("a/set"), Path("b/set"), Path("1-set")]) == ["1-set", "2-set", "3-1-set"]
    assert distinct_names([Path("a b"), Path("a_b")]) == ["1-a_b", "2-a_b"]
    assert distinct_names([Path("data/my books\n[old]")]) == ["my_books__old_"]
    assert distinct_names([Path("/")]) == ["_"]
