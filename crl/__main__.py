"""``python -m crl``."""

from crl.cli import main

main()
