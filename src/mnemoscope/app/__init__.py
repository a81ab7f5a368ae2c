"""The web app: `mnemoscope app [STUDY|AUDIT]`, for one machine, without any outside request.

`serve.serve_app` runs it. What a page shows is made in `result`, `pictures` and `browse`, plain
functions that give escaped HTML; `blocks` puts them on a page; `desk` lets one computation run at
a time.
"""
