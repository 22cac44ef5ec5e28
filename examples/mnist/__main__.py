"""`python -m examples.mnist`: what goes wrong before there is a command to speak of it is said here."""

import sys

if __name__ == "__main__":
    try:
        try:
            from examples.mnist.command import main
        except (ImportError, RuntimeError, ValueError) as error:  # a backend or a setting that cannot be had
            sys.exit(f"examples.mnist: {error}")
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
