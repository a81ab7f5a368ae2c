"""The version of the package, a leaf that every module may import."""

__version__ = "0.2.0"


def page_address(page: str) -> str:
    """Where a page of the documentation stands on the web, as the package's metadata say.

    As long as these name no owner, `page` as it is: its place in the sources.
    """
    from importlib import metadata

    try:
        lines = metadata.metadata("mnemoscope").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return page
    addresses = dict(line.split(", ", 1) for line in lines)
    is_named = "/OWNER/" not in (address := addresses.get("Repository", "/OWNER/"))
    return f"{address}/blob/main/{page}" if is_named else page
