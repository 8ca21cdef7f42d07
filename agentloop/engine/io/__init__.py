"""What the engine reads and keeps on disk: checkpoints, NF4 linears, the base that these make, adapters in PEFT's format."""
