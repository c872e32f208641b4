"""``python -m extsub``."""

from extsub.cli import main

main()
