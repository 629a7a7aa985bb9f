"""Options that do not exist are refused, and no error shows what may be a password."""

from urllib.parse import parse_qsl

import pytest

from conveyor.core.errors import InvalidOptionError
from conveyor.store.sql import refuse_unknown


def refused(given: list[str], query: str) -> InvalidOptionError:
    with pytest.raises(InvalidOptionError) as caught:
        refuse_unknown("mine", ("size",), given, parse_qsl(query, keep_blank_values=True))
    return caught.value


def test_options_that_exist_are_taken() -> None:
    refuse_unknown("mine", ("size", "wait"), ["wait"], [("size", "1")])


@pytest.mark.parametrize(("given", "query"), [(["colour"], "size=1"), (["size"], "colour=blue")])
def test_an_option_that_does_not_exist_is_refused_by_its_name_without_its_value(
    given: list[str], query: str
) -> None:
    error = refused(given, query)

    assert error.option == "colour"
    assert "blue" not in str(error)


@pytest.mark.parametrize(
    "query", ["s3cret=@host/db", "s3cret@host/db=1", "s3cret=1&size=@host", "a-s3cret=1", "s3cret%40=1"]
)
def test_a_name_in_a_url_that_may_be_part_of_a_password_is_not_shown(query: str) -> None:
    """As in `mine://ada:1/2?s3cret=@host/db`: the password there is `1/2?s3cret=`."""
    error = refused([], query)

    assert error.option == "url"
    assert "s3cret" not in str(error)
