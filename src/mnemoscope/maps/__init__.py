"""The store of pooled attention maps: written once, read row by row ever after."""
