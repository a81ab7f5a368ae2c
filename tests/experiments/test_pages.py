"""Pages show what the stored results of their experiments say."""

import pytest

from experiments.pages import rendered, split_page, stored


@pytest.mark.parametrize("name", stored())
def test_a_page_shows_the_stored_results(name: str) -> None:
    for page, which, text in rendered(name):
        assert split_page(page, which)[1] == text, f"{page.name}: {which}; not what {name} gives"
