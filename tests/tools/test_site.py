"""A link or anchor of the site that leads nowhere is named."""

from tools.site import broken


def test_links_and_anchors_that_lead_nowhere_are_named(tmp_path):
    site, readme = tmp_path / "site", tmp_path / "README.md"
    (site / "part").mkdir(parents=True)
    (site / "index.html").write_text('<h1 id="top">x</h1> <a href="part/a.html#here">x</a>')
    links = ("../index.html#top", "#here", "a.css", "https://example.org/#no", "mailto:a@b.c")
    page = '<i id="here"></i>' + "".join(f'<a href="{link}">x</a>' for link in links)
    (site / "part" / "a.html").write_text(page)
    (site / "part" / "a.css").touch()
    readme.write_text("[x](docs/part/a.md#here) [y](LICENSE)")
    assert broken(site, readme) == []
    wrong = '<a href="../none.html">x</a><a href="../index.html#no">x</a><script src="https://x.y/z.js">'
    (site / "part" / "a.html").write_text(wrong)
    assert broken(site, readme) == [
        "index.html: part/a.html#here",
        "part/a.html: ../none.html",
        "part/a.html: ../index.html#no",
        "part/a.html: away/https://x.y/z.js",
        f"{readme}: docs/part/a.md#here",
    ]
