"""What a reward may be trusted with: cheats, other weights, agreement with people."""
