"""``python -m tinygrad_cifar``: the command line."""

from tinygrad_cifar.cli import main

if __name__ == "__main__":
    main()
