"""What a reward may be trusted with: cheats, noise, agreement with people."""
