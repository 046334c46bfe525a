"""``python -m stack.cli`` is ``stackctl``."""

from stack.cli.main import main

if __name__ == "__main__":
    main()
