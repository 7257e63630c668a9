"""`python -m workers.simulator`."""

from workers.simulator.command import main

if __name__ == "__main__":
    main()
