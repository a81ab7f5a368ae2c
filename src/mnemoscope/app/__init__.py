"""The web app: `mnemoscope app [STUDY|AUDIT]`, for one machine, without any outside request."""
