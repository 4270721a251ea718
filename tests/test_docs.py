"""The pages: every public name has its place, every link its target; `make docs` does the rest."""

import re

import pytest
from conftest import ROOT

import vaejax

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_contents_and_no_other():
    listed = re.findall(r"^\s+- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in PAGES[1:])


def test_every_public_name_is_documented():
    page = (ROOT / "docs" / "api.md").read_text()
    shown = {*re.findall(r"\w+", " ".join(re.findall(r"members: \[(.*)\]", page)))}
    shown |= {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert {*vaejax.__all__} <= shown
    assert [name for name in vaejax.__all__ if not getattr(vaejax, name).__doc__] == []


def test_the_readme_is_no_book():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
