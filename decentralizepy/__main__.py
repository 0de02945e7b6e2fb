"""``python -m decentralizepy``."""

from decentralizepy.cli import main

if __name__ == "__main__":
    main()
