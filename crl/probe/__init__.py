"""What a frozen representation knows: linear probes of the true state, retrieval, rank, and pictures of it."""
