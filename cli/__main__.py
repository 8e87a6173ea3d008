"""``python -m cli`` is ``dumont``."""

from cli.main import main

if __name__ == "__main__":
    main()
