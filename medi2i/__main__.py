"""``python -m medi2i``: the command line, also under ``torchrun -m``."""

from __future__ import annotations

from medi2i.cli import main

if __name__ == "__main__":
    main()
