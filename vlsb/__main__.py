"""`python -m vlsb`."""

from vlsb.cli import main

if __name__ == "__main__":
    main()
