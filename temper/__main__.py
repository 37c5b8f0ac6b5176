"""`python -m temper`: the command line, where the command `temper` is not on the path."""

from temper.cli import main

if __name__ == "__main__":
    main()
