"""`python -m asrtts VERB` is `asrtts VERB`."""

from asrtts.cli import main

if __name__ == "__main__":
    main()
