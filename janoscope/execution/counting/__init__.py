"""FLOPs of a generation: what its network calls cost, counted on copies of the networks without weights."""
