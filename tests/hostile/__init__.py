"""What commands do when they are killed, told to stop, started twice, or the disk refuses: ``make hostile``."""
