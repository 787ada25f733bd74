"""``python -m platevault``."""

from platevault.cli.main import main

if __name__ == "__main__":
    main()
