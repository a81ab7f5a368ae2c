"""The store of maps under one name: `MapWriter` appends to a folder, `MapStore` opens it."""

from mnemoscope.maps.reader import MapStore
from mnemoscope.maps.writer import MapWriter

__all__ = ["MapStore", "MapWriter"]
