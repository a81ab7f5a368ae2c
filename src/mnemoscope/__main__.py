"""`python -m mnemoscope`: the command line, where the script is not on the path."""

from mnemoscope.cli import main

if __name__ == "__main__":
    main()
